"""The local index as a source: papers that hold all words of a term and, when those are few, others near to it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from paperroute.v1 import usage_pb2

from services.common.errors import NotReady
from services.common.papers import Paper
from services.retrieval.index_file import IndexFacts, IndexFile, IndexLimits, IndexView, Numbers
from services.retrieval.index_schema import check_support
from services.retrieval.index_vectors import NO_VECTOR, QueryVector, QueryVectors
from services.retrieval.sources import NO_LIMITS, CapBy, Limits, Page, Step

if TYPE_CHECKING:
    from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

ENOUGH_HITS = 40
"""With fewer papers that hold all words, papers that hold some of them or are near are given after them."""
RANK_OFFSET = 60
"""The constant of reciprocal rank fusion. Source: Cormack, Clarke and Büttcher, SIGIR 2009, k = 60."""

Vector = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexQuery:
    """What is looked for."""

    term: str
    """Holds at least one word."""
    max_results: int
    is_newest_first: bool
    """Whether the newest of the papers that hold all words are wanted; otherwise those nearest to the term."""
    limits: IndexLimits
    call: usage_pb2.CallContext | None = None
    """For whom the vector of the term is made, and what it may cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexAnswer:
    """What the index gives for a term."""

    papers: tuple[Paper, ...]
    hit_count: int
    """How many of them hold all words of the term; they come first."""
    all_hit_count: int
    """How many the index has of those, within the limits."""
    is_by_similarity: bool
    """Whether vectors took part; otherwise dates and BM25 alone made the order."""
    usage: tuple[usage_pb2.ModelUsage, ...]
    """What the vector of the term took; empty when it was kept from an earlier search."""
    facts: IndexFacts


class IndexSource:
    """Answers from the index at a path; a replaced one is noticed at the next search."""

    def __init__(self, path: Path, embedding: "pb_grpc.EmbeddingServiceAsyncStub | None") -> None:
        """Name the index, which is opened by the first search.

        Args:
            path: the file.
            embedding: makes vectors of search terms; without it dates and BM25 make the order.
        """
        try:
            check_support()
        except NotReady as error:  # the other sources work without; a search of the index says it again
            logger.warning("%s", error.message)
        self._index = IndexFile(path)
        self._query_vectors = QueryVectors(embedding) if embedding else None

    def newest_at(self) -> datetime:
        """Return the moment of the newest record, UTC; the first call opens the index, which may take a second.

        Raises:
            NotReady: there is no index, or it cannot be read.
        """
        return self._index.facts().newest_at

    async def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float, limits: Limits = NO_LIMITS
    ) -> AsyncGenerator[Step]:
        """Yield one page, ranked as `search` says.

        Raises:
            NotReady: there is no index, or it cannot be read.
        """
        del deadline  # an answer takes milliseconds
        query = IndexQuery(
            term=search_term,
            max_results=max_results,
            is_newest_first=limits.cap_by is CapBy.NEWEST,
            limits=IndexLimits(
                published_from=limits.published_from.date() if limits.published_from else None,
                published_by=as_of,
                categories=limits.categories,
            ),
            call=limits.call,
        )
        answer = await self.search(query)
        yield Page(
            papers=answer.papers,
            expected_count=len(answer.papers),
            answered_at=answer.facts.newest_at,
            usage=answer.usage,
        )

    async def search(self, query: IndexQuery) -> IndexAnswer:
        """Return the papers that hold all words of the term, the newest or the nearest first.

        When they are fewer than 40, others follow that hold some of the words or are near to the term.

        Raises:
            NotReady: there is no index, or it cannot be read.
        """
        made = await self._vector(query)
        return await asyncio.to_thread(self._index.use, lambda view: _answer(view, query, made))

    async def close(self) -> None:
        """Close the file."""
        await asyncio.to_thread(self._index.close)

    async def _vector(self, query: IndexQuery) -> QueryVector:
        if self._query_vectors is None:
            return NO_VECTOR
        encoder = await asyncio.to_thread(self._index.use, lambda view: _encoder_needed(view, query))
        return NO_VECTOR if encoder is None else await self._query_vectors.vector(query.term, encoder, query.call)


def _encoder_needed(view: IndexView, query: IndexQuery) -> str | None:
    """Return the encoder of the index; None when no vector is needed to rank what it holds."""
    has_enough = query.is_newest_first and len(view.holding_all_words(query.term, query.limits)) >= ENOUGH_HITS
    return None if has_enough or not view.facts.record_count else view.facts.encoder


def _answer(view: IndexView, query: IndexQuery, made: QueryVector) -> IndexAnswer:
    vector = made.vector
    if vector is not None and len(vector) != view.facts.dimension:
        vector = None  # the index was replaced by one of another encoder in between
    hits = view.holding_all_words(query.term, query.limits)
    is_by_date = query.is_newest_first
    ranked = view.newest_first(hits) if is_by_date or vector is None else view.by_similarity(hits, vector)
    if len(hits) < min(ENOUGH_HITS, query.max_results):
        ranked = np.concatenate([ranked, _others(view, query, vector, hits)])
    numbers = ranked[: query.max_results]
    return IndexAnswer(
        papers=tuple(view.papers(numbers)),
        hit_count=min(len(hits), query.max_results),
        all_hit_count=len(hits),
        is_by_similarity=vector is not None,
        usage=made.usage,
        facts=view.facts,
    )


def _others(view: IndexView, query: IndexQuery, vector: Vector | None, hits: Numbers) -> Numbers:
    """Return papers that hold some of the words or are near to the term, best first, without the hits."""
    enough = query.max_results + len(hits)
    rankings = [view.best_matches(query.term, query.limits)[:enough]]
    if vector is not None:
        rankings.append(view.nearest(vector, query.limits, enough))
    fused = fused_ranking(rankings)
    return fused[~np.isin(fused, hits)]


def fused_ranking(rankings: Sequence[Numbers]) -> Numbers:
    """Return all papers of the rankings by reciprocal rank fusion, best first; of equals the lower number first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking.tolist(), start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (RANK_OFFSET + rank)
    best = sorted(scores, key=lambda number: (-scores[number], number))
    return np.array(best, dtype=np.int64)
