"""Vectors of texts, as the embedding service makes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import usage_pb2

from services.common.errors import BudgetReached, UpstreamFailed, reason_in
from services.common.paid.caller import Caller
from services.common.paid.usage import Usage

if TYPE_CHECKING:  # numpy: a role that makes no plan of several candidates does without it
    import numpy as np
    from numpy.typing import NDArray
    from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

TIMEOUT_S = 20.0
"""A remote encoder answers a few short texts in well under a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextVectors:
    """Vectors of texts and what they took."""

    vectors: "NDArray[np.float32]"
    """Shape (n, d), each row with L2 norm 1."""
    usage: tuple[Usage, ...]


class EmbeddedTexts:
    """Asks EmbeddingService.EmbedTexts."""

    def __init__(self, stub: "pb_grpc.EmbeddingServiceAsyncStub") -> None:
        self._stub = stub

    async def embed_texts(self, texts: Sequence[str], caller: Caller) -> TextVectors:
        """Return a vector for each text, paid from the caller's purse: all that is left in it may be spent.

        Raises:
            UpstreamFailed: the service cannot or may not make them.
        """
        from services.common.vectors import WIRE, vectors_of

        purse, left = caller.purse, caller.purse.left_nano_usd
        purse.settle(0, left or 0)  # until it is known what it took
        call = usage_pb2.CallContext(
            tenant=caller.tenant,
            survey_id=caller.survey_id,
            max_cost_nano_usd=left,
            call_scope=usage_pb2.CALL_SCOPE_TENANT,
            cache_off=caller.cache_off,
        )
        request = pb.EmbedTextsRequest(call=call, texts=texts)
        try:
            response = await self._stub.EmbedTexts(request, timeout=caller.deadline.timeout_s(TIMEOUT_S))
        except grpc.aio.AioRpcError as failure:
            reason = reason_in(failure)
            purse.is_reached |= reason == BudgetReached.reason
            raise UpstreamFailed("embedding", reason) from failure
        usage = tuple(map(_usage_of, response.usage))
        if left is not None:
            purse.settle(left, sum(each.cost_nano_usd or 0 for each in usage))
        wanted = len(texts) * response.dimension * WIRE.itemsize
        if not wanted or response.count != len(texts) or len(response.vectors) != wanted:
            raise UpstreamFailed("embedding", f"{len(texts)} vectors wanted, not {response.count}")
        return TextVectors(vectors=vectors_of(response.vectors, response.dimension), usage=usage)


def _usage_of(message: usage_pb2.ModelUsage) -> Usage:
    return Usage(
        model=message.model,
        call_count=message.call_count,
        input_tokens=message.input_tokens,
        cached_input_tokens=message.cached_input_tokens,
        cache_write_tokens=message.cache_write_tokens,
        output_tokens=message.output_tokens,
        reasoning_tokens=message.reasoning_tokens,
        cost_nano_usd=message.cost_nano_usd if message.HasField("cost_nano_usd") else None,
        avoided_cost_nano_usd=message.avoided_cost_nano_usd,
        served_call_count=message.served_call_count,
        served_input_tokens=message.served_input_tokens,
        served_output_tokens=message.served_output_tokens,
        is_estimated=message.source == usage_pb2.USAGE_SOURCE_ESTIMATED,
    )
