"""What a survey paid for: what the provider was asked against what the ledgers hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import generation_service_pb2_grpc as generation_grpc
from paperroute.v1 import usage_pb2

from services.common.channel import open_channel

TENANT = "default"
MAX_CALLS = 1_000
ANSWERED = 200
Request = dict[str, Any]
"""As `ProviderProcess.requests` returns it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Payments:
    """The requests of one survey."""

    request_count: int
    recorded_count: int
    """Whose answers are in a ledger."""
    unrecorded_count: int
    """Whose answers were lost: the service died while it waited for them, or before it could record them."""
    paid_twice_count: int
    """Requests for what had been recorded before."""
    lost_row_count: int
    """Calls of which the ledgers say that their process died."""


def payments_of(requests: Sequence[Request], rows: Sequence[usage_pb2.RecordedCall]) -> Payments:
    """Return what became of a survey's requests.

    Args:
        requests: in the order in which the provider got them.
        rows: the survey's calls in all ledgers.
    """
    answers = {row.response_id for row in rows if row.outcome == usage_pb2.CALL_OUTCOME_OK}
    recorded: set[str] = set()
    counts = {"recorded": 0, "unrecorded": 0, "twice": 0}
    for request in requests:
        counts["twice"] += request["digest"] in recorded
        if _is_recorded(request, answers):
            counts["recorded"] += 1
            recorded.add(request["digest"])
        else:
            counts["unrecorded"] += 1
    return Payments(
        request_count=len(requests),
        recorded_count=counts["recorded"],
        unrecorded_count=counts["unrecorded"],
        paid_twice_count=counts["twice"],
        lost_row_count=sum(row.outcome == usage_pb2.CALL_OUTCOME_LOST for row in rows),
    )


async def recorded_calls(generation: str, embedding: str, survey_id: str) -> list[usage_pb2.RecordedCall]:
    """Return what the ledgers of the services at two addresses hold of a survey."""
    async with open_channel(generation) as writers, open_channel(embedding) as encoders:
        written = await generation_grpc.GenerationServiceStub(writers).ListCalls(
            generation_pb.ListCallsRequest(tenant=TENANT, survey_id=survey_id, page_size=MAX_CALLS),
            timeout=20,
            wait_for_ready=True,
        )
        encoded = await embedding_grpc.EmbeddingServiceStub(encoders).ListEncoderCalls(
            embedding_pb.ListEncoderCallsRequest(tenant=TENANT, survey_id=survey_id, page_size=MAX_CALLS),
            timeout=20,
            wait_for_ready=True,
        )
        return [*written.calls, *encoded.calls]


def _is_recorded(request: Request, answers: set[str]) -> bool:
    answer_id = request["answer_id"]
    return request["status"] == ANSWERED and bool(answer_id) and any(each.endswith(answer_id) for each in answers)
