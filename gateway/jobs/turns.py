"""Who runs what on this replica: gives queued surveys their turns, and takes over those of replicas that died."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.jobs.counting import count_turn
from gateway.jobs.durable import Durable
from gateway.jobs.replicas import ReplicaLocks
from gateway.jobs.values import Job
from gateway.store import turns
from gateway.store.turns import RunningSurvey
from services.common.database import Database
from services.common.errors import PaperRouteError

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

CLAIM_EVERY_S = 1.0
"""Pause between two looks at the queue when nothing calls for one: other replicas fill it too."""
SHOW_EVERY_S = 1.0
REAP_EVERY_S = 0.5
LOOK_EVERY_S = 0.4
"""How soon a survey that was cancelled on another replica is stopped here."""
LEFT_BEHIND_S = 5.0
"""A survey of this replica that has not been under way here for so long is resumed: its start or its run broke."""
TIDY_EVERY_S = 600.0
FORGET_AFTER_S = 3_600.0
"""Age from which the journal forgets runs that have ended."""


class OwnRuns(Protocol):
    """What runs surveys on this replica."""

    attempts: dict[str, int]
    """Of the surveys under way here, by survey id."""

    def stop(self, survey_id: str) -> None:
        """End what runs of a survey here."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnLimits:
    """What one replica takes on."""

    max_running: int
    """Surveys under way on this replica; those it takes over may exceed it."""
    max_running_per_tenant: int
    """Surveys under way, on all replicas, of a tenant that has no limit of its own."""
    can_recover: bool = True
    """Whether it takes over what dead replicas left."""
    own_only: bool = False
    """Whether it gives turns only to the surveys that it was poked for."""


