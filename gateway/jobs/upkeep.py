"""What happens to surveys that have ended: their last costs are read, and the old ones are removed."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import grpc
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb

from gateway.document.draft import Draft, Part, PartKind
from gateway.jobs.counting import count_cost
from gateway.jobs.heads import head_of
from gateway.jobs.values import Job, StaleRun
from gateway.money import usage
from gateway.money.costs import may_cost, settle
from gateway.services import Services
from services.common.database import Database, clock_s
from services.common.errors import NotFound, PaperRouteError

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)
POLL_S = 1.0
SETTLING_POLLS = 120
"""How long to look for calls that were under way when a survey ended: they are paid for, answered or not."""
ROUND_S = 60.0
ORPHANED_S = 300.0
"""When an ended survey whose last costs were not read is taken for left behind by a replica that died."""
AT_ONCE = 100
CALL_TIMEOUT_S = 10
DAY_S = 86_400.0


class Upkeep:
    """Settles and removes; every replica does what is due, and doing it twice changes nothing."""

    def __init__(self, database: Database, services: Services, *, retention_days: int) -> None:
        """Take the database and the services whose ledgers tell the costs."""
        self._database = database
        self._services = services
        self._retention_s = retention_days * DAY_S
        self._tasks: dict[asyncio.Task[None], str] = {}
        """With what each is, for the log."""
        self._is_closing = False

    def start(self) -> None:
        """Do what is due now, and again every minute."""
        self._keep(self._rounds(), "upkeep")

    def settle_soon(self, survey_id: str) -> None:
        """Settle a survey that has just ended, as soon as no call of it is under way any more."""
        if not self._is_closing:
            self._keep(self._settle_until_done(survey_id), f"the settling of survey {survey_id}")

    async def settle(self, survey_id: str, *, is_final: bool = False) -> bool:
        """Read what an ended survey cost so far and keep it; return whether that was the last word.

        Args:
            survey_id: which.
            is_final: whether it is the last word although calls may seem to be under way.
        """
        found = await self._database.read(lambda connection: _ended(connection, survey_id))
        if found is None:
            return True
        job, draft = found
        is_last = not may_cost(draft) or await settle(draft, self._services, job.tenant) or is_final
        try:
            is_news = await self._database.run(lambda connection: _keep_costs(connection, job, draft, is_last=is_last))
        except StaleRun:
            return True  # it goes on, or was removed: whoever did that sees to its costs
        if is_news:
            count_cost(job.state, usage.cost_of(draft))
        return is_last

    async def remove(self, job: Job) -> int:
        """Remove an ended survey; return how many recorded answers went with it. What it cost stays.

        Raises:
            grpc.aio.AioRpcError: a service that holds its answers does not answer; nothing is removed.
        """
        answers = await self._forget_answers(job)

        def work(connection: "Connection") -> None:
            from gateway.store import surveys

            surveys.delete(connection, job.survey_id)

        await self._database.run(work)
        return answers

    async def close(self) -> None:
        """Stop what is under way; what is not settled is settled after a restart."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forget_answers(self, job: Job) -> int:
        of_text = generation_pb.DeleteCallsRequest(tenant=job.tenant, survey_id=job.survey_id)
        of_vectors = embedding_pb.DeleteEncoderCallsRequest(tenant=job.tenant, survey_id=job.survey_id)
        texts, vectors = await asyncio.gather(
            self._services.generation.DeleteCalls(of_text, timeout=CALL_TIMEOUT_S),
            self._services.embedding.DeleteEncoderCalls(of_vectors, timeout=CALL_TIMEOUT_S),
        )
        return texts.deleted_count + vectors.deleted_count

    async def _settle_until_done(self, survey_id: str) -> None:
        for _ in range(SETTLING_POLLS):
            if await self.settle(survey_id):
                return
            await asyncio.sleep(POLL_S)

    async def _rounds(self) -> None:
        while True:
            try:
                await self._round()
            except (PaperRouteError, grpc.aio.AioRpcError) as error:
                logger.warning("upkeep is put off: %s", type(error).__name__)
            await asyncio.sleep(ROUND_S)

    async def _round(self) -> None:
        def due(connection: "Connection") -> tuple[list[Job], list[Job]]:
            from gateway.store import surveys

            now = clock_s(connection)
            return (
                surveys.unsettled(connection, now - ORPHANED_S, AT_ONCE),
                surveys.expired(connection, now - self._retention_s, AT_ONCE),
            )

        orphaned, expired = await self._database.read(due)
        for job in orphaned:
            await self.settle(job.survey_id, is_final=True)
        for job in expired:
            await self.remove(job)
            logger.info("removed survey %s by the limit on age", job.survey_id)

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = name
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        name = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()):
            logger.warning("%s broke off: %s", name, error)


def _ended(connection: "Connection", survey_id: str) -> tuple[Job, Draft] | None:
    """Return an ended survey; None if it was removed or goes on."""
    from gateway.store import surveys

    with contextlib.suppress(NotFound):
        job = surveys.find(connection, survey_id)
        return (job, surveys.draft_of(connection, job)) if job.has_ended else None
    return None


def _keep_costs(connection: "Connection", job: Job, draft: Draft, *, is_last: bool) -> bool:
    """Keep what a survey cost; return whether it is the last word for the first time since the survey ended."""
    from gateway.store import surveys

    reports = [
        Part(kind=PartKind.REPORT, place=str(stage), payload=report.SerializeToString())
        for stage, report in draft.reports.items()
    ]
    surveys.replace(connection, job.survey_id, head_of(draft), *reports)
    usage.record(connection, job, draft)
    return is_last and surveys.settled(connection, job.survey_id)
