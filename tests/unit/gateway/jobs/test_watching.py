"""Watchers get every numbered event once and in order, on any replica, and the newest of what is under way."""

import asyncio
import functools
import random
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from paperroute.v1 import survey_pb2 as pb
from survey_rows import (
    LIMITS,
    Gateways,
    Unsteady,
    a_section,
    kind_of,
    progress,
    section_finished,
    section_text,
    stage_finished,
    stage_started,
)

from gateway.jobs import watching
from gateway.jobs.values import Job
from gateway.jobs.watching import WatchHub
from gateway.store import events, run_rows, surveys
from gateway.store.events import Event
from gateway.store.run_rows import Handed
from services.common.errors import NotFound, UpstreamFailed

PATIENCE_S = 20
"""How long a test waits for what must come."""


class Hall:
    """Hubs of several replicas on one store, each on a database that can be made to fail."""

    def __init__(self, gateways: Gateways) -> None:
        self.gateways = gateways
        self.databases: list[Unsteady] = []
        self.hubs = [self.another_hub(), self.another_hub()]

    def another_hub(self) -> WatchHub:
        database = Unsteady(self.gateways.another_database())
        self.databases.append(database)
        return self.gateways.closing(WatchHub(database))  # type: ignore[arg-type]

    async def write(
        self, job: Job, *given: Event, live: dict[str, Event] | None = None, heard_by: Iterable[WatchHub] = ()
    ) -> None:
        """Write as the run of the first replica does; a hub that does not hear of it has to find out."""
        handed = Handed(survey_id=job.survey_id, attempt=job.attempt, events=given, live=live or {})
        assert not await self.gateways.database.run(lambda connection: run_rows.write(connection, [handed]))
        for hub in heard_by:
            hub.changed(job.survey_id)


@pytest.fixture
async def hall(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> Hall:
    monkeypatch.setattr(watching, "TICK_S", 0.05)
    return Hall(gateways)


async def all_of(hub: WatchHub, survey_id: str, after_number: int = 0) -> list[Event]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in hub.events(survey_id, after_number)]


class Watch:
    """One watcher, who is asked for its events one by one."""

    def __init__(self, hub: WatchHub, job: Job, after_number: int = 0) -> None:
        self._events = hub.events(job.survey_id, after_number)

    async def next(self) -> Event:
        async with asyncio.timeout(PATIENCE_S):
            return await anext(self._events)

    async def next_of(self, count: int) -> list[Event]:
        return [await self.next() for _ in range(count)]

    async def until(self, kind: str) -> list[Event]:
        """Return the events up to the first of a kind."""
        found = [await self.next()]
        while kind_of(found[-1]) != kind:
            found.append(await self.next())
        return found

    async def leave(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]


def kinds(found: Sequence[Event]) -> list[str]:
    return [kind_of(event) for event in found]


def numbers(found: Sequence[Event]) -> list[int]:
    return [event.number for event in found]


# numbered events


async def test_a_watcher_gets_what_was_and_what_comes_until_the_end(hall: Hall) -> None:
    job = await hall.gateways.running()
    watch = Watch(hall.hubs[0], job)
    assert kinds(await watch.next_of(2)) == ["QUEUED", "RUNNING"]

    await hall.write(job, stage_started(), stage_finished(), heard_by=hall.hubs)
    found = await watch.next_of(2)
    await hall.write(job, section_finished("1.1"), heard_by=hall.hubs)
    found.append(await watch.next())
    await hall.gateways.ended(job)
    hall.hubs[0].changed(job.survey_id)
    found.append(await watch.next())

    assert kinds(found) == ["stage_started", "stage_finished", "section_finished", "DONE"]
    assert numbers(found) == [3, 4, 5, 6]
    assert all(event.HasField("happened_at") for event in found)
    with pytest.raises(StopAsyncIteration):
        await watch.next()


async def test_a_watcher_hears_of_what_another_replica_did(hall: Hall) -> None:
    """Nobody tells its hub; it finds out."""
    job = await hall.gateways.create()
    watch = Watch(hall.hubs[1], job)
    assert kinds([await watch.next()]) == ["QUEUED"]

    job = await hall.gateways.begun(job.survey_id)
    assert kinds([await watch.next()]) == ["RUNNING"]
    await hall.write(job, stage_started())
    assert kinds([await watch.next()]) == ["stage_started"]
    await hall.gateways.cancelled(job.survey_id)
    assert kinds([await watch.next()]) == ["CANCELLED"]
    with pytest.raises(StopAsyncIteration):
        await watch.next()