class Turns:
    """Gives turns and takes over, until it is closed."""

    def __init__(
        self,
        database: Database,
        durable: Durable,
        locks: ReplicaLocks,
        limits: TurnLimits,
        *,
        runs: OwnRuns,
        changed: Callable[[str], None],
    ) -> None:
        """Take what it works with; nothing is done before `start`.

        Args:
            database: the gateway's.
            durable: launched before `start`, with the owner that the locks name.
            locks: acquired before `start`.
            limits: what this replica takes on.
            runs: told of surveys that may not go on here.
            changed: called with the id of each survey that watchers may see something new of.
        """
        self._database = database
        self._durable = durable
        self._locks = locks
        self._limits = limits
        self._runs = runs
        self._changed = changed
        self._poked = asyncio.Event()
        self._own: set[str] = set()
        self._missing_since: dict[str, float] = {}
        self._failing: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closing = False
        """A cancellation can get lost in what is awaited: `asyncio.wait_for` of Python 3.11 loses some."""

    def poke(self, survey_id: str = "") -> None:
        """Look at the queue soon: a survey was put into it, or something in it changed.

        Args:
            survey_id: the one that was put into it.
        """
        if survey_id and self._limits.own_only:
            self._own.add(survey_id)
        self._poked.set()

    async def start(self) -> None:
        """Begin to give turns and to take over."""
        self._durable.on_left = self.poke
        work = [
            self._claim_again_and_again(),
            self._guard(),
            self._repeat(self._show_places, SHOW_EVERY_S),
            self._repeat(self._reap, REAP_EVERY_S),
            self._repeat(self._stop_gone, LOOK_EVERY_S),
        ]
        if self._limits.can_recover:
            work.append(self._repeat(self._tidy, TIDY_EVERY_S))
        self._tasks = [asyncio.create_task(each) for each in work]

    async def close(self) -> None:
        """Give no more turns. What runs stays RUNNING: it is stopped with the journal, and others take it over."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _claim_again_and_again(self) -> None:
        while not self._is_closing:
            self._poked.clear()
            await self._quietly(self._claim)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLAIM_EVERY_S):
                    await self._poked.wait()

    async def _claim(self) -> None:
        places = self._limits.max_running - self._durable.count
        only = self._own.copy() if self._limits.own_only else None
        if places <= 0 or self._locks.lost.is_set() or only == set():
            return
        owner, most = self._locks.owner, self._limits.max_running_per_tenant

        def work(connection: "Connection") -> list[Job]:
            return turns.claim(connection, owner, places, most, only)

        jobs = await self._database.run(work)
        self._own.difference_update(job.survey_id for job in jobs)
        for job in jobs:
            count_turn(job)
            self._changed(job.survey_id)
        starts = [self._durable.start(job.survey_id, job.run) for job in jobs]
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome  # what did not start is resumed by and by

    async def _show_places(self) -> None:
        moved = await self._database.read(turns.moved_places)
        if moved:
            await self._database.run(lambda connection: turns.show_places(connection, moved))
        for survey_id in moved:
            self._changed(survey_id)

    async def _reap(self) -> None:
        if self._locks.lost.is_set():
            return
        surveys = await self._database.read(turns.running)
        await self._resume_missing(surveys.pop(self._locks.owner, []))
        if not self._limits.can_recover:
            return
        for other, left in surveys.items():
            async with self._locks.held(other) as is_dead:
                for survey in left if is_dead else ():
                    await self._take_over(survey, other)

    async def _take_over(self, survey: RunningSurvey, dead: str) -> None:
        owner = self._locks.owner
        is_taken = await self._database.run(
            lambda connection: turns.take_over(connection, survey.survey_id, dead, owner)
        )
        if is_taken:  # else it has ended since it was read, or somebody else has it
            logger.warning("took over survey %s from a replica that is gone", survey.survey_id)
            await self._durable.resume(survey.survey_id, survey.run)

    async def _resume_missing(self, mine: list[RunningSurvey]) -> None:
        """Resume surveys of this replica that nobody runs: their start failed, or what ran them broke."""
        now = asyncio.get_running_loop().time()
        missing = [each for each in mine if not self._durable.is_under_way(each.survey_id, each.run)]
        self._missing_since = {each.survey_id: self._missing_since.get(each.survey_id, now) for each in missing}
        for each in missing:
            if now - self._missing_since[each.survey_id] >= LEFT_BEHIND_S:
                self._missing_since[each.survey_id] = now
                logger.warning("resuming survey %s, which nobody runs", each.survey_id)
                await self._durable.resume(each.survey_id, each.run)

    async def _stop_gone(self) -> None:
        attempts = dict(self._runs.attempts)
        if attempts:
            owner = self._locks.owner
            for survey_id in await self._database.read(lambda connection: turns.gone(connection, owner, attempts)):
                if self._runs.attempts.get(survey_id) == attempts[survey_id]:  # else another one has begun since
                    self._runs.stop(survey_id)

    async def _guard(self) -> None:
        """Let no step begin while others may take this replica for dead, nor before those they took are stopped."""
        while True:
            await self._locks.lost.wait()
            self._durable.pause()
            await self._locks.held_again()
            while True:
                if await self._quietly(self._stop_gone):
                    break
                await asyncio.sleep(LOOK_EVERY_S)
            if not self._locks.lost.is_set():
                self._durable.go_on()

    async def _tidy(self) -> None:
        surveys = await self._database.read(turns.running)
        keep = {(each.survey_id, each.run) for owned in surveys.values() for each in owned}
        await self._durable.tidy(keep, older_than_s=FORGET_AFTER_S)

    async def _repeat(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while not self._is_closing:
            await self._quietly(work)
            await asyncio.sleep(pause_s)

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do work that is done again soon; return whether it was done. What keeps it from it is logged once."""
        name = work.__name__
        try:
            await work()
        except Exception as error:  # a bug in one round must not be the end of all turns
            if name not in self._failing:
                self._failing.add(name)
                is_known = isinstance(error, PaperRouteError)
                logger.warning("turns: %s failed and is tried again: %s", name, error, exc_info=not is_known)
            return False
        self._failing.discard(name)
        return True
