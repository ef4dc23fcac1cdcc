"""The last word on what a survey cost: the ledgers know of calls whose answers never came back to the pipeline."""

from collections.abc import Iterable

import grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2

from gateway.document.assemble import total_usage
from gateway.document.draft import Draft
from gateway.document.stages import stage_of
from gateway.money.ledgers import cost_of, recorded_calls
from gateway.money.worst import WRITING_STAGES, is_remote
from gateway.services import Services
from services.common.paid.settings import BUILTIN

_COUNTS = (
    "call_count",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)


def may_cost(draft: Draft) -> bool:
    """Return whether any stage may have called a paid model."""
    named = {getattr(draft.spec.models, stage) for stage in WRITING_STAGES}
    encoder = draft.vectors.encoder if draft.vectors else draft.spec.models.embed
    search = draft.reports.get(pb.STAGE_RETRIEVE, pb.StageReport())
    return named != {BUILTIN} or is_remote(encoder) or any(is_remote(usage.model) for usage in search.usage)


async def settle(draft: Draft, services: Services, tenant: str) -> bool:
    """Bring the stages' usage to what the ledgers hold; return whether no call is under way any more.

    A call whose cost nobody knows, because it is under way, timed out or was lost, counts at its worst case, which is
    marked as an estimate. Repeating it is free.
    """
    try:
        calls = await recorded_calls(services, tenant, draft.survey_id)
    except grpc.aio.AioRpcError:
        return False  # what the pipeline saw stands
    billed = [call for call in calls if _is_billed(call)]
    for stage in {*draft.reports, *filter(None, (stage_of(call.stage) for call in billed))}:
        # A run that was cut off may have called models for a stage whose report it could not keep any more.
        report = draft.reports.setdefault(stage, _begun(pb.Stage.ValueType(stage)))
        _correct(report, [_usage_of(call) for call in billed if stage_of(call.stage) == stage])
    return all(call.outcome != usage_pb2.CALL_OUTCOME_IN_FLIGHT for call in calls)


def _begun(stage: pb.Stage.ValueType) -> pb.StageReport:
    return pb.StageReport(stage=stage, state=pb.STAGE_STATE_RUNNING, attempt=1)


def _is_billed(call: usage_pb2.RecordedCall) -> bool:
    """Return whether a call is part of the bill: one that failed and took nothing is not."""
    is_failed = call.outcome == usage_pb2.CALL_OUTCOME_FAILED
    return not is_failed or bool(call.usage.input_tokens or call.usage.output_tokens or cost_of(call))


def _usage_of(call: usage_pb2.RecordedCall) -> usage_pb2.ModelUsage:
    if call.usage.HasField("cost_nano_usd") or not call.HasField("worst_cost_nano_usd"):
        return call.usage
    usage = usage_pb2.ModelUsage()
    usage.CopyFrom(call.usage)
    usage.cost_nano_usd, usage.source = call.worst_cost_nano_usd, usage_pb2.USAGE_SOURCE_ESTIMATED
    return usage


def _correct(report: pb.StageReport, recorded: Iterable[usage_pb2.ModelUsage]) -> None:
    """Give each model's row the cost that the ledgers hold for it.

    Calls and tokens of a row stay where they are more: those of answers that others paid for count in them.
    """
    known = {usage.model: usage for usage in report.usage}
    for total in total_usage(recorded):
        if total.model not in known:
            report.usage.add().CopyFrom(total)
            continue
        mine = known[total.model]
        for name in _COUNTS:
            setattr(mine, name, max(getattr(mine, name), getattr(total, name)))
        mine.source = total.source
        if total.HasField("cost_nano_usd"):
            mine.cost_nano_usd = total.cost_nano_usd
        else:
            mine.ClearField("cost_nano_usd")