async def test_a_watcher_goes_on_after_any_number_on_any_replica(hall: Hall) -> None:
    job = await hall.gateways.running()
    await hall.write(job, *(section_finished(f"1.{number}") for number in range(1, 8)))
    await hall.gateways.ended(job)
    await hall.gateways.running()
    whole = await all_of(hall.hubs[0], job.survey_id)

    assert numbers(whole) == list(range(1, 11))
    for number in range(13):
        for hub in hall.hubs:
            assert await all_of(hub, job.survey_id, number) == whole[number:]


async def test_a_number_ahead_of_a_survey_under_way_waits_for_higher_ones(hall: Hall) -> None:
    job = await hall.gateways.running()
    watch = Watch(hall.hubs[0], job, after_number=3)
    following = asyncio.create_task(watch.next())

    await hall.write(job, stage_started(), heard_by=hall.hubs)
    await hall.write(job, stage_finished(), heard_by=hall.hubs)

    event = await following
    assert (event.number, kind_of(event)) == (4, "stage_finished")


async def test_watchers_of_every_replica_see_the_same_while_it_goes_on(hall: Hall) -> None:
    job = await hall.gateways.create()
    watchers = [asyncio.create_task(all_of(hub, job.survey_id)) for hub in hall.hubs for _ in range(5)]

    job = await hall.gateways.begun(job.survey_id)
    for number in range(1, 20):
        await hall.write(job, section_finished(f"1.{number}"), heard_by=hall.hubs[:1])
    await hall.gateways.ended(job)

    for found in await asyncio.gather(*watchers):
        assert numbers(found) == list(range(1, 23))


async def test_a_failed_survey_ends_with_its_failure(hall: Hall) -> None:
    job = await hall.gateways.running()
    await hall.gateways.ended(job, pb.SURVEY_STATE_FAILED)

    assert kinds(await all_of(hall.hubs[0], job.survey_id)) == ["QUEUED", "RUNNING", "failed"]


async def test_a_resumed_survey_goes_on_where_an_old_watcher_knows_its_end_only(hall: Hall) -> None:
    """The old one has not taken its last event yet; the new one asks after the survey was resumed elsewhere."""
    job = await hall.gateways.running()
    await hall.gateways.cancelled(job.survey_id)
    old = Watch(hall.hubs[0], job)
    await old.next()
    await hall.gateways.database.run(lambda connection: surveys.resume(connection, job.survey_id, [], LIMITS))

    new = Watch(hall.hubs[0], job, after_number=3)

    event = await new.next()
    assert (event.number, kind_of(event)) == (4, "QUEUED")
    assert kinds(await old.next_of(3)) == ["RUNNING", "CANCELLED", "QUEUED"]


# what is under way


async def test_a_watcher_gets_the_text_of_a_section_piece_by_piece(hall: Hall) -> None:
    job = await hall.gateways.running()
    watch = Watch(hall.hubs[0], job, after_number=2)
    pieces = []
    for text in ("本文", "本文の", "本文の続き"):
        live = {"section 2.3": section_text(text)}
        following = asyncio.create_task(watch.next())
        await hall.write(job, live=live, heard_by=hall.hubs)
        pieces.append(await following)

    assert numbers(pieces) == [0, 0, 0]
    assert [(each.section_text.offset, each.section_text.text) for each in pieces] == [
        (0, "本文"),
        (2, "の"),
        (3, "続き"),
    ]
    assert {(each.section_text.chapter_number, each.section_text.section_number) for each in pieces} == {(2, 3)}
    assert {each.section_text.attempt for each in pieces} == {1}


async def test_a_section_that_is_begun_anew_voids_its_text(hall: Hall) -> None:
    job = await hall.gateways.running()
    watch = Watch(hall.hubs[0], job, after_number=2)
    await hall.write(job, live={"section 2.3": section_text("first text")}, heard_by=hall.hubs)
    await watch.next()

    await hall.write(job, live={"section 2.3": section_text("second", attempt=3)}, heard_by=hall.hubs)
    restart, piece = await watch.next_of(2)

    assert kind_of(restart) == "section_restarted"
    voided = restart.section_restarted
    assert (voided.chapter_number, voided.section_number, voided.attempt, restart.number) == (2, 3, 3, 0)
    assert (piece.section_text.attempt, piece.section_text.offset, piece.section_text.text) == (3, 0, "second")


