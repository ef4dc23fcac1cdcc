"""What the ledgers of generation and embedding hold of a survey: the truth about its cost."""

import asyncio
from collections.abc import Sequence

from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import usage_pb2

from gateway.services import Services

CALL_TIMEOUT_S = 10
PAGE_SIZE = 1_000


async def recorded_calls(services: Services, tenant: str, survey_id: str) -> list[usage_pb2.RecordedCall]:
    """Return all calls that a survey paid for, or may have to.

    Raises:
        grpc.aio.AioRpcError: a service that keeps a ledger does not answer.
    """
    found = await asyncio.gather(_of_text(services, tenant, survey_id), _of_vectors(services, tenant, survey_id))
    return [call for calls in found for call in calls]


def cost_of(call: usage_pb2.RecordedCall) -> int:
    """Return what a call counts as in a budget: its cost, and its worst case as long as nobody knows that."""
    return call.usage.cost_nano_usd if call.usage.HasField("cost_nano_usd") else call.worst_cost_nano_usd


async def _of_text(services: Services, tenant: str, survey_id: str) -> Sequence[usage_pb2.RecordedCall]:
    found: list[usage_pb2.RecordedCall] = []
    request = generation_pb.ListCallsRequest(tenant=tenant, survey_id=survey_id, page_size=PAGE_SIZE)
    while True:
        page = await services.generation.ListCalls(request, timeout=CALL_TIMEOUT_S)
        found += page.calls
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def _of_vectors(services: Services, tenant: str, survey_id: str) -> Sequence[usage_pb2.RecordedCall]:
    found: list[usage_pb2.RecordedCall] = []
    request = embedding_pb.ListEncoderCallsRequest(tenant=tenant, survey_id=survey_id, page_size=PAGE_SIZE)
    while True:
        page = await services.embedding.ListEncoderCalls(request, timeout=CALL_TIMEOUT_S)
        found += page.calls
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token
