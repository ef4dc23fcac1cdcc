"""Writes what runs of surveys hand over: parts and numbered events for good, and now and then how far things are.

What many surveys hand over at the same time goes into one transaction, since a durable one takes longer than all else.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.document.draft import Part
from gateway.jobs.values import StaleRun
from gateway.jobs.watching import WatchHub
from gateway.pipeline.ports import EventOf
from gateway.store import events, run_rows
from gateway.store.run_rows import Handed
from services.common.database import Database
from services.common.errors import PaperRouteError

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

RETRY_DELAYS_S = (0.2, 1.0, 5.0)
"""When what could not be written is tried again, before the runs that wait for it fail."""
LIVE_EVERY_S = 0.5
"""Pause between two writes of how far things are."""
_MAX_NAMED = 5
_MAX_AT_ONCE = 100
"""Surveys whose parts and events are written in one transaction: others who write wait for its end."""


class RunWriter:
    """Takes what one attempt of a survey hands over; nothing here blocks but `flush`."""

    def __init__(self, survey_id: str, attempt: int, queue: "SurveyWriter") -> None:
        """Name an attempt, as `SurveyWriter.of` does."""
        self.is_stale = False
        """Whether the attempt may not write any more: nothing that is handed over from then on is kept."""
        self.on_stale: Callable[[], None] = _nothing
        """Called when that has been found out."""
        self._survey_id = survey_id
        self._attempt = attempt
        self._queue = queue
        self._pending = _Batch()
        self._under_way: _Batch | None = None
        self._shown: dict[str, EventOf] = {}
        self._failure: Exception | None = None

    def emit(self, event: service_pb.WatchSurveyResponse, *parts: Part) -> None:
        """Keep parts and number an event, together or not at all; the event is the writer's from here on."""
        if self._is_over:
            return
        self._pending.events.append(event)
        self._pending.parts.extend(parts)
        self._shown.pop(events.void_place(event), None)
        self._queue.hand_over(self)

    def keep(self, *parts: Part) -> None:
        """Keep parts that no event tells of."""
        if not self._is_over:
            self._pending.parts.extend(parts)
            self._queue.hand_over(self)

    def show(self, place: str, event_of: EventOf) -> None:
        """Show how far something is; of a place the newest event is written, the others are never made."""
        if not self._is_over:
            self._shown[place] = event_of
            self._queue.show_soon(self)

    async def flush(self) -> None:
        """Wait until everything handed over so far is durable.

        Raises:
            StaleRun: the attempt is not the one under way any more.
            NotReady: the database cannot be opened.
            UpstreamFailed: it did not answer for a while; nothing more of the attempt will be written.
        """
        last = self._pending if self._pending.is_filled else self._under_way
        if last is not None:
            await last.done.wait()
        if self._failure is not None:
            raise self._failure
        if self.is_stale:
            raise StaleRun(self._survey_id)

    @property
    def _is_over(self) -> bool:
        return self.is_stale or self._failure is not None

    def take(self, *, is_live: bool) -> Handed:
        """Return what waits to be written, with how far things are if that is wanted; done by the `SurveyWriter`."""
        batch, self._pending = self._pending, _Batch()
        self._under_way = batch
        live: dict[str, service_pb.WatchSurveyResponse] = {}
        if is_live:
            shown, self._shown = self._shown, {}
            live = {place: event_of() for place, event_of in shown.items()}
        return Handed(
            survey_id=self._survey_id, attempt=self._attempt, events=batch.events, parts=batch.parts, live=live
        )

    def succeed(self) -> None:
        """Note that what was taken is written."""
        if self._under_way is not None:
            self._under_way.done.set()
            self._under_way = None

    def find_stale(self) -> None:
        """Note that another attempt has begun or the survey has ended."""
        self.is_stale = True
        self._give_up()
        self.on_stale()

    def fail(self, error: Exception) -> None:
        """Note that what was taken could not be written: what comes after it would leave a gap."""
        self._failure = error
        self._give_up()

    def _give_up(self) -> None:
        self._pending.done.set()
        self._pending = _Batch()
        self._shown.clear()
        self.succeed()