async def test_who_comes_back_is_told_that_a_section_was_begun_anew(hall: Hall) -> None:
    """It may hold the text of an attempt before from the stream that broke."""
    job = await hall.gateways.running()
    await hall.write(job, live={"section 2.3": section_text("second", attempt=2)})

    found = await Watch(hall.hubs[1], job, after_number=2).next_of(2)

    assert kinds(found) == ["section_restarted", "section_text"]
    assert found[1].section_text.offset == 0


async def test_a_slow_watcher_gets_the_newest_and_holds_nobody_up(hall: Hall) -> None:
    job = await hall.gateways.running()
    slow, quick = Watch(hall.hubs[0], job), Watch(hall.hubs[0], job)
    await slow.next()
    await quick.next_of(2)

    for count in range(1, 15):
        live = {"section 2.3": section_text("x" * count), "stage 5": progress(count)}
        await hall.write(job, live=live, heard_by=hall.hubs)
        got = {kind_of(event): event for event in await quick.next_of(2)}
        assert got["stage_progress"].stage_progress.done_count == count
    await hall.write(job, stage_started(), heard_by=hall.hubs)
    await quick.until("stage_started")

    found = await slow.next_of(4)
    assert kinds(found[:2]) == ["RUNNING", "stage_started"]
    late = {kind_of(event): event for event in found[2:]}
    assert late["stage_progress"].stage_progress.done_count == 14
    assert (late["section_text"].section_text.offset, late["section_text"].section_text.text) == (0, "x" * 14)


async def test_no_text_comes_after_the_section_is_finished(hall: Hall) -> None:
    """Not even to who is handed one event while all that happens."""
    job = await hall.gateways.running()
    live = {"section 1.1": section_text("a", place="1.1"), "section 1.2": section_text("b", place="1.2")}
    await hall.write(job, live=live)
    slow, quick = Watch(hall.hubs[0], job, after_number=2), Watch(hall.hubs[0], job, after_number=2)
    first = await slow.next()
    await quick.next_of(2)

    await hall.write(job, section_finished("1.1"), section_finished("1.2"), heard_by=hall.hubs)
    await quick.next_of(2)
    await hall.gateways.ended(job)

    rest = await slow.until("DONE")
    assert kinds([first]) == ["section_text"]
    assert kinds(rest) == ["section_finished", "section_finished", "DONE"]


async def test_a_place_in_the_queue_is_shown_until_the_turn_comes(hall: Hall) -> None:
    job = await hall.gateways.create()
    watch = Watch(hall.hubs[0], job)
    await watch.next()

    for position in (3, 2):
        await hall.gateways.database.run(
            lambda connection, position=position: events.show_positions(connection, {job.survey_id: position})
        )
        hall.hubs[0].changed(job.survey_id)
        moved = await watch.next()
        assert (moved.number, moved.queue_moved.queue_position) == (0, position)
    await hall.gateways.begun(job.survey_id)

    assert kinds(await Watch(hall.hubs[0], job).next_of(2)) == ["QUEUED", "RUNNING"]
    assert kinds([await watch.next()]) == ["RUNNING"]


class Reader:
    """Puts a survey together from its events, as a client does, and checks each against those before."""

    def __init__(self, after_number: int) -> None:
        self.number = after_number
        self._texts: dict[tuple[int, int], tuple[int, str]] = {}
        self._finished: set[tuple[int, int]] = set()
        self._done_count = -1

    def take(self, event: Event) -> None:
        if event.number:
            assert event.number == self.number + 1
            self.number += 1
        match kind_of(event):
            case "section_restarted":
                restart = event.section_restarted
                place = (restart.chapter_number, restart.section_number)
                assert restart.attempt > self._texts.get(place, (1, ""))[0]
                self._texts[place] = (restart.attempt, "")
            case "section_text":
                piece = event.section_text
                place = (piece.chapter_number, piece.section_number)
                attempt, text = self._texts.get(place, (1, ""))
                assert place not in self._finished
                assert (piece.attempt, piece.offset) == (attempt, len(text))
                assert piece.text == chr(attempt) * len(piece.text) != ""
                self._texts[place] = (attempt, text + piece.text)
            case "stage_progress":
                assert event.stage_progress.done_count > self._done_count
                self._done_count = event.stage_progress.done_count
            case "section_finished":
                self._finished.add((event.section_finished.chapter_number, event.section_finished.section.number))


