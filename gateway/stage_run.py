"""One stage of one run: its span, its report, its events."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_pb2

from gateway.assemble import total_usage
from services.common import telemetry
from services.common.papers import timestamp_of

Emit = Callable[[service_pb.WatchSurveyResponse], None]


class StageFailed(Exception):
    """A stage could not bring what the next ones need; the cause is the exception it raised."""

    def __init__(self, stage: pb.Stage.ValueType, cause: BaseException) -> None:
        super().__init__(name_of(stage))
        self.stage = stage
        self.cause = cause


def name_of(stage: pb.Stage.ValueType) -> str:
    """Return the name of a stage as spans, tables and pages show it: "retrieve"."""
    return pb.Stage.Name(stage).removeprefix("STAGE_").lower()


@dataclass(kw_only=True, slots=True)
class StageRun:
    """A stage under way. The work reports to it; watchers hear of it."""

    report: pb.StageReport
    emit: Emit
    usage: list[usage_pb2.ModelUsage] = field(default_factory=list)

    def expect(self, total: int) -> None:
        """Say how many items the stage has to do."""
        self.report.total_count = total
        self.progress()

    def advance(self, usage: Iterable[usage_pb2.ModelUsage] = ()) -> None:
        """Count one more finished item and what it took."""
        self.usage.extend(usage)
        self.report.done_count += 1
        self.progress()

    def progress(self, note: str = "") -> None:
        """Tell the watchers where the stage is."""
        done, total = self.report.done_count, self.report.total_count
        progress = service_pb.StageProgress(stage=self.report.stage, done_count=done, total_count=total, note=note)
        self.emit(service_pb.WatchSurveyResponse(stage_progress=progress))


@contextlib.asynccontextmanager
async def stage_run(
    stage: pb.Stage.ValueType, reports: dict[int, pb.StageReport], emit: Emit
) -> AsyncIterator[StageRun]:
    """Hold a stage's span open around its work, keep its report in `reports`, tell of its start and end.

    Raises:
        StageFailed: the work raised; cancellation passes through as it is.
    """
    report = pb.StageReport(stage=stage, state=pb.STAGE_STATE_RUNNING, started_at=timestamp_of(datetime.now(UTC)))
    reports[stage] = report
    run = StageRun(report=report, emit=emit)
    emit(service_pb.WatchSurveyResponse(stage_started=service_pb.StageStarted(stage=stage)))
    with telemetry.span(f"survey.{name_of(stage)}") as span:
        span.set_attribute(telemetry.STAGE, name_of(stage))
        try:
            yield run
            report.state = pb.STAGE_STATE_DONE
        except Exception as error:
            report.state = pb.STAGE_STATE_FAILED
            raise StageFailed(stage, error) from error
        except BaseException:
            report.state = pb.STAGE_STATE_CANCELLED
            raise
        finally:
            report.finished_at.CopyFrom(timestamp_of(datetime.now(UTC)))
            report.duration_ms = report.finished_at.ToMilliseconds() - report.started_at.ToMilliseconds()
            report.usage.extend(total_usage(run.usage))
            telemetry.set_usage(span, report.usage)
            for name in (telemetry.PAPER_COUNT, telemetry.CACHED_COUNT, telemetry.LOST_COUNT):
                span.set_attribute(name, getattr(report, name.removeprefix("paperroute.")))
            emit(service_pb.WatchSurveyResponse(stage_finished=service_pb.StageFinished(report=report)))
