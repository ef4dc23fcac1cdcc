"""Who watches which survey: each change is read once for all its watchers, whichever replica made it.

A watcher takes what is there at its own pace. Numbered events stay until it has them all; of how far things are it gets
the newest, so that a slow one neither holds up the others nor makes anything pile up.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.store import events as event_rows
from gateway.store.events import Event, LiveRow, Mark
from services.common.database import Database
from services.common.errors import NotFound, PaperRouteError, UpstreamFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""How often all watched surveys are looked at, for what other replicas changed."""
PAUSE_S = 0.02
"""Pause between two readings: what changes meanwhile is read together."""
PATIENCE_S = 10.0
"""How long the database may be away before the watchers are sent away; they can come back and go on."""


class WatchHub:
    """The watchers of a replica."""

    def __init__(self, database: Database) -> None:
        """Take the gateway's database, which stays open at the end; it is read only while somebody watches."""
        self._database = database
        self._watched: dict[str, _Watched] = {}
        self._changed: set[str] = set()
        self._poked = asyncio.Event()
        self._round = 0
        self._next_tick = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._stopping: UpstreamFailed | None = None

    async def events(self, survey_id: str, after_number: int) -> AsyncGenerator[Event, None]:
        """Yield the events of a survey: the numbered ones after a number, and how far things are.

        The last one of a survey that has ended is the last one here. Events are shared with other watchers: they are
        not to be changed.

        Raises:
            NotFound: there is no such survey, or no longer.
            UpstreamFailed: the database has been away for long, or this gateway stops.
        """
        watched = self._join(survey_id)
        watcher = _Watcher(number=after_number)
        try:
            await self._read_once_more(watched)
            while True:
                changed = watched.changed
                for event in watcher.news_of(watched):
                    yield event
                if watched.has_ended and watcher.number >= len(watched.events):
                    return
                if watched.failure is not None:
                    raise watched.failure
                await changed.wait()
        finally:
            self._leave(watched)

    def changed(self, survey_id: str) -> None:
        """Look at a survey soon: this process has changed it."""
        if survey_id in self._watched:
            self._changed.add(survey_id)
            self._poked.set()

    async def close(self) -> None:
        """Send all watchers away."""
        self._stopping = UpstreamFailed("the gateway", "it stops; watch again from the last number", retry_after_s=1)
        self._send_away(list(self._watched.values()), self._stopping)
        self._poked.set()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _join(self, survey_id: str) -> "_Watched":
        if self._stopping is not None:
            raise self._stopping
        watched = self._watched.setdefault(survey_id, _Watched(survey_id=survey_id))
        watched.watcher_count += 1
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all())
        return watched

    def _leave(self, watched: "_Watched") -> None:
        watched.watcher_count -= 1
        if watched.watcher_count == 0:
            self._forget(watched)

    def _forget(self, watched: "_Watched") -> None:
        if self._watched.get(watched.survey_id) is watched:
            del self._watched[watched.survey_id]
            self._changed.discard(watched.survey_id)

    def _send_away(self, those: "Sequence[_Watched]", failure: Exception) -> None:
        for watched in those:
            self._forget(watched)
            watched.failure = failure
            watched.wake()

    async def _read_once_more(self, watched: "_Watched") -> None:
        """Wait for a reading that begins from now on: a survey that was resumed elsewhere goes on."""
        wanted = self._round + 1
        self.changed(watched.survey_id)
        watched.joining_count += 1
        try:
            while watched.round < wanted and watched.failure is None:
                await watched.changed.wait()
        finally:
            watched.joining_count -= 1

    async def _read_all(self) -> None:
        loop = asyncio.get_running_loop()
        read_at = loop.time()
        while self._watched:
            due = self._due(loop.time())
            try:
                await self._read(due)
                read_at = loop.time()
            except PaperRouteError as error:  # all are looked at again at the next tick
                if loop.time() - read_at >= PATIENCE_S:
                    logger.warning("%d watched surveys cannot be read: %s", len(self._watched), error)
                    self._send_away(list(self._watched.values()), error)
            except Exception as error:  # whatever it is, those who wait are told
                logger.exception("events cannot be read")
                self._send_away(list(self._watched.values()), error)
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_tick):
                    await self._poked.wait()

    def _due(self, now: float) -> "list[_Watched]":
        """Return whom to look at: those that were changed here, all of them once a tick."""
        self._poked.clear()
        changed, self._changed = self._changed, set()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            return list(self._watched.values())
        return [self._watched[survey_id] for survey_id in changed if survey_id in self._watched]

    async def _read(self, due: "Sequence[_Watched]") -> None:
        if not due:
            return
        self._round += 1
        this_round = self._round
        news = await self._database.read(functools.partial(_news_of, {each.survey_id: each.mark for each in due}))
        for watched in due:
            found = news.get(watched.survey_id)
            if found is None:
                self._send_away([watched], NotFound("survey", watched.survey_id))
                continue
            watched.round = this_round
            if watched.add(found) or watched.joining_count:
                watched.wake()


