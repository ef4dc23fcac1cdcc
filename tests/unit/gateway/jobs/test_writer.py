"""What runs hand over is written together, in order, surely, and by the attempt under way alone."""

import asyncio
import gc
import itertools
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from survey_rows import (
    Gateways,
    Heard,
    Unsteady,
    a_section,
    kind_of,
    progress,
    section_finished,
    section_text,
    stage_finished,
    stage_started,
)

from gateway.document.draft import Part, PartKind
from gateway.jobs import writer as writing
from gateway.jobs.values import StaleRun
from gateway.jobs.writer import RunWriter, SurveyWriter
from services.common.errors import UpstreamFailed


class Bench:
    """A writer on a database that can be made to fail, and who hears of its commits."""

    def __init__(self, gateways: Gateways) -> None:
        self.gateways = gateways
        self.database = Unsteady(gateways.database)
        self.heard = Heard()
        self.writer: SurveyWriter = gateways.closing(SurveyWriter(self.database, self.heard))  # type: ignore[arg-type]

    async def run(self) -> RunWriter:
        job = await self.gateways.running()
        return self.writer.of(job.survey_id, job.attempt)

    async def kinds(self, run: RunWriter) -> list[str]:
        found = await self.gateways.events(run._survey_id)
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        return [kind_of(event) for event in found][2:]  # what came after QUEUED and RUNNING


@pytest.fixture
async def bench(gateways: Gateways) -> AsyncIterator[Bench]:
    return Bench(gateways)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(writing, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))


async def test_what_was_handed_over_is_durable_after_a_flush(bench: Bench) -> None:
    run = await bench.run()

    run.emit(stage_started(pb.STAGE_WRITE))
    run.keep(Part(kind=PartKind.MISSING, place="1.2", payload=b"late"))
    run.emit(section_finished("1.1"), a_section("1.1", "first"))
    run.emit(section_finished("1.2"), a_section("1.1", "second"), a_section("1.2"))
    await run.flush()

    assert await bench.kinds(run) == ["stage_started", "section_finished", "section_finished"]
    parts = await bench.gateways.parts(run._survey_id)
    assert [(part.kind.value, part.place) for part in parts] == [
        ("missing", "1.2"),
        ("section", "1.1"),
        ("section", "1.2"),
    ]
    assert a_section("1.1", "second") in parts
    assert bench.heard.survey_ids[0] == run._survey_id
    assert not run.is_stale


async def test_a_flush_with_nothing_to_write_returns(bench: Bench) -> None:
    run = await bench.run()

    await run.flush()
    run.emit(stage_started())
    await run.flush()
    await run.flush()

    assert bench.database.run_count == 1


async def test_many_surveys_share_transactions(bench: Bench) -> None:
    runs = [bench.writer.of(job.survey_id, 1) for job in await bench.gateways.many_running(150)]

    for run in runs:
        run.emit(stage_started())
        run.emit(stage_finished())
    await asyncio.gather(*(run.flush() for run in runs))

    assert bench.database.run_count == 2  # a hundred at a time
    for run in runs[::30]:
        assert await bench.kinds(run) == ["stage_started", "stage_finished"]


async def test_what_comes_while_a_transaction_is_under_way_comes_after_it(bench: Bench) -> None:
    run = await bench.run()

    flushes = []
    for place in range(1, 30):
        run.emit(section_finished(f"1.{place}"), a_section(f"1.{place}"))
        flushes.append(asyncio.create_task(run.flush()))
        await asyncio.sleep(0)
    await asyncio.gather(*flushes)

    found = (await bench.gateways.events(run._survey_id))[2:]
    assert [event.section_finished.section.number for event in found] == list(range(1, 30))
    assert bench.database.run_count < 29


async def test_writers_of_two_replicas_number_their_surveys_side_by_side(gateways: Gateways) -> None:
    replicas = [SurveyWriter(gateways.another_database(), Heard()) for _ in range(2)]  # type: ignore[arg-type]
    jobs = [await gateways.running() for _ in range(20)]
    runs = [replicas[place % 2].of(job.survey_id, 1) for place, job in enumerate(jobs)]

    async def go_on(run: RunWriter) -> None:
        for number in range(1, 6):
            run.emit(section_finished(f"1.{number}"), a_section(f"1.{number}"))
            await run.flush()

    await asyncio.gather(*(go_on(run) for run in runs))

    for job in jobs:
        assert [event.number for event in await gateways.events(job.survey_id)] == list(range(1, 8))
        assert len(await gateways.parts(job.survey_id)) == 5
    for replica in replicas:
        await replica.close()