class SurveyWriter:
    """Writes for all runs of a replica, one transaction at a time."""

    def __init__(self, database: Database, hub: WatchHub) -> None:
        """Take the gateway's database and the hub that hears of every commit; both stay open at the end."""
        self._database = database
        self._hub = hub
        self._waiting: dict[RunWriter, None] = {}  # a set in the order of arrival
        self._showing: dict[RunWriter, None] = {}
        self._writing: asyncio.Task[None] | None = None
        self._live_timer: asyncio.TimerHandle | None = None
        self._next_live = 0.0
        self._is_live_due = False

    def of(self, survey_id: str, attempt: int) -> RunWriter:
        """Return the writer of an attempt that has begun; nothing is kept of it here while it hands nothing over."""
        return RunWriter(survey_id, attempt, self)

    async def close(self) -> None:
        """Write what was handed over for good; how far things are is let go."""
        self._showing.clear()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._live_timer is not None:
            self._live_timer.cancel()

    def hand_over(self, run: RunWriter) -> None:
        """Write what a run has, soon."""
        self._waiting[run] = None
        self._wake()

    def show_soon(self, run: RunWriter) -> None:
        """Write how far a run's things are when the pause since the last time is over."""
        self._showing[run] = None
        if self._live_timer is None and not self._is_live_due:
            self._live_timer = asyncio.get_running_loop().call_at(self._next_live, self._live_due)

    def _live_due(self) -> None:
        self._live_timer, self._is_live_due = None, True
        self._wake()

    def _wake(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._waiting or self._is_live_due:
            is_live = self._is_live_due
            taken = self._taken(is_live=is_live)
            try:
                await self._write(taken)
            except Exception as error:  # noqa: BLE001  # whatever it is, those who wait are told
                for run, _ in taken:
                    run.fail(error)
            if is_live:
                self._is_live_due = False
                self._next_live = asyncio.get_running_loop().time() + LIVE_EVERY_S
                if self._showing:
                    self.show_soon(next(iter(self._showing)))

    def _taken(self, *, is_live: bool) -> "list[_Taken]":
        """Return what is to be written next, of each run at most once."""
        runs = dict.fromkeys(itertools.islice(self._waiting, _MAX_AT_ONCE))
        if is_live:
            runs |= self._showing
            self._showing = {}
        taken = []
        for run in runs:
            self._waiting.pop(run, None)
            try:
                handed = run.take(is_live=is_live)
            except Exception as error:  # noqa: BLE001  # one run's fault is not the others'
                run.fail(error)
                continue
            if handed.is_durable or handed.live:
                taken.append((run, handed))
            else:
                run.succeed()
        return taken

    async def _write(self, taken: "Sequence[_Taken]") -> None:
        """Write surely: what fails is tried again, in the end each run alone, so that one cannot fail the others."""
        is_again = False
        for delay_s in RETRY_DELAYS_S:
            try:
                return await self._write_once(taken, is_again=is_again)
            except PaperRouteError as error:
                logger.warning("the events of %s are not written yet: %s", _named(taken), error)
            is_again = True
            await asyncio.sleep(delay_s)
        try:
            await self._database.read(lambda _: None)
        except PaperRouteError as error:  # it is still away: to try each run would take as long as many times that
            logger.error("%s cannot go on here: %s", _named(taken), error)  # noqa: TRY400  # the cause may hold rows
            for run, _ in taken:
                run.fail(error)
            return None
        for each in taken:
            await self._write_alone(each)
        return None

    async def _write_alone(self, taken: "_Taken") -> None:
        run, handed = taken
        try:
            await self._write_once([taken], is_again=True)
        except PaperRouteError as error:
            logger.error("survey %s cannot go on here: %s", handed.survey_id, error)  # noqa: TRY400
            run.fail(error)

    async def _write_once(self, taken: "Sequence[_Taken]", *, is_again: bool) -> None:
        handed = [each for _, each in taken]
        stale = await self._database.run(functools.partial(_write_rows, handed, is_again))
        for run, each in taken:
            if each in stale and each.is_durable:  # how far things are is of no use to a survey that has just ended
                run.find_stale()
            else:
                run.succeed()
                self._hub.changed(each.survey_id)


_Taken = tuple[RunWriter, Handed]


@dataclass(kw_only=True, slots=True, eq=False)
class _Batch:
    """What a run hands over between two transactions."""

    events: list[service_pb.WatchSurveyResponse] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_filled(self) -> bool:
        return bool(self.events or self.parts)


def _named(taken: Sequence[_Taken]) -> str:
    """Return the surveys as the log names them, the first few by their ids."""
    ids = [handed.survey_id for _, handed in taken]
    more = f" and {len(ids) - _MAX_NAMED} more" if len(ids) > _MAX_NAMED else ""
    return f"survey {', '.join(ids[:_MAX_NAMED])}{more}"


def _write_rows(handed: Sequence[Handed], is_again: bool, connection: "Connection") -> list[Handed]:
    missing = run_rows.without_written(connection, handed) if is_again else handed
    return run_rows.write(connection, missing)


def _nothing() -> None:
    """Do nothing."""
