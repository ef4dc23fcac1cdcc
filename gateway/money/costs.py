"""The last word on what a survey cost: the ledgers know of calls whose answers never came back to the pipeline."""

import asyncio
from collections.abc import Iterable

import grpc
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2

from gateway.document.assemble import Draft, total_usage
from gateway.pipeline.stage_run import name_of
from gateway.services import Services
from services.common.paid.caller import DEFAULT_TENANT
from services.common.paid.settings import BUILTIN

CALL_TIMEOUT_S = 10
POLL_S = 1.0
SETTLING_POLLS = 120
"""How long to look for calls that were under way when a survey ended: they are paid for, answered or not."""
LOCAL_ENCODERS = ("wordllama:", "fastembed:")
_COUNTS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nano_usd",
)


def may_cost(draft: Draft) -> bool:
    """Return whether any stage may have called a paid model."""
    models = draft.spec.models
    named = {models.plan, models.summarize, models.write, models.frame}
    has_remote_encoder = bool(draft.encoder) and not draft.encoder.startswith(LOCAL_ENCODERS)
    return named != {BUILTIN} or has_remote_encoder


async def settle(draft: Draft, services: Services) -> bool:
    """Add to the stages' usage what the ledgers hold beyond it; return whether no call is under way any more."""
    try:
        calls = await _recorded(draft.survey_id, services)
    except grpc.aio.AioRpcError:
        return False  # what the pipeline saw stands
    for stage, report in draft.reports.items():
        name = name_of(pb.Stage.ValueType(stage))
        _add_missing(report, [call.usage for call in calls if call.stage == name and _may_have_cost(call)])
    return all(call.outcome != usage_pb2.CALL_OUTCOME_IN_FLIGHT for call in calls)


async def settle_later(draft: Draft, services: Services) -> None:
    """Settle until no call is under way, or for two minutes."""
    for _ in range(SETTLING_POLLS):
        if await settle(draft, services):
            return
        await asyncio.sleep(POLL_S)


async def _recorded(survey_id: str, services: Services) -> list[usage_pb2.RecordedCall]:
    found: list[usage_pb2.RecordedCall] = []
    request = generation_pb.ListCallsRequest(tenant=DEFAULT_TENANT, survey_id=survey_id)
    while True:
        page = await services.generation.ListCalls(request, timeout=CALL_TIMEOUT_S)
        found += page.calls
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    encoders = embedding_pb.ListEncoderCallsRequest(tenant=DEFAULT_TENANT, survey_id=survey_id)
    while True:
        more = await services.embedding.ListEncoderCalls(encoders, timeout=CALL_TIMEOUT_S)
        found += more.calls
        if not more.next_page_token:
            return found
        encoders.page_token = more.next_page_token


def _may_have_cost(call: usage_pb2.RecordedCall) -> bool:
    """Return whether a call is part of the bill: one that brought no answer and took no tokens is not."""
    is_failed = call.outcome == usage_pb2.CALL_OUTCOME_FAILED
    return not is_failed or bool(call.usage.input_tokens or call.usage.output_tokens)


def _add_missing(report: pb.StageReport, recorded: Iterable[usage_pb2.ModelUsage]) -> None:
    """Raise each model's row to what the ledger holds for it; a row that holds more, by replays, stays."""
    known = {usage.model: usage for usage in report.usage}
    for total in total_usage(recorded):
        if total.model not in known:
            report.usage.add().CopyFrom(total)
            continue
        mine = known[total.model]
        if mine.HasField("cost_nano_usd") and not total.HasField("cost_nano_usd"):
            mine.ClearField("cost_nano_usd")
        for name in _COUNTS:
            if getattr(total, name) > getattr(mine, name):
                setattr(mine, name, getattr(total, name))
        mine.call_count = max(mine.call_count, total.call_count)