async def test_an_attempt_is_stale_once_another_has_begun(bench: Bench) -> None:
    old, other = await bench.run(), await bench.run()
    told: list[str] = []
    old.on_stale = lambda: told.append("stale")
    job = await bench.gateways.begun(old._survey_id)
    new = bench.writer.of(job.survey_id, job.attempt)

    for run in (old, new, other):  # all in one transaction
        run.emit(section_finished("1.1"), a_section("1.1", f"of attempt {run._attempt}"))
    results = await asyncio.gather(old.flush(), new.flush(), other.flush(), return_exceptions=True)
    old.emit(section_finished("1.2"), a_section("1.2"))
    old.keep(a_section("1.3"))
    old.show("stage 5", lambda: progress(1))

    assert [type(result) for result in results] == [StaleRun, type(None), type(None)]
    assert (old.is_stale, new.is_stale, other.is_stale) == (True, False, False)
    assert told == ["stale"]
    with pytest.raises(StaleRun):
        await old.flush()
    await bench.writer.close()
    found = await bench.gateways.events(old._survey_id)
    assert [kind_of(event) for event in found] == ["QUEUED", "RUNNING", "RUNNING", "section_finished"]
    assert await bench.gateways.parts(old._survey_id) == [a_section("1.1", "of attempt 2")]


async def test_everyone_who_waits_hears_that_the_attempt_is_stale(bench: Bench) -> None:
    run = await bench.run()
    await bench.gateways.cancelled(run._survey_id)

    run.emit(stage_started())
    first = asyncio.create_task(run.flush())
    await asyncio.sleep(0)  # the transaction is under way
    run.emit(stage_finished())

    results = await asyncio.gather(first, run.flush(), return_exceptions=True)
    assert [type(result) for result in results] == [StaleRun, StaleRun]


# what is shown


async def test_of_what_is_shown_only_the_newest_is_made_and_written(bench: Bench) -> None:
    run = await bench.run()
    made: list[int] = []

    def event_of(done: int) -> service_pb.WatchSurveyResponse:
        made.append(done)
        return progress(done)

    for done in range(50):
        run.show("stage 5", lambda done=done: event_of(done))  # type: ignore[misc]
    run.show("section 2.3", lambda: section_text("text so far"))
    await bench.heard.of(1)

    live = await bench.gateways.live(run._survey_id)
    assert made == [49]
    assert live["stage 5"].stage_progress.done_count == 49
    assert live["section 2.3"].section_text.text == "text so far"
    assert bench.database.run_count == 1