@dataclass(frozen=True, kw_only=True, slots=True)
class _News:
    """What of a survey was not known before."""

    mark: Mark
    events: Sequence[Event] = ()
    live: Sequence[LiveRow] = ()


@dataclass(kw_only=True, slots=True, eq=False)
class _Watched:
    """A survey with at least one watcher, and what is known of it."""

    survey_id: str
    events: list[Event] = field(default_factory=list)
    """All numbered ones, from number 1."""
    live: dict[str, LiveRow] = field(default_factory=dict)
    """How far things are, by place."""
    live_version: int = 0
    round: int = 0
    """The last reading that brought all this."""
    watcher_count: int = 0
    joining_count: int = 0
    failure: Exception | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def mark(self) -> Mark:
        return Mark(last_number=len(self.events), live_version=self.live_version)

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and event_rows.is_last(self.events[-1])

    def add(self, news: _News) -> bool:
        """Take in what was read at one moment; return whether it is anything."""
        for event in news.events:
            self.events.append(event)
            if event_rows.voids_all(event):
                self.live.clear()
            self.live.pop(event_rows.void_place(event), None)
        self.live.update({row.place: row for row in news.live})
        self.live_version = news.mark.live_version
        return bool(news.events or news.live)

    def wake(self) -> None:
        """Let all watchers look again."""
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(kw_only=True, slots=True, eq=False)
class _Watcher:
    """What one watcher has got."""

    number: int
    versions: dict[str, int] = field(default_factory=dict)
    """Of what was shown, by place."""
    texts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Attempt of a section under way and how many characters of it were sent, by place."""

    def news_of(self, watched: _Watched) -> Iterator[Event]:
        """Yield what has come since, always the newest: a watcher may take its time between two events."""
        while self.number < len(watched.events):
            event = watched.events[self.number]
            self.number += 1
            self.texts.pop(event_rows.void_place(event), None)
            yield event
        for place in list(watched.live):
            row = watched.live.get(place)
            if row is not None and row.version > self.versions.get(place, 0):
                self.versions[place] = row.version
                yield from self._shown(row)

    def _shown(self, row: LiveRow) -> Iterator[Event]:
        if row.event.WhichOneof("event") != "section_text":
            yield row.event
            return
        text = row.event.section_text
        attempt, sent_count = self.texts.get(row.place, (1, 0))
        if text.attempt > attempt:
            attempt, sent_count = text.attempt, 0
            self.texts[row.place] = (attempt, 0)
            yield _restarted(row.event)
        if text.attempt == attempt and len(text.text) > sent_count:
            self.texts[row.place] = (attempt, len(text.text))
            yield _piece(row.event, sent_count)


def _restarted(event: Event) -> Event:
    text = event.section_text
    restart = service_pb.SectionRestart(
        chapter_number=text.chapter_number, section_number=text.section_number, attempt=text.attempt
    )
    return Event(section_restarted=restart, happened_at=event.happened_at)


def _piece(event: Event, offset: int) -> Event:
    """Return the text of a section under way from a character on."""
    text = event.section_text
    piece = service_pb.SectionProgress(
        chapter_number=text.chapter_number,
        section_number=text.section_number,
        attempt=text.attempt,
        offset=offset,
        text=text.text[offset:],
    )
    return Event(section_text=piece, happened_at=event.happened_at)


def _news_of(known: Mapping[str, Mark], connection: "Connection") -> dict[str, _News]:
    """Return what is new of each survey that is still there, all as of one moment."""
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":  # SQLite reads as of one moment anyway
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    return {
        survey_id: _news(connection, survey_id, known[survey_id], mark)
        for survey_id, mark in event_rows.marks(connection, list(known)).items()
    }


def _news(connection: "Connection", survey_id: str, known: Mark, mark: Mark) -> _News:
    is_further, is_shown = mark.last_number > known.last_number, mark.live_version > known.live_version
    return _News(
        mark=mark,
        events=event_rows.after(connection, survey_id, known.last_number) if is_further else (),
        live=event_rows.live_after(connection, survey_id, known.live_version) if is_shown else (),
    )