async def test_who_comes_after_a_new_beginning_is_shown_nothing_of_before(hall: Hall) -> None:
    """Not even where others have been watching."""
    job = await hall.gateways.running()
    await hall.write(job, live={"stage 5": progress(3)})
    early = Watch(hall.hubs[0], job)
    assert kinds(await early.next_of(3)) == ["QUEUED", "RUNNING", "stage_progress"]
    job = await hall.gateways.begun(job.survey_id)
    await early.next()

    late = Watch(hall.hubs[0], job)
    await late.next_of(3)
    await hall.write(job, live={"stage 4": progress(1, pb.STAGE_ORDER)}, heard_by=hall.hubs)

    assert (await late.next()).stage_progress.stage == pb.STAGE_ORDER


async def test_what_is_read_together_is_of_one_moment(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a text could be sent after its section, or be missed."""
    job = await hall.gateways.running()
    await hall.write(job, live={"section 1.1": section_text("text", place="1.1")})
    is_begun, is_written = threading.Event(), threading.Event()
    marks = events.marks

    def slow_marks(connection: Any, survey_ids: Sequence[str]) -> Any:
        found = marks(connection, survey_ids)
        is_begun.set()
        is_written.wait(PATIENCE_S)
        return found

    monkeypatch.setattr(events, "marks", slow_marks)
    known = {job.survey_id: events.Mark(last_number=0, live_version=0)}
    reading = asyncio.create_task(hall.gateways.another_database().read(functools.partial(watching._news_of, known)))
    await asyncio.to_thread(is_begun.wait)
    await hall.write(job, section_finished("1.1"))
    is_written.set()

    news = (await reading)[job.survey_id]
    assert (numbers(news.events), news.mark.last_number) == ([1, 2], 2)
    assert [row.place for row in news.live] == ["section 1.1"]


async def test_whatever_happens_each_watcher_can_put_the_survey_together(hall: Hall) -> None:
    """Texts grow from their offsets on, and only the newest attempt's; numbers have neither gap nor repeat."""
    draw = random.Random(7)
    job = await hall.gateways.running()

    async def follow(hub: WatchHub, after_number: int, pauses: random.Random) -> int:
        reader = Reader(after_number)
        async for event in hub.events(job.survey_id, after_number):
            reader.take(event)
            if pauses.random() < 0.1:
                await asyncio.sleep(pauses.random() * 0.02)  # a slow one
        return reader.number

    watchers = []
    attempts = {(1, 1): 1, (1, 2): 1, (2, 1): 1}
    lengths = dict.fromkeys(attempts, 0)
    for turn in range(120):
        if turn % 10 == 0:
            start = draw.choice([0, 1, 2])
            watchers += [asyncio.create_task(follow(hub, start, random.Random(turn))) for hub in hall.hubs]
        place = draw.choice(list(attempts))
        if draw.random() < 0.1:
            attempts[place], lengths[place] = attempts[place] + 1, 0
        lengths[place] += draw.randint(0, 5)
        name, text = f"{place[0]}.{place[1]}", chr(attempts[place]) * lengths[place]
        live = {
            f"section {name}": section_text(text, attempt=attempts[place], place=name),
            "stage 6": progress(turn, pb.STAGE_WRITE),
        }
        given = [stage_started()] if draw.random() < 0.2 else []
        await hall.write(job, *given, live=live, heard_by=hall.hubs[: turn % 3])
    for place in attempts:
        await hall.write(job, section_finished(f"{place[0]}.{place[1]}"))
    await hall.gateways.ended(job)

    async with asyncio.timeout(PATIENCE_S):
        last_numbers = await asyncio.gather(*watchers)
    assert set(last_numbers) == {len(await hall.gateways.events(job.survey_id))}


# many, and those who leave


async def test_a_thousand_watchers_of_many_surveys_get_all(hall: Hall) -> None:
    jobs = await hall.gateways.many_running(200)
    watchers = [
        asyncio.create_task(all_of(hall.hubs[place % 2], jobs[place % 200].survey_id)) for place in range(1_000)
    ]

    def go_on(connection: Any) -> None:
        handed = [Handed(survey_id=job.survey_id, attempt=1, events=[section_finished("1.1")]) for job in jobs]
        assert not run_rows.write(connection, handed)

    def end(connection: Any) -> None:
        for job in jobs:
            surveys.end(connection, job.survey_id, 1, pb.SURVEY_STATE_DONE, pb.Survey())

    for _ in range(5):
        await hall.gateways.database.run(go_on)
    await hall.gateways.database.run(end)

    for found in await asyncio.gather(*watchers):
        assert numbers(found) == list(range(1, 9))
    for hub in hall.hubs:
        assert not hub._watched


async def test_a_survey_is_read_once_for_all_its_watchers(hall: Hall) -> None:
    job = await hall.gateways.running()
    await hall.write(job, *(section_finished(f"1.{number}") for number in range(1, 20)))
    await hall.gateways.ended(job)
    slow = [Watch(hall.hubs[0], job) for _ in range(50)]

    firsts = await asyncio.gather(*(watch.next() for watch in slow))

    assert len({id(event) for event in firsts}) == 1
    assert hall.databases[0].read_count <= 3


async def test_nothing_is_left_of_watchers_that_leave(hall: Hall) -> None:
    job = await hall.gateways.running()
    before = asyncio.all_tasks()
    watches = [Watch(hall.hubs[0], job) for _ in range(3)]
    await asyncio.gather(*(watch.next() for watch in watches))
    cancelled = asyncio.create_task(all_of(hall.hubs[0], job.survey_id))
    await asyncio.sleep(0)
    reading = asyncio.all_tasks() - before - {cancelled}

    for watch in watches:
        await watch.leave()
    cancelled.cancel()
    await asyncio.wait([cancelled])

    assert len(reading) == 1
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait(reading)  # it ends by itself: nobody watches
    assert asyncio.all_tasks() == before
    assert not hall.hubs[0]._watched
    assert not hall.hubs[0]._changed
    hall.hubs[0].changed(job.survey_id)
    assert asyncio.all_tasks() == before
    assert await Watch(hall.hubs[0], job).next()  # and begins again when somebody does


# faults


async def test_a_survey_that_is_not_there_is_not_found(hall: Hall) -> None:
    with pytest.raises(NotFound):
        await all_of(hall.hubs[0], "none")


async def test_a_survey_deleted_while_watched_is_not_found(hall: Hall) -> None:
    job, other = await hall.gateways.running(), await hall.gateways.running()
    watches = [Watch(hub, job, after_number=2) for hub in hall.hubs]
    following = [asyncio.create_task(watch.next()) for watch in watches]
    another = Watch(hall.hubs[0], other)
    await another.next_of(2)

    await hall.gateways.database.run(lambda connection: surveys.delete(connection, job.survey_id))

    for task in following:
        with pytest.raises(NotFound):
            await task
    await hall.write(other, stage_started())
    assert kinds([await another.next()]) == ["stage_started"]


async def test_a_database_that_is_away_for_a_moment_holds_a_watcher_up_only(hall: Hall) -> None:
    job = await hall.gateways.running()
    watch = Watch(hall.hubs[0], job)
    hall.databases[0].fail(2)
    assert kinds(await watch.next_of(2)) == ["QUEUED", "RUNNING"]

    hall.databases[0].fail(2)
    await hall.write(job, stage_started(), stage_finished(), heard_by=hall.hubs)
    found = await watch.next_of(2)

    assert numbers(found) == [3, 4]
    assert hall.databases[0].failing_count == 0


async def test_watchers_are_sent_away_when_the_database_stays_away(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PATIENCE_S", 0.0)
    job = await hall.gateways.running()
    watch = Watch(hall.hubs[0], job)
    await watch.next_of(2)
    hall.databases[0].fail(1)

    with pytest.raises(UpstreamFailed):
        await watch.next()

    again = Watch(hall.hubs[0], job, after_number=1)
    assert kinds([await again.next()]) == ["RUNNING"]


async def test_a_hub_that_closes_sends_its_watchers_away(hall: Hall) -> None:
    job = await hall.gateways.running()
    watch = Watch(hall.hubs[0], job)
    await watch.next_of(2)
    following = asyncio.create_task(watch.next())
    await asyncio.sleep(0)

    await hall.hubs[0].close()

    with pytest.raises(UpstreamFailed):
        await following
    with pytest.raises(UpstreamFailed):
        await Watch(hall.hubs[0], job).next()


async def test_a_section_kept_with_its_event_is_there_when_the_event_is(hall: Hall) -> None:
    job = await hall.gateways.running()
    watch = Watch(hall.hubs[1], job, after_number=2)
    following = asyncio.create_task(watch.next())
    handed = Handed(survey_id=job.survey_id, attempt=1, events=[section_finished("1.1")], parts=[a_section("1.1")])
    await hall.gateways.database.run(lambda connection: run_rows.write(connection, [handed]))

    assert kinds([await following]) == ["section_finished"]
    assert await hall.gateways.parts(job.survey_id) == [a_section("1.1")]
