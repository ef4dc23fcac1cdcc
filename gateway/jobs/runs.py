"""Runs of surveys: from the turn a survey gets to its last event."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from opentelemetry.trace import Span
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.access.limits import TenantLimits
from gateway.document.assemble import usage_of
from gateway.document.draft import Draft, Part, PartKind
from gateway.document.stages import name_of
from gateway.jobs.counting import count_cost, count_end, state_name
from gateway.jobs.heads import head_of
from gateway.jobs.values import Job, StaleRun
from gateway.jobs.writer import RunWriter, SurveyWriter
from gateway.money import usage
from gateway.money.budget import Budgets
from gateway.money.costs import may_cost, settle
from gateway.pipeline.patience import Patience
from gateway.pipeline.pipeline import run_pipeline
from gateway.pipeline.ports import EventOf, Ports
from gateway.pipeline.run import Run
from gateway.pipeline.stage_run import StageFailed
from gateway.services import Services
from services.common.database import Database, clock_s
from services.common.deadlines import Deadline
from services.common.telemetry import names
from services.common.telemetry.spans import (
    begun,
    context_of,
    held,
    link_to,
    mark_failed,
    set_usage,
    traceparent,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)


class StepRunner(Protocol):
    """Runs the steps of one run, each once."""

    async def run_step(self, stage: pb.Stage.ValueType, work: Callable[[], Awaitable[None]]) -> None:
        """Run a stage's work, unless this run has finished it before."""
        ...


@dataclass(kw_only=True, slots=True)
class JobPorts:
    """The ports of a run: steps into the journal, everything else into the gateway's tables."""

    writer: RunWriter
    steps: StepRunner

    async def run_step(self, stage: pb.Stage.ValueType, work: Callable[[], Awaitable[None]]) -> None:
        """Run a stage's work unless it is in the journal."""
        await self.steps.run_step(stage, work)

    def emit(self, event: service_pb.WatchSurveyResponse, *parts: Part) -> None:
        """Keep parts and number an event."""
        self.writer.emit(event, *parts)

    def keep(self, *parts: Part) -> None:
        """Keep parts."""
        self.writer.keep(*parts)

    def show(self, place: str, event_of: EventOf) -> None:
        """Tell how far something is."""
        self.writer.show(place, event_of)

    async def flush(self) -> None:
        """Wait until everything handed over so far is durable."""
        await self.writer.flush()

    def cancelled(self) -> bool:
        """Return whether the survey was cancelled, or is run by another."""
        return self.writer.is_stale


