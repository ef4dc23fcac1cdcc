"""One stage of one run: its report, its events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_pb2

from gateway.document.assemble import total_usage
from gateway.document.draft import Draft, Part, PartKind
from gateway.pipeline.ports import Ports
from services.common.papers import timestamp_of


class StageBroke(Exception):
    """A stage could not bring what the next ones need; the cause is the exception it raised."""


class StageFailed(Exception):
    """A stage of this run or of an earlier one failed; the draft's `failure` says why."""


@dataclass(kw_only=True, slots=True)
class StageRun:
    """A stage under way. The work reports to it; watchers hear of it."""

    report: pb.StageReport
    ports: Ports
    note: str = ""
    usage: list[usage_pb2.ModelUsage] = field(default_factory=list)

    def expect(self, total: int, done: int = 0) -> None:
        """Say how many items the stage has to do, and how many of them an earlier attempt has done."""
        self.report.total_count, self.report.done_count = total, done
        self.progress()

    def advance(self, usage: Iterable[usage_pb2.ModelUsage] = (), *, budget_reached: bool = False) -> None:
        """Count one more finished item, what it took, and whether a limit on cost kept it from more."""
        self.report.done_count += 1
        self.took(usage, budget_reached=budget_reached)
        self.progress()

    def took(self, usage: Iterable[usage_pb2.ModelUsage], *, budget_reached: bool = False) -> None:
        """Count what an item took that counts as finished elsewhere."""
        self.usage.extend(usage)
        self.report.budget_reached |= budget_reached

    def progress(self, note: str = "") -> None:
        """Tell the watchers where the stage is."""
        self.note = note
        self.ports.show(f"stage {self.report.stage}", self._progress)

    def _progress(self) -> service_pb.WatchSurveyResponse:
        done, total = self.report.done_count, self.report.total_count
        progress = service_pb.StageProgress(stage=self.report.stage, done_count=done, total_count=total, note=self.note)
        return service_pb.WatchSurveyResponse(stage_progress=progress)


@contextlib.asynccontextmanager
async def stage_run(stage: pb.Stage.ValueType, draft: Draft, ports: Ports) -> AsyncIterator[StageRun]:
    """Keep a stage's report in the draft around its work, and tell of its start and end.

    A stage that is cancelled says nothing: whoever cancelled the survey did, or it goes on elsewhere.

    Raises:
        StageBroke: the work raised; cancellation passes through as it is.
    """
    report = _begun(stage, draft)
    run = StageRun(report=report, ports=ports)
    started = service_pb.StageStarted(stage=stage, attempt=report.attempt)
    ports.emit(service_pb.WatchSurveyResponse(stage_started=started), _part(report))
    try:
        yield run
    except asyncio.CancelledError:
        report.usage.extend(total_usage(run.usage))
        raise
    except Exception as error:
        _end(run, pb.STAGE_STATE_FAILED)
        raise StageBroke from error
    else:
        _end(run, pb.STAGE_STATE_DONE)


def _begun(stage: pb.Stage.ValueType, draft: Draft) -> pb.StageReport:
    """Return the report of a stage that begins; one that had begun before keeps the moment of its start."""
    before = draft.reports.get(stage)
    report = pb.StageReport(
        stage=stage,
        state=pb.STAGE_STATE_RUNNING,
        started_at=before.started_at if before and before.HasField("started_at") else timestamp_of(datetime.now(UTC)),
        attempt=before.attempt + 1 if before else 1,
    )
    draft.reports[stage] = report
    return report


def _end(run: StageRun, state: pb.StageState.ValueType) -> None:
    report = run.report
    report.state = state
    report.finished_at.CopyFrom(timestamp_of(datetime.now(UTC)))
    report.duration_ms = max(0, report.finished_at.ToMilliseconds() - report.started_at.ToMilliseconds())
    report.usage.extend(total_usage(run.usage))
    run.ports.emit(
        service_pb.WatchSurveyResponse(stage_finished=service_pb.StageFinished(report=report)), _part(report)
    )


def _part(report: pb.StageReport) -> Part:
    return Part(kind=PartKind.REPORT, place=str(report.stage), payload=report.SerializeToString())
