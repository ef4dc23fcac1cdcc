"""What can be done with surveys: make, read, list, watch, cancel, resume, rewrite, remove. Each is one tenant's."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.trace import Span
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.access import audit
from gateway.access.principal import Principal
from gateway.document.assemble import survey_of
from gateway.document.draft import Draft, SectionPlace, parts_to_redo, place_name
from gateway.document.stages import name_of
from gateway.jobs.counting import count_end
from gateway.jobs.durable import Durable
from gateway.jobs.heads import head_of
from gateway.jobs.runs import Runs
from gateway.jobs.turns import Turns
from gateway.jobs.upkeep import Upkeep
from gateway.jobs.values import Job, JobFilter, NewJob, QueueLimits, StaleRun
from gateway.jobs.watching import WatchHub
from gateway.pipeline.ports import SilentPorts
from gateway.pipeline.rewrite import rewrite_section
from services.common.database import Database
from services.common.deadlines import Deadline
from services.common.errors import NotReady
from services.common.telemetry import names
from services.common.telemetry.spans import context_of, link_to, set_usage, span, traceparent

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """The surveys of a gateway, whichever replica runs them."""

    database: Database
    hub: WatchHub
    turns: Turns
    runs: Runs
    durable: Durable
    upkeep: Upkeep

    async def create(self, who: Principal, new: NewJob, limits: QueueLimits) -> pb.Survey:
        """Make a survey, or return the one that this request made before.

        Raises:
            AlreadyExists: the `request_id` belongs to a different request.
            QueueFull: as many surveys wait as may.
        """

        def work(connection: "Connection") -> tuple[pb.Survey, bool]:
            from gateway.store import surveys

            job, is_new = surveys.create(connection, new, limits)
            if is_new:
                audit.record(connection, who, admin_pb.AUDIT_ACTION_CREATE_SURVEY, job.survey_id)
            return survey_of(surveys.draft_of(connection, job)), is_new

        survey, is_new = await self.database.run(work)
        if is_new:
            self.turns.poke(survey.survey_id)
        return survey

    async def get(self, who: Principal, survey_id: str) -> pb.Survey:
        """Return a survey as it is now.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        _, draft = await self.database.read(lambda connection: _found(connection, who, survey_id))
        return survey_of(draft)

    async def page(self, which: JobFilter, size: int, token: str) -> tuple[list[pb.Survey], str]:
        """Return a page of surveys without texts and papers, newest first, and the token of the next.

        Raises:
            InvalidRequest: the token is none.
        """

        def work(connection: "Connection") -> tuple[list[pb.Survey], str]:
            from gateway.store import surveys

            return surveys.page(connection, which, size, token)

        return await self.database.read(work)

    async def events(
        self, who: Principal, survey_id: str, after_number: int
    ) -> AsyncIterator[service_pb.WatchSurveyResponse]:
        """Yield a survey's events after a number, those to come as well, until it has ended.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        await self.database.read(lambda connection: _job(connection, who, survey_id))
        async with contextlib.aclosing(self.hub.events(survey_id, after_number)) as events:
            async for event in events:  # who goes away is let go at once
                yield event

    async def cancel(self, who: Principal, survey_id: str) -> pb.Survey:
        """End a survey that is queued or under way and return it with what was finished.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        await self._cancelled(who, survey_id)
        return await self.get(who, survey_id)

    async def resume(self, who: Principal, survey_id: str, limits: QueueLimits) -> pb.Survey:
        """Give an ended survey another turn, with what it has.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
            NotReady: nothing is left to do.
            QueueFull: as many surveys wait as may.
        """

        def work(connection: "Connection") -> None:
            from gateway.store import surveys

            job, draft = _found(connection, who, survey_id)
            if not job.has_ended:
                return
            if job.state not in surveys.RESUMABLE:
                name = pb.SurveyState.Name(job.state).removeprefix("SURVEY_STATE_")
                raise NotReady(f"survey {survey_id}", f"it is {name}: nothing is left to do")
            surveys.resume(connection, survey_id, list(parts_to_redo(draft)), limits)
            audit.record(connection, who, admin_pb.AUDIT_ACTION_RESUME_SURVEY, survey_id)

        await self.database.run(work)
        self.hub.changed(survey_id)
        self.turns.poke(survey_id)
        return await self.get(who, survey_id)

    async def rewrite(
        self, who: Principal, survey_id: str, place: SectionPlace, models: str, deadline: Deadline
    ) -> pb.Survey:
        """Write a section of an ended survey again and return the survey.

        Raises:
            NotFound: there is no such survey or section, or it is another tenant's.
            NotReady: the survey is under way.
            grpc.aio.AioRpcError: the generation service's own failure.
        """
        job, draft = await self.database.read(lambda connection: _found(connection, who, survey_id))
        if not job.has_ended:
            raise NotReady(f"survey {survey_id}", "it is under way; its sections can be written again later")
        with _rewriting(job, place) as current:
            async with self.runs.work(job, draft, SilentPorts(), deadline) as run:
                parts = await rewrite_section(run, place, models)
            set_usage(current, draft.sections[place].usage)
        head = head_of(draft)

        def work(connection: "Connection") -> None:
            from gateway.money import usage
            from gateway.store import surveys

            surveys.replace(connection, survey_id, head, *parts)
            usage.record(connection, job, draft)
            audit.record(connection, who, admin_pb.AUDIT_ACTION_REWRITE_SECTION, survey_id)

        try:
            await self.database.run(work)
        except StaleRun as stale:
            raise NotReady(f"survey {survey_id}", "it was resumed or removed meanwhile") from stale
        self.upkeep.settle_soon(survey_id)
        return survey_of(draft)

    async def delete(self, who: Principal, survey_id: str) -> int:
        """Remove a survey; return how many recorded answers went with it.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
            grpc.aio.AioRpcError: a service that holds its answers does not answer; the survey is cancelled and stays.
        """
        job = await self._cancelled(who, survey_id)
        await self.upkeep.settle(survey_id, is_final=True)
        answers = await self.upkeep.remove(job)
        await self.database.run(
            lambda connection: audit.record(connection, who, admin_pb.AUDIT_ACTION_DELETE_SURVEY, survey_id)
        )
        self.hub.changed(survey_id)
        return answers

    async def _cancelled(self, who: Principal, survey_id: str) -> Job:
        """Cancel a survey unless it has ended, and return it as it was before."""

        def work(connection: "Connection") -> tuple[Job, Job | None]:
            from gateway.store import surveys

            job = _job(connection, who, survey_id)
            cancelled = surveys.cancel(connection, survey_id)
            if cancelled:
                audit.record(connection, who, admin_pb.AUDIT_ACTION_CANCEL_SURVEY, survey_id)
            return job, cancelled

        job, cancelled = await self.database.run(work)
        if cancelled:
            count_end(cancelled)
            self.runs.stop(survey_id)
            self.hub.changed(survey_id)
            self.turns.poke()
            if job.run:
                await self.durable.cancel(survey_id, job.run)
            self.upkeep.settle_soon(survey_id)
        return job


def _rewriting(job: Job, place: SectionPlace) -> AbstractContextManager[Span]:
    """Return the span of a section that is written again, in the survey's trace.

    It links to the span of the request that asks for it and to that of the survey's last run.
    """
    return span(
        names.SURVEY_REWRITE,
        context=context_of(job.trace),
        links=[*link_to(traceparent()), *link_to(job.run_trace)],
        attributes={
            names.SURVEY_ID: job.survey_id,
            names.TENANT: job.tenant,
            names.STAGE: name_of(pb.STAGE_WRITE),
            names.ITEM: place_name(place),
        },
    )


def _job(connection: "Connection", who: Principal, survey_id: str) -> Job:
    from gateway.store import surveys

    return surveys.find(connection, survey_id, who.tenant)


def _found(connection: "Connection", who: Principal, survey_id: str) -> tuple[Job, Draft]:
    from gateway.store import surveys

    job = surveys.find(connection, survey_id, who.tenant)
    return job, surveys.draft_of(connection, job)