async def test_what_is_shown_waits_for_the_pause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and events do not: what is shown then comes with the next ones, or alone."""
    monkeypatch.setattr(writing, "LIVE_EVERY_S", 3600.0)
    run = await bench.run()
    run.show("stage 5", lambda: progress(1))
    await bench.heard.of(1)

    run.show("stage 5", lambda: progress(2))
    run.emit(stage_started())
    await run.flush()

    assert (await bench.gateways.live(run._survey_id))["stage 5"].stage_progress.done_count == 1


async def test_each_pause_lets_the_newest_of_all_surveys_through_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LIVE_EVERY_S", 0.05)
    runs = [await bench.run() for _ in range(5)]
    moments: list[float] = []
    shown = 0

    def event_of() -> service_pb.WatchSurveyResponse:
        moments.append(asyncio.get_running_loop().time())
        return progress(shown)

    while len(bench.heard.survey_ids) < 4 * len(runs):
        shown += 1
        for run in runs:
            run.show("stage 5", event_of)
        await bench.heard.of(len(bench.heard.survey_ids) // 5 * 5 + 5)

    first_of_each = moments[:: len(runs)]
    assert bench.database.run_count == len(first_of_each) == 4
    assert all(after - before >= 0.05 for before, after in itertools.pairwise(first_of_each))
    for run in runs:
        assert (await bench.gateways.live(run._survey_id))["stage 5"].stage_progress.done_count == shown


async def test_what_is_finished_is_not_shown_as_under_way_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LIVE_EVERY_S", 0.05)
    run = await bench.run()
    made: list[str] = []

    def event_of(text: str) -> service_pb.WatchSurveyResponse:
        made.append(text)
        return section_text(text, place="1.1")

    run.show("section 1.1", lambda: event_of("before"))
    await bench.heard.of(1)
    run.show("section 1.1", lambda: event_of("after"))
    run.emit(section_finished("1.1"))
    await run.flush()
    run.show("section 1.2", lambda: section_text("b", place="1.2"))
    await bench.heard.of(3)

    assert made == ["before"]
    assert set(await bench.gateways.live(run._survey_id)) == {"section 1.2"}


async def test_what_is_shown_of_a_survey_that_has_ended_is_let_go(bench: Bench) -> None:
    """A run that has just ended is not told that it may not write."""
    run = await bench.run()
    run.on_stale = lambda: pytest.fail("it has ended by itself")
    await bench.gateways.ended(await bench.gateways.found(run._survey_id))

    run.show("stage 5", lambda: progress(1))
    await bench.heard.of(1)
    await run.flush()

    assert not run.is_stale
    assert await bench.gateways.live(run._survey_id) == {}


# faults


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("is_done_first", [False, True], ids=["before", "after the commit"])
async def test_a_database_that_is_away_for_a_moment_loses_and_repeats_nothing(
    bench: Bench, is_done_first: bool
) -> None:
    runs = [await bench.run() for _ in range(3)]
    bench.database.fail(3, is_done_first=is_done_first)

    for run in runs:
        run.emit(stage_started())
        run.emit(section_finished("1.1"), a_section("1.1"))
        run.keep(a_section("1.2"))
    flushes = [asyncio.create_task(run.flush()) for run in runs]
    await asyncio.sleep(0)
    for run in runs:
        run.emit(stage_finished())
    await asyncio.gather(*flushes, *(run.flush() for run in runs))

    for run in runs:
        assert await bench.kinds(run) == ["stage_started", "section_finished", "stage_finished"]
        assert await bench.gateways.parts(run._survey_id) == [a_section("1.1"), a_section("1.2")]
    assert bench.database.failing_count == 0


@pytest.mark.usefixtures("quick")
async def test_a_database_that_stays_away_fails_the_runs_that_wait(bench: Bench) -> None:
    """Nothing of such a run is written later: it would come after a gap."""
    run = await bench.run()
    bench.database.fail(100)

    run.emit(stage_started())
    flush = asyncio.create_task(run.flush())
    await asyncio.sleep(0)
    run.emit(stage_finished())
    results = await asyncio.gather(flush, run.flush(), return_exceptions=True)
    bench.database.fail(0)
    run.emit(section_finished("1.1"))

    assert [type(result) for result in results] == [UpstreamFailed, UpstreamFailed]
    with pytest.raises(UpstreamFailed):
        await run.flush()
    assert not run.is_stale
    assert await bench.kinds(run) == []
    other = await bench.run()
    other.emit(stage_started())
    await other.flush()


@pytest.mark.usefixtures("quick")
async def test_what_cannot_be_written_fails_its_own_run_only(bench: Bench) -> None:
    runs = [await bench.run() for _ in range(3)]
    broken: Any = None

    for run in runs:
        run.emit(section_finished("1.1"), a_section("1.1"))
    runs[1].keep(Part(kind=PartKind.SECTION, place="1.2", payload=broken))
    results = await asyncio.gather(*(run.flush() for run in runs), return_exceptions=True)

    assert [type(result) for result in results] == [type(None), UpstreamFailed, type(None)]
    assert [await bench.kinds(run) for run in runs] == [["section_finished"], [], ["section_finished"]]


async def test_an_event_that_cannot_be_made_fails_its_own_run_only(bench: Bench) -> None:
    run, other = await bench.run(), await bench.run()

    run.show("stage 5", lambda: progress(1 // 0))
    other.show("stage 5", lambda: progress(1))
    other.emit(stage_started())
    await other.flush()

    with pytest.raises(ZeroDivisionError):
        await run.flush()
    assert await bench.kinds(other) == ["stage_started"]


# the end


async def test_closing_writes_what_was_handed_over(bench: Bench) -> None:
    runs = [await bench.run() for _ in range(3)]
    for run in runs:
        run.emit(stage_started(), a_section("1.1"))

    await bench.writer.close()

    for run in runs:
        assert await bench.kinds(run) == ["stage_started"]


async def test_nothing_is_kept_of_a_run_that_hands_nothing_over(bench: Bench) -> None:
    run = await bench.run()
    run.emit(stage_started())
    run.show("stage 5", lambda: progress(1))
    await run.flush()
    await bench.heard.of(1)
    await bench.writer.close()
    left = weakref.ref(run)

    del run
    gc.collect()

    assert left() is None
