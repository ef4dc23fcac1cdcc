"""Serves RetrievalService: reads the request, runs the search, writes what it yields."""

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime

import grpc
from opentelemetry import trace
from opentelemetry.util.types import AttributeValue
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc

from services.common.telemetry import names
from services.retrieval import convert
from services.retrieval.search import SearchOutcome, search_papers
from services.retrieval.sources import Source, SourceName


class RetrievalService(pb_grpc.RetrievalServiceServicer):
    """Answers from the sources it is given."""

    def __init__(self, sources: Mapping[SourceName, Source], *, max_results_per_term: int) -> None:
        self._sources = sources
        self._max_results_per_term = max_results_per_term

    async def SearchPapers(
        self,
        request: pb.SearchPapersRequest,
        context: grpc.aio.ServicerContext[pb.SearchPapersRequest, pb.SearchPapersResponse],
    ) -> AsyncGenerator[pb.SearchPapersResponse]:
        """Look the terms up and filter what they bring.

        A first message goes out before the source is asked. It tells the channel that the call has begun, so that it
        does not repeat a search that arXiv has just refused.
        """
        search = convert.search_of(
            request, today=datetime.now(UTC).date(), max_results_per_term=self._max_results_per_term
        )
        left_s = context.time_remaining()
        deadline = math.inf if left_s is None else time.monotonic() + left_s
        events = search_papers(search, self._sources[search.source], deadline=deadline)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, SearchOutcome):
                    trace.get_current_span().set_attributes(_attributes_of(event))
                    yield convert.result_of(event, search)
                else:
                    yield convert.progress_of(event)


def _attributes_of(outcome: SearchOutcome) -> Mapping[str, AttributeValue]:
    """Return what the span of a search tells of it; its terms are a caller's words and stay out."""
    terms = outcome.terms
    return {
        names.SOURCE: ",".join(dict.fromkeys(term.source.name.lower() for term in terms)),
        names.PAPER_COUNT: len(outcome.papers),
        names.FOUND_COUNTS: [term.found_count for term in terms],
        names.KEPT_COUNTS: [term.kept_count for term in terms],
        names.CACHED_COUNT: sum(term.is_cached for term in terms),
        names.STALE_COUNT: sum(term.is_stale for term in terms),
    }
