"""Vectors for the index from EmbeddingService, and how they are kept: float16, half the size, ranks hardly changed."""

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import numpy as np
from numpy.typing import NDArray
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import usage_pb2

from services.common.errors import BudgetReached, Unpriced, UpstreamFailed, reason_in
from services.common.papers import Paper, message_of
from services.common.vectors import vectors_of

if TYPE_CHECKING:
    from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

KEPT = np.dtype("<f2")
EMBED_TIMEOUT_S = 120.0
"""Longest one batch of papers may take, in seconds."""
QUERY_TIMEOUT_S = 5.0
"""Longest a search waits for the vector of its words, in seconds; without it the newest papers come first."""
MAX_KEPT_QUERIES = 1_000
PAUSE_S = 30.0
"""How long a service that did not answer is not asked again, so that not each term of a search waits for it."""
_OF_ONE_CALLER = {BudgetReached.reason, Unpriced.reason}
"""Why a caller is refused a vector that others are given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """The vectors of some texts."""

    encoder: str
    """Who made them, "provider:model"."""
    vectors: NDArray[np.float32]
    """Shape (n, dimension), rows of L2 norm 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryVector:
    """The vector of a search term."""

    vector: NDArray[np.float32] | None
    """Shape (dimension,), L2 norm 1; None when there is none."""
    usage: tuple[usage_pb2.ModelUsage, ...] = ()
    """What it took; empty when it was kept."""


NO_VECTOR = QueryVector(vector=None)


async def embedded(stub: "pb_grpc.EmbeddingServiceAsyncStub", papers: Sequence[Paper]) -> Embedded:
    """Return the vectors of 1 to 500 papers, `paper_id` unique among them.

    Only what is encoded is sent, so that the service has no authors and comments to keep.

    Raises:
        UpstreamFailed: the service does not answer.
    """
    bare = [
        Paper(paper_id=each.paper_id, title=each.title, abstract=each.abstract, published_at=each.published_at)
        for each in papers
    ]
    request = pb.EmbedPapersRequest(papers=map(message_of, bare))
    try:
        answer = await stub.EmbedPapers(request, timeout=EMBED_TIMEOUT_S)
    except grpc.aio.AioRpcError as failure:
        problem = failure.details() or failure.code().name
        raise UpstreamFailed("the embedding service", problem) from failure
    return Embedded(encoder=answer.encoder, vectors=vectors_of(answer.vectors, answer.dimension))


class QueryVectors:
    """The vectors of search terms, each asked for once."""

    def __init__(self, stub: "pb_grpc.EmbeddingServiceAsyncStub") -> None:
        self._stub = stub
        self._kept: OrderedDict[tuple[str, str], NDArray[np.float32]] = OrderedDict()
        self._ask_again_at = 0.0

    async def vector(self, text: str, encoder: str, call: usage_pb2.CallContext | None = None) -> QueryVector:
        """Return the vector of a search term; none when the service does not give one by that encoder.

        Args:
            text: at most 4,000 characters.
            encoder: "provider:model" of the vectors to compare it with.
            call: for whom it is made, and what it may cost.
        """
        key = (encoder, text)
        if key in self._kept:
            return QueryVector(vector=self._kept[key])
        if time.monotonic() < self._ask_again_at:
            return NO_VECTOR
        request = pb.EmbedTextsRequest(call=call, encoder=encoder, texts=[text], stage="retrieve")
        try:
            answer = await self._stub.EmbedTexts(request, timeout=QUERY_TIMEOUT_S)
        except grpc.aio.AioRpcError as failure:
            if reason_in(failure) not in _OF_ONE_CALLER:
                self._ask_again_at = time.monotonic() + PAUSE_S
            logger.warning("a search is ranked by date, its vector is missing: %s", failure.details())
            return NO_VECTOR
        vector = self._kept[key] = vectors_of(answer.vectors, answer.dimension)[0]
        if len(self._kept) > MAX_KEPT_QUERIES:
            self._kept.popitem(last=False)
        return QueryVector(vector=vector, usage=tuple(answer.usage))
