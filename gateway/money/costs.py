"""The last word on what a survey cost: the ledgers know of calls whose answers never came back to the pipeline."""

from collections import defaultdict
from collections.abc import Iterable

import grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2

from gateway.document.assemble import SERVED_COUNTS, total_usage
from gateway.document.draft import Draft
from gateway.document.stages import stage_of
from gateway.money.ledgers import cost_of, recorded_calls
from gateway.money.worst import WRITING_STAGES, is_remote
from gateway.services import Services
from services.common.paid.settings import BUILTIN


def may_cost(draft: Draft) -> bool:
    """Return whether any stage may have called a paid model."""
    named = {getattr(draft.spec.models, stage) for stage in WRITING_STAGES}
    encoder = draft.vectors.encoder if draft.vectors else draft.spec.models.embed
    search = draft.reports.get(pb.STAGE_RETRIEVE, pb.StageReport())
    return named != {BUILTIN} or is_remote(encoder) or any(is_remote(usage.model) for usage in search.usage)


async def settle(draft: Draft, services: Services, tenant: str) -> bool:
    """Set the stages' usage to what the ledgers hold; return whether no call is under way any more.

    Each row of a model that the ledgers know is exactly theirs afterwards; what the ledgers served instead of calls is
    what the services told. A call whose cost nobody knows, because it is under way, timed out or was lost, counts at
    its worst case, which is marked as an estimate. Repeating it is free.
    """
    try:
        calls = await recorded_calls(services, tenant, draft.survey_id)
    except grpc.aio.AioRpcError:
        return False  # what the pipeline saw stands
    by_stage: dict[pb.Stage.ValueType, list[usage_pb2.RecordedCall]] = defaultdict(list)
    for call in calls:
        if stage := stage_of(call.stage):
            by_stage[stage].append(call)
    for stage, made in by_stage.items():
        # A run that was cut off may have called models for a stage whose report it could not keep any more.
        if stage in draft.reports or any(map(_is_billed, made)):
            _correct(draft.reports.setdefault(stage, _begun(stage)), made)
    return all(call.outcome != usage_pb2.CALL_OUTCOME_IN_FLIGHT for call in calls)


def _begun(stage: pb.Stage.ValueType) -> pb.StageReport:
    return pb.StageReport(stage=stage, state=pb.STAGE_STATE_RUNNING, attempt=1)


def _is_billed(call: usage_pb2.RecordedCall) -> bool:
    """Return whether a call is part of the bill: one that failed and took nothing is not."""
    is_failed = call.outcome == usage_pb2.CALL_OUTCOME_FAILED
    return not is_failed or bool(call.usage.input_tokens or call.usage.output_tokens or cost_of(call))


def _usage_of(call: usage_pb2.RecordedCall) -> usage_pb2.ModelUsage:
    usage = usage_pb2.ModelUsage()
    usage.CopyFrom(call.usage)
    if not usage.HasField("cost_nano_usd") and call.HasField("worst_cost_nano_usd"):
        usage.cost_nano_usd, usage.source = call.worst_cost_nano_usd, usage_pb2.USAGE_SOURCE_ESTIMATED
    return usage


def _correct(report: pb.StageReport, calls: Iterable[usage_pb2.RecordedCall]) -> None:
    """Set the row of each model that was called to what the ledgers bill for it; none is left that holds nothing."""
    rows = {usage.model: usage for usage in report.usage}
    billed: dict[str, list[usage_pb2.ModelUsage]] = defaultdict(list)
    for call in calls:
        billed[call.usage.model] += [_usage_of(call)] if _is_billed(call) else []
    for model, usages in billed.items():
        row = usage_pb2.ModelUsage(model=model, cost_nano_usd=0)
        for total in total_usage(usages):
            row.CopyFrom(total)
        told = rows.pop(model, usage_pb2.ModelUsage())
        for name in SERVED_COUNTS:
            setattr(row, name, getattr(told, name))
        if usages or any(getattr(row, name) for name in SERVED_COUNTS):
            rows[model] = row
    del report.usage[:]
    report.usage.extend(total_usage(rows.values()))
