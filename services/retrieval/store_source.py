"""Papers near a search term among all that earlier surveys embedded: what is left when nobody else answers."""

from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING

import grpc
from paperroute.v1 import embedding_service_pb2 as pb

from services.common.deadlines import Deadline
from services.common.errors import BudgetReached, NotReady, UpstreamFailed, reason_in
from services.common.papers import paper_of, timestamp_of
from services.retrieval.sources import NO_LIMITS, Limits, Page, SourceName, Step, Waiting

if TYPE_CHECKING:
    from paperroute.v1.embedding_service_pb2_grpc import EmbeddingServiceAsyncStub

NAME = "the store of embedded papers"
MAX_PAPERS = 500
TIMEOUT_S = 30.0


class StoreSource:
    """Asks the embedding service."""

    def __init__(self, stub: "EmbeddingServiceAsyncStub") -> None:
        self._stub = stub

    async def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float, limits: Limits = NO_LIMITS
    ) -> AsyncGenerator[Step]:
        """Yield one page: the nearest papers, nearest first.

        Raises:
            UpstreamFailed: the embedding service does not answer.
            NotReady: its encoder or its store cannot be opened.
            BudgetReached: the vector of the term could cost more than it may.
        """
        yield Waiting(waiting_for=NAME)
        after_as_of = min(as_of, date.max - timedelta(days=1)) + timedelta(days=1)
        request = pb.FindPapersRequest(
            call=limits.call,
            text=search_term,
            max_papers=min(max_results, MAX_PAPERS),
            published_before=timestamp_of(datetime.combine(after_as_of, time_of_day(), UTC)),
            categories=limits.categories,
        )
        if limits.published_from:
            request.published_from.CopyFrom(timestamp_of(limits.published_from))
        try:
            response = await self._stub.FindPapers(request, timeout=Deadline(deadline).timeout_s(TIMEOUT_S))
        except grpc.aio.AioRpcError as failure:
            raise _error_of(failure, request.call.max_cost_nano_usd) from failure
        papers = [paper_of(found.paper) for found in response.papers]
        yield Page(
            papers=papers,
            expected_count=len(papers),
            answered_at=datetime.now(UTC),
            source=SourceName.STORE,
            usage=tuple(response.usage),
        )


def _error_of(failure: grpc.aio.AioRpcError, max_cost_nano_usd: int) -> Exception:
    if reason_in(failure) == BudgetReached.reason:
        return BudgetReached(max_cost_nano_usd)
    if failure.code() is grpc.StatusCode.FAILED_PRECONDITION:
        return NotReady(NAME, failure.details() or "it cannot be opened")
    if failure.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return UpstreamFailed(NAME, "the embedding service does not answer", retry_after_s=1)
    return failure