@dataclass(kw_only=True, slots=True)
class Runs:
    """Runs surveys of this replica; `run` is what the journal starts, and starts again after a restart."""

    database: Database
    writer: SurveyWriter
    services: Services
    patience: Patience
    budgets: Budgets
    tenants: TenantLimits
    sections_in_flight: int
    absence_s: float
    owner: str
    changed: Callable[[str], None]
    """Called with the id of a survey when watchers may see something new of it."""
    settle_soon: Callable[[str], None]
    """Called with the id of a survey that has ended and whose costs are not the last word yet."""
    max_interruptions: int
    """How often a survey may be interrupted without getting on."""
    under_way: dict[str, "asyncio.Task[pb.SurveyState.ValueType]"] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    """Of the surveys under way here."""

    async def run(self, survey_id: str, run: int, steps: StepRunner) -> None:
        """Run a survey to its end, as far as it is this replica's to run."""
        start = await self.database.run(lambda connection: _started(connection, survey_id, run, self.owner))
        if start is None:
            return
        job, state = start.job, None
        with held(start.span) as current:
            current.set_attribute(names.STATE, state_name(pb.SURVEY_STATE_CANCELLED))  # unless it comes to its end here
            try:
                if start.interruptions >= self.max_interruptions:
                    state = await self._give_up(job, start.interruptions, current)
                else:
                    state = await self._run(job, steps, current)
            except StaleRun:
                logger.info("survey %s is no longer run here", survey_id)
            if state is not None:
                current.set_attribute(names.STATE, state_name(state))

    def stop(self, survey_id: str) -> None:
        """End what runs of a survey here, at once; calls to models that are under way end in their services."""
        task = self.under_way.get(survey_id)
        if task:
            task.cancel()

    async def _run(self, job: Job, steps: StepRunner, current: Span) -> pb.SurveyState.ValueType | None:
        """Run a survey and return how it ended; None if it was stopped here."""
        draft, left_s = await self.database.read(lambda connection: _drafted(connection, job))
        writer = self.writer.of(job.survey_id, job.attempt)
        writer.on_stale = lambda: self.stop(job.survey_id)
        try:
            async with self.work(job, draft, JobPorts(writer=writer, steps=steps), Deadline.after(left_s)) as work:
                state = await self._worked(job, work)
                if state is not None:
                    await self._end(job, work, writer, state)
                return state
        finally:
            _describe(current, draft)

    @contextlib.asynccontextmanager
    async def work(self, job: Job, draft: Draft, ports: Ports, deadline: Deadline) -> AsyncIterator[Run]:
        """Hold what the stages of a run share; its budget is closed at the end.

        Raises:
            UpstreamFailed: it cannot be told what the survey has spent.
        """
        limits = await self.tenants.of(job.tenant)
        budget = await self.budgets.open(job, limits.max_month_cost_nano_usd)
        try:
            yield Run(
                draft=draft,
                tenant=job.tenant,
                services=self.services,
                patience=self.patience,
                budget=budget,
                ports=ports,
                deadline=deadline,
                sections_in_flight=self.sections_in_flight,
                absence_s=self.absence_s,
            )
        finally:
            await budget.close()

    async def _worked(self, job: Job, work: Run) -> pb.SurveyState.ValueType | None:
        """Run the pipeline and return the survey's last state; None if it was stopped here."""
        task = self.under_way[job.survey_id] = asyncio.create_task(_piped(work))
        self.attempts[job.survey_id] = job.attempt
        try:
            return await task
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own and own.cancelling():  # the journal is being closed: it goes on elsewhere
                task.cancel()
                raise
            return None  # its last event is there, or will be told elsewhere
        finally:
            self.under_way.pop(job.survey_id, None)
            self.attempts.pop(job.survey_id, None)

    async def _give_up(self, job: Job, interruptions: int, current: Span) -> pb.SurveyState.ValueType:
        """End a survey that has interrupted process after process, and may be what ends them."""
        failure = pb.Failure(
            service="paperroute.v1.SurveyService",
            status="ABORTED",
            reason="REPEATEDLY_INTERRUPTED",
            message=f"it was interrupted {interruptions} times without getting on; resume it when that is mended",
        )
        draft = Draft(survey_id=job.survey_id, spec=job.spec, labels=dict(job.request.labels), failure=failure)
        draft.state, draft.attempt = pb.SURVEY_STATE_FAILED, job.attempt
        head = head_of(draft)
        kept = Part(kind=PartKind.FAILURE, payload=failure.SerializeToString())

        def work(connection: "Connection") -> Job:
            from gateway.store import surveys

            return surveys.end(connection, job.survey_id, job.attempt, draft.state, head, kept, failure=failure)

        count_end(await self.database.run(work))
        self.settle_soon(job.survey_id)
        mark_failed(current, failure.status, failure.reason)
        logger.error("survey %s was given up: %s", job.survey_id, failure.message)
        return draft.state

    async def _end(self, job: Job, run: Run, writer: RunWriter, state: pb.SurveyState.ValueType) -> None:
        draft = run.draft
        await writer.flush()
        is_settled = not may_cost(draft) or await settle(draft, self.services, job.tenant)
        draft.state, draft.finished_at = state, datetime.now(UTC)
        reports = [run.part(PartKind.REPORT, report, str(stage)) for stage, report in list(draft.reports.items())]
        head = head_of(draft)

        def work(connection: "Connection") -> Job:
            from gateway.store import surveys

            ended = surveys.end(connection, job.survey_id, job.attempt, state, head, *reports, failure=draft.failure)
            usage.record(connection, job, draft)
            if is_settled:
                surveys.settled(connection, job.survey_id)
            return ended

        count_end(await self.database.run(work))
        self.changed(job.survey_id)
        if is_settled:
            count_cost(state, usage.cost_of(draft))
        else:
            self.settle_soon(job.survey_id)


async def _piped(run: Run) -> pb.SurveyState.ValueType:
    """Run the pipeline; return the survey's last state."""
    try:
        return await run_pipeline(run)
    except StageFailed:
        return pb.SURVEY_STATE_FAILED


def _describe(current: Span, draft: Draft) -> None:
    """Tell in the span of a run what the survey is by now, the runs before included."""
    if not current.is_recording():
        return
    current.set_attribute(names.PAPER_COUNT, len(draft.search.papers) if draft.search else 0)
    current.set_attribute(names.BUDGET_REACHED, any(report.budget_reached for report in draft.reports.values()))
    set_usage(current, usage_of(draft))
    if draft.failure:
        current.set_attribute(names.STAGE, name_of(draft.failure.stage))
        mark_failed(current, draft.failure.status, draft.failure.reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Start:
    """A survey that begins now."""

    job: Job
    interruptions: int
    """How often it was interrupted since it last got on."""
    span: Span
    """Of this run, below that of the request that made the survey, with a link to that of the run before."""


def _started(connection: "Connection", survey_id: str, run: int, owner: str) -> _Start | None:
    """Begin a survey; None if it is not to run.

    Its span is made here so that what names it is kept with the begin. What follows is read in a transaction of its
    own: should that be what ends the process, the attempt still counts.
    """
    from gateway.store import surveys, turns

    job = surveys.begin(connection, survey_id, run, owner)
    if job is None:
        return None
    interruptions = turns.interruptions(connection, survey_id)
    span = begun(
        names.SURVEY_RUN,
        context=context_of(job.trace),
        links=link_to(job.run_trace),
        attributes={names.SURVEY_ID: survey_id, names.TENANT: job.tenant, names.ATTEMPT: job.attempt},
    )
    if span.is_recording():
        surveys.keep_run_trace(connection, survey_id, traceparent(span))
    return _Start(job=job, interruptions=interruptions, span=span)


def _drafted(connection: "Connection", job: Job) -> tuple[Draft, float]:
    """Return the draft of a survey that has begun, and how many seconds it has."""
    from gateway.store import surveys

    return surveys.draft_of(connection, job), (job.deadline_at or 0) - clock_s(connection)
