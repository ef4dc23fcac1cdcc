"""The rows of surveys: made once, numbered without gap, changed by one at a time, listed by page."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import survey_pb2 as pb
from survey_rows import (
    LIMITS,
    OWNER,
    Gateways,
    a_job,
    a_request,
    a_section,
    kind_of,
    progress,
    section_finished,
    section_text,
    stage_finished,
    stage_started,
)

from gateway.document.draft import Part, PartKind
from gateway.jobs.values import Job, JobFilter, NewJob, QueueLimits, StaleRun
from gateway.store import events, run_rows, surveys
from gateway.store.run_rows import Handed
from services.common.database import Database
from services.common.errors import AlreadyExists, InvalidRequest, NotFound, QueueFull

MINE = JobFilter(tenant="tenant-a")


async def create(database: Database, new: NewJob, limits: QueueLimits = LIMITS) -> tuple[Job, bool]:
    return await database.run(lambda connection: surveys.create(connection, new, limits))


async def write(database: Database, *handed: Handed) -> list[Handed]:
    return await database.run(lambda connection: run_rows.write(connection, handed))


async def listed(
    gateways: Gateways, which: JobFilter = MINE, size: int = 50, token: str = ""
) -> tuple[list[pb.Survey], str]:
    return await gateways.database.read(lambda connection: surveys.page(connection, which, size, token))


def numbers(found: Sequence[events.Event]) -> list[int]:
    return [event.number for event in found]


def kinds(found: Sequence[events.Event]) -> list[str]:
    return [kind_of(event) for event in found]


# making


async def test_a_new_survey_waits_and_says_so(gateways: Gateways) -> None:
    new = a_job(a_request("What is new?", labels={"team": "search"}))

    job, is_new = await create(gateways.database, new)

    assert is_new
    assert (job.state, job.run, job.attempt, job.owner) == (pb.SURVEY_STATE_QUEUED, 0, 0, "")
    assert (job.request, job.spec, job.tenant, job.trace) == (new.request, new.spec, new.tenant, new.trace)
    assert await gateways.found(job.survey_id) == job
    (event,) = await gateways.events(job.survey_id)
    assert (event.number, kind_of(event), event.state_changed.attempt) == (1, "QUEUED", 0)
    assert abs(event.happened_at.ToMilliseconds() / 1000 - job.created_at) < 0.01


async def test_the_same_request_gives_the_same_survey(gateways: Gateways) -> None:
    request = a_request(request_id="once", labels={"a": "1", "b": "2"})
    first, _ = await create(gateways.database, a_job(request))

    again, is_new = await create(gateways.database, a_job(request))

    assert (again, is_new) == (first, False)
    assert await gateways.sql("SELECT count(*) AS count FROM survey") == [{"count": 1}]


async def test_requests_without_an_id_are_different_surveys(gateways: Gateways) -> None:
    made = [await create(gateways.database, a_job(a_request())) for _ in range(2)]

    assert [is_new for _, is_new in made] == [True, True]


async def create_while_another_does(
    gateways: Gateways, first: NewJob, second: NewJob, limits: QueueLimits = LIMITS
) -> tuple[Any, Any]:
    """Make two surveys on two replicas; the first holds its transaction open for as long as the second can wait."""
    is_made, is_second_made = threading.Event(), threading.Event()

    def make_first(connection: Any) -> tuple[Job, bool]:
        made = surveys.create(connection, first, limits)
        is_made.set()
        is_second_made.wait(0.2)  # in vain: the second one has to wait for this transaction's end
        return made

    def make_second(connection: Any) -> tuple[Job, bool]:
        try:
            return surveys.create(connection, second, limits)
        finally:
            is_second_made.set()

    making = asyncio.create_task(gateways.database.run(make_first))
    await asyncio.to_thread(is_made.wait)
    other = gateways.another_database().run(make_second)
    made, other_made = await asyncio.gather(making, other, return_exceptions=True)
    return made, other_made


async def test_two_replicas_make_one_survey_of_one_request(gateways: Gateways) -> None:
    request = a_request(request_id="once")

    first, second = await create_while_another_does(gateways, a_job(request), a_job(request))

    assert (first[1], second) == (True, (first[0], False))
    replicas = [gateways.database, gateways.another_database()]
    made = await asyncio.gather(*(create(replica, a_job(request)) for replica in replicas * 4))
    assert made == [(first[0], False)] * 8
    assert numbers(await gateways.events(first[0].survey_id)) == [1]


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        pytest.param(a_request("Another?", request_id="once"), "spec.question", id="question"),
        pytest.param(a_request(request_id="once", max_papers=40), "spec.max_papers", id="limit"),
        pytest.param(
            a_request(request_id="once", max_cost_nano_usd=0), "spec.max_cost_nano_usd", id="no budget is not 0"
        ),
        pytest.param(a_request(request_id="once", labels={"a": "b"}), "labels", id="labels"),
        pytest.param(
            a_request("Another?", request_id="once", language="ja", labels={"a": "b"}),
            "spec.question, spec.language, labels",
            id="several",
        ),
    ],
)
async def test_another_request_of_the_same_id_is_refused_with_the_difference(
    gateways: Gateways, changed: Any, difference: str
) -> None:
    await create(gateways.database, a_job(a_request(request_id="once")))

    with pytest.raises(AlreadyExists) as failure:
        await create(gateways.database, a_job(changed))

    assert failure.value.message == f"request_id 'once' exists with another {difference}"


async def test_another_tenants_request_id_is_another_one(gateways: Gateways) -> None:
    await create(gateways.database, a_job(a_request(request_id="once"), tenant="tenant-a"))

    _, is_new = await create(gateways.database, a_job(a_request("Other?", request_id="once"), tenant="tenant-b"))

    assert is_new


async def test_a_tenants_queue_is_full_while_another_tenants_is_not(gateways: Gateways) -> None:
    """What may be under way at once does not wait, so it is not counted as waiting."""
    limits = QueueLimits(max_running=2, max_queued=1, max_queued_overall=100)
    for _ in range(3):
        await create(gateways.database, a_job(), limits)

    with pytest.raises(QueueFull) as failure:
        await create(gateways.database, a_job(), limits)
    await create(gateways.database, a_job(tenant="tenant-b"), limits)

    assert failure.value.metadata["limit"] == "3"
    assert failure.value.retry_after_s > 0


async def test_the_queue_of_all_is_full(gateways: Gateways) -> None:
    limits = QueueLimits(max_running=10, max_queued=10, max_queued_overall=2)
    await gateways.running(tenant="tenant-c")  # has left the queue
    for tenant in ("tenant-a", "tenant-b"):
        await create(gateways.database, a_job(tenant=tenant), limits)

    with pytest.raises(QueueFull):
        await create(gateways.database, a_job(tenant="tenant-c"), limits)


async def test_a_full_queue_still_gives_the_survey_that_a_request_made(gateways: Gateways) -> None:
    limits = QueueLimits(max_running=1, max_queued=0, max_queued_overall=1)
    request = a_request(request_id="once")
    first, _ = await create(gateways.database, a_job(request), limits)

    assert (await create(gateways.database, a_job(request), limits))[0] == first


async def test_two_replicas_cannot_fill_the_last_place_twice(gateways: Gateways) -> None:
    limits = QueueLimits(max_running=1, max_queued=0, max_queued_overall=100)

    first, second = await create_while_another_does(gateways, a_job(), a_job(), limits)

    assert first[1]
    assert isinstance(second, QueueFull)


# finding


async def test_what_is_not_there_or_another_tenants_is_not_found(gateways: Gateways) -> None:
    job = await gateways.create()

    for survey_id, tenant in (("none", None), ("no\0ne", None), (job.survey_id, "tenant-b")):
        with pytest.raises(NotFound) as failure:
            await gateways.database.read(
                lambda connection, survey_id=survey_id, tenant=tenant: surveys.find(connection, survey_id, tenant)
            )
        assert failure.value.metadata == {"kind": "survey", "name": survey_id}
    assert await gateways.database.read(lambda c: surveys.find(c, job.survey_id, "tenant-a")) == job


# numbers and the fence


async def test_replicas_number_events_of_one_survey_without_gap_or_repeat(gateways: Gateways) -> None:
    job = await gateways.running()
    replicas = [gateways.database, gateways.another_database()]

    async def write_some(replica: Database) -> None:
        for count in (1, 3, 2):
            given = [stage_started() for _ in range(count)]
            assert not await write(replica, Handed(survey_id=job.survey_id, attempt=job.attempt, events=given))

    await asyncio.gather(*(write_some(replica) for replica in replicas * 3))

    assert numbers(await gateways.events(job.survey_id)) == list(range(1, 2 + 6 * 6 + 1))


async def test_replicas_write_the_same_surveys_in_any_order_without_a_deadlock(gateways: Gateways) -> None:
    jobs = await gateways.many_running(60)
    replicas = [gateways.database, gateways.another_database()]

    async def write_all(replica: Database, ordered: Sequence[Job]) -> None:
        for _ in range(5):
            handed = [Handed(survey_id=job.survey_id, attempt=1, events=[stage_started()]) for job in ordered]
            assert not await write(replica, *handed)

    await asyncio.gather(write_all(replicas[0], jobs), write_all(replicas[1], jobs[::-1]))

    for job in jobs[::20]:
        assert numbers(await gateways.events(job.survey_id)) == list(range(1, 13))


async def test_the_old_attempt_writes_nothing_once_another_has_begun(gateways: Gateways) -> None:
    old = await gateways.running()
    new = await gateways.begun(old.survey_id, owner="replica-2")
    other = await gateways.running()
    before = await gateways.events(old.survey_id)
    handed = Handed(
        survey_id=old.survey_id,
        attempt=old.attempt,
        events=[section_finished("1.1")],
        parts=[a_section("1.1")],
        live={"section 1.2": section_text("text")},
    )
    fresh = Handed(survey_id=other.survey_id, attempt=1, events=[stage_started()])

    stale = await write(gateways.database, handed, fresh)
    with pytest.raises(StaleRun):
        await gateways.ended(old)

    assert stale == [handed]
    assert (new.attempt, new.owner) == (2, "replica-2")
    assert await gateways.events(old.survey_id) == before
    assert await gateways.parts(old.survey_id) == []
    assert await gateways.live(old.survey_id) == {}
    assert kinds(await gateways.events(other.survey_id)) == ["QUEUED", "RUNNING", "stage_started"]
    assert (await gateways.found(old.survey_id)).state == pb.SURVEY_STATE_RUNNING


@pytest.mark.parametrize("how", ["ended", "cancelled", "deleted"])
async def test_an_attempt_of_a_survey_that_is_over_writes_nothing(gateways: Gateways, how: str) -> None:
    job = await gateways.running()
    if how == "ended":
        await gateways.ended(job)
    else:
        await gateways.cancelled(job.survey_id)
    if how == "deleted":
        await gateways.database.run(lambda connection: surveys.delete(connection, job.survey_id))
    before = await gateways.events(job.survey_id)

    handed = Handed(survey_id=job.survey_id, attempt=1, events=[stage_started()], parts=[a_section("1.1")])

    assert await write(gateways.database, handed) == [handed]
    assert await gateways.events(job.survey_id) == before
    assert await gateways.parts(job.survey_id) == []


async def test_a_broken_transaction_keeps_neither_the_event_nor_its_part(gateways: Gateways) -> None:
    job = await gateways.running()
    handed = Handed(survey_id=job.survey_id, attempt=1, events=[section_finished("1.1")], parts=[a_section("1.1")])

    def work(connection: Any) -> None:
        run_rows.write(connection, [handed])
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await gateways.database.run(work)

    assert kinds(await gateways.events(job.survey_id)) == ["QUEUED", "RUNNING"]
    assert await gateways.parts(job.survey_id) == []
    await write(gateways.database, handed)
    assert numbers(await gateways.events(job.survey_id)) == [1, 2, 3]
    assert await gateways.parts(job.survey_id) == [a_section("1.1")]


async def test_what_was_committed_unheard_is_not_written_twice(gateways: Gateways) -> None:
    jobs = [await gateways.running() for _ in range(2)]
    handed = [Handed(survey_id=job.survey_id, attempt=1, events=[stage_started()]) for job in jobs]
    await write(gateways.database, handed[0])

    missing = await gateways.database.run(lambda connection: run_rows.without_written(connection, handed))

    assert missing == [handed[1]]


async def test_what_another_wrote_under_the_same_number_is_not_taken_for_ones_own(gateways: Gateways) -> None:
    job = await gateways.running()
    mine = Handed(survey_id=job.survey_id, attempt=1, events=[section_finished("1.1")])

    def broken(connection: Any) -> None:
        run_rows.write(connection, [mine])
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await gateways.database.run(broken)
    await gateways.begun(job.survey_id)  # its event has the number that the broken transaction gave

    missing = await gateways.database.run(lambda connection: run_rows.without_written(connection, [mine]))

    assert mine.events[0].number == len(await gateways.events(job.survey_id)) == 3
    assert missing == [mine]


async def test_a_finished_section_and_stage_are_shown_as_under_way_no_more(gateways: Gateways) -> None:
    job = await gateways.running()
    live = {
        "stage 5": progress(3),
        "stage 6": progress(1, pb.STAGE_WRITE),
        "section 2.3": section_text("a"),
        "section 2.4": section_text("b", place="2.4"),
    }
    await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, live=live))
    finished = [stage_finished(pb.STAGE_SUMMARIZE), section_finished("2.3")]

    await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, events=finished))

    assert set(await gateways.live(job.survey_id)) == {"stage 6", "section 2.4"}


async def test_what_is_shown_is_the_newest_and_its_version_grows(gateways: Gateways) -> None:
    job = await gateways.running()

    for text in ("a", "ab"):
        live = {"section 2.3": section_text(text), "stage 5": progress(1)}
        await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, live=live))
    await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, live={"stage 5": progress(2)}))

    def read(connection: Any) -> list[events.LiveRow]:
        return events.live_after(connection, job.survey_id, 0)

    rows = await gateways.database.read(read)
    assert [(row.place, row.event.number) for row in rows] == [("section 2.3", 0), ("stage 5", 0)]
    assert rows[0].event.section_text.text == "ab"
    assert rows[1].event.stage_progress.done_count == 2
    assert rows[0].version < rows[1].version


# states


async def test_begin_needs_the_run_under_way(gateways: Gateways) -> None:
    queued = await gateways.create()
    running = await gateways.running()

    async def begin(job: Job, run: int) -> Job | None:
        return await gateways.database.run(lambda connection: surveys.begin(connection, job.survey_id, run, OWNER))

    assert await begin(queued, 0) is None
    assert await begin(running, 2) is None
    again = await begin(running, 1)
    assert again is not None
    assert (again.attempt, again.run) == (2, 1)
    await gateways.cancelled(running.survey_id)
    assert await begin(running, 1) is None
    assert kinds(await gateways.events(running.survey_id)) == ["QUEUED", "RUNNING", "RUNNING", "CANCELLED"]
    assert [event.state_changed.attempt for event in await gateways.events(running.survey_id)] == [0, 1, 2, 0]


async def test_a_survey_that_begins_shows_nothing_of_what_was_under_way(gateways: Gateways) -> None:
    job = await gateways.create()
    await gateways.database.run(lambda connection: events.show_positions(connection, {job.survey_id: 3, "none": 4}))
    assert (await gateways.live(job.survey_id))["queue"].queue_moved.queue_position == 3

    job = await gateways.begun(job.survey_id)
    assert await gateways.live(job.survey_id) == {}

    await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, live={"section 2.3": section_text("a")}))
    await gateways.begun(job.survey_id)
    assert await gateways.live(job.survey_id) == {}


async def test_positions_are_shown_to_those_that_wait_only(gateways: Gateways) -> None:
    job = await gateways.running()

    await gateways.database.run(lambda connection: events.show_positions(connection, {job.survey_id: 3}))

    assert await gateways.live(job.survey_id) == {}


@pytest.mark.parametrize(
    ("state", "last"),
    [
        pytest.param(pb.SURVEY_STATE_DONE, "DONE", id="done"),
        pytest.param(pb.SURVEY_STATE_PARTIAL, "PARTIAL", id="partial"),
        pytest.param(pb.SURVEY_STATE_NO_PAPERS, "NO_PAPERS", id="no papers"),
        pytest.param(pb.SURVEY_STATE_FAILED, "failed", id="failed"),
    ],
)
async def test_the_last_event_comes_with_the_end(gateways: Gateways, state: Any, last: str) -> None:
    job = await gateways.running()
    await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, live={"stage 5": progress(1)}))
    report = Part(kind=PartKind.REPORT, place="1", payload=pb.StageReport(stage=pb.STAGE_PLAN).SerializeToString())

    await gateways.ended(job, state, report)

    found = await gateways.found(job.survey_id)
    assert (found.state, found.owner, found.has_ended) == (state, "", True)
    assert found.finished_at is not None
    assert kinds(await gateways.events(job.survey_id)) == ["QUEUED", "RUNNING", last]
    assert await gateways.parts(job.survey_id) == [report]
    assert await gateways.live(job.survey_id) == {}
    if last == "failed":
        assert (await gateways.events(job.survey_id))[-1].failed.reason == "UPSTREAM_FAILED"


async def test_of_an_end_and_a_cancel_at_once_one_is_the_last_event(gateways: Gateways) -> None:
    replicas = [gateways.database, gateways.another_database()]
    for turn in range(6):
        job = await gateways.running()
        head = pb.Survey(survey_id=job.survey_id)
        work = [
            lambda connection, job=job, head=head: surveys.end(
                connection, job.survey_id, 1, pb.SURVEY_STATE_DONE, head
            ),
            lambda connection, job=job: surveys.cancel(connection, job.survey_id),
            lambda connection, job=job: surveys.cancel(connection, job.survey_id),
        ]
        order = work if turn % 2 else work[::-1]

        results = await asyncio.gather(
            *(replicas[place % 2].run(each) for place, each in enumerate(order)), return_exceptions=True
        )

        state = (await gateways.found(job.survey_id)).state
        name = pb.SurveyState.Name(state).removeprefix("SURVEY_STATE_")
        assert kinds(await gateways.events(job.survey_id)) == ["QUEUED", "RUNNING", name]
        assert [each.state for each in results if isinstance(each, Job)] == [state]
        assert any(isinstance(each, StaleRun) for each in results) == (state == pb.SURVEY_STATE_CANCELLED)


async def test_a_queued_survey_can_be_cancelled_once(gateways: Gateways) -> None:
    job = await gateways.create()

    assert await gateways.cancelled(job.survey_id)
    assert not await gateways.cancelled(job.survey_id)
    assert kinds(await gateways.events(job.survey_id)) == ["QUEUED", "CANCELLED"]


@pytest.mark.parametrize("state", sorted(surveys.RESUMABLE))
async def test_a_resumed_survey_waits_again_without_the_parts_to_redo(gateways: Gateways, state: Any) -> None:
    job = await gateways.running()
    failure = Part(kind=PartKind.FAILURE, payload=pb.Failure(reason="X").SerializeToString())
    missing = Part(kind=PartKind.MISSING, place="2.3", payload=b"out of time")
    await write(
        gateways.database,
        Handed(survey_id=job.survey_id, attempt=1, parts=[failure, missing, a_section("2.2"), a_section("2.3")]),
    )
    if state == pb.SURVEY_STATE_CANCELLED:
        await gateways.cancelled(job.survey_id)
    else:
        await gateways.ended(job, state)
    await gateways.database.run(lambda connection: surveys.settled(connection, job.survey_id))
    redo = [(PartKind.FAILURE, ""), (PartKind.MISSING, "2.3"), (PartKind.DROPPED, "none")]

    resumed = await gateways.database.run(lambda connection: surveys.resume(connection, job.survey_id, redo, LIMITS))

    assert (resumed.state, resumed.attempt, resumed.run) == (pb.SURVEY_STATE_QUEUED, 1, 1)
    assert (resumed.finished_at, resumed.deadline_at) == (None, None)
    (row,) = await gateways.sql("SELECT settled_at, queued_at, created_at FROM survey")
    assert row["settled_at"] is None
    assert row["queued_at"] > row["created_at"]
    assert await gateways.parts(job.survey_id) == [a_section("2.2"), a_section("2.3")]
    assert kinds(await gateways.events(job.survey_id))[-1] == "QUEUED"
    begun = await gateways.begun(job.survey_id)
    assert (begun.run, begun.attempt) == (2, 2)


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "DONE", "NO_PAPERS"])
async def test_what_is_not_to_be_resumed_stays_as_it_is(gateways: Gateways, state: str) -> None:
    job = await (gateways.create() if state == "QUEUED" else gateways.running())
    if state in {"DONE", "NO_PAPERS"}:
        await gateways.ended(job, pb.SurveyState.Value(f"SURVEY_STATE_{state}"))
    before = await gateways.events(job.survey_id)

    found = await gateways.database.run(lambda connection: surveys.resume(connection, job.survey_id, [], LIMITS))

    assert pb.SurveyState.Name(found.state) == f"SURVEY_STATE_{state}"
    assert await gateways.events(job.survey_id) == before


async def test_a_survey_is_not_resumed_into_a_full_queue(gateways: Gateways) -> None:
    job = await gateways.create()
    await gateways.cancelled(job.survey_id)
    await gateways.create()
    limits = QueueLimits(max_running=1, max_queued=0, max_queued_overall=10)

    with pytest.raises(QueueFull):
        await gateways.database.run(lambda connection: surveys.resume(connection, job.survey_id, [], limits))

    assert (await gateways.found(job.survey_id)).state == pb.SURVEY_STATE_CANCELLED


async def test_a_survey_resumed_twice_at_once_waits_once(gateways: Gateways) -> None:
    replicas = [gateways.database, gateways.another_database()]
    job = await gateways.create()
    await gateways.cancelled(job.survey_id)

    await asyncio.gather(
        *(replica.run(lambda c: surveys.resume(c, job.survey_id, [], LIMITS)) for replica in replicas * 2)
    )

    assert kinds(await gateways.events(job.survey_id)) == ["QUEUED", "CANCELLED", "QUEUED"]


async def test_parts_of_an_ended_survey_can_be_replaced(gateways: Gateways) -> None:
    job = await gateways.running()
    head = pb.Survey(survey_id=job.survey_id, title="Another title")

    def rewrite(connection: Any) -> None:
        surveys.replace(connection, job.survey_id, head, a_section("1.1", "new"))

    with pytest.raises(StaleRun):
        await gateways.database.run(rewrite)
    await gateways.ended(job, pb.SURVEY_STATE_DONE, a_section("1.1", "old"))
    before = await gateways.events(job.survey_id)
    await gateways.database.run(rewrite)

    assert await gateways.parts(job.survey_id) == [a_section("1.1", "new")]
    assert await gateways.events(job.survey_id) == before
    assert (await listed(gateways))[0][0].title == "Another title"
    await gateways.database.run(lambda connection: surveys.delete(connection, job.survey_id))
    with pytest.raises(StaleRun):
        await gateways.database.run(rewrite)


async def test_a_deleted_survey_leaves_its_labels_only(gateways: Gateways) -> None:
    job = await gateways.running(a_request("A secret question", labels={"team": "search"}))
    other = await gateways.running()
    for each in (job, other):
        handed = Handed(
            survey_id=each.survey_id,
            attempt=1,
            events=[stage_started()],
            parts=[a_section("1.1")],
            live={"section 1.2": section_text("text")},
        )
        await write(gateways.database, handed)
    await gateways.cancelled(job.survey_id)

    await gateways.database.run(lambda connection: surveys.delete(connection, job.survey_id))

    for table, left in (("survey", 1), ("survey_part", 1), ("survey_event", 3), ("survey_live", 1)):
        rows = await gateways.sql(f"SELECT survey_id FROM {table}")  # noqa: S608  # names of ours
        assert [row["survey_id"] for row in rows] == [other.survey_id] * left
    assert await gateways.sql("SELECT * FROM survey_label") == [
        {"survey_id": job.survey_id, "key": "team", "value": "search"}
    ]


async def test_what_is_deleted_cannot_be_read_from_the_file(file_gateways: Gateways) -> None:
    job = await file_gateways.create(a_request("A secret question"))
    await file_gateways.cancelled(job.survey_id)
    await file_gateways.database.run(lambda connection: surveys.delete(connection, job.survey_id))

    await file_gateways.close()  # the write-ahead log goes with the last connection
    stored = (file_gateways.shared.data_dir / "gateway.sqlite3").read_bytes()

    assert b"survey_part" in stored
    assert b"A secret question" not in stored


# drafts


async def test_the_same_parts_make_the_same_draft_in_whatever_order_they_came(gateways: Gateways) -> None:
    places = ["1.10", "1.2", "1.1"]
    given = [
        *(a_section(place, place) for place in places),
        Part(kind=PartKind.MISSING, place="1.2", payload=b"was late"),
        Part(kind=PartKind.MISSING, place="2.1", payload="zu spät".encode()),
        *(Part(kind=PartKind.DROPPED, place=paper_id, payload=b"x") for paper_id in ("b", "B", "a")),
        Part(kind=PartKind.FRAME, payload=generation_pb.FrameText(title="A title").SerializeToString()),
    ]
    drafts = []
    for order in (given, given[::-1]):
        job = await gateways.running()
        for part in order:
            await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, parts=[part]))
        drafts.append(await gateways.database.read(lambda c, job=job: surveys.draft_of(c, job)))

    one, other = drafts
    assert list(one.sections) == list(other.sections) == [(1, 1), (1, 10), (1, 2)]
    assert one.missing_sections == other.missing_sections == {(2, 1): "zu spät"}
    assert list(one.dropped) == list(other.dropped) == ["B", "a", "b"]
    assert one.frame == other.frame == generation_pb.FrameText(title="A title")


async def test_of_the_same_part_the_last_one_stays(gateways: Gateways) -> None:
    job = await gateways.running()
    twice = [a_section("1.1", "first"), a_section("1.1", "second")]

    await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, parts=twice))
    assert await gateways.parts(job.survey_id) == [a_section("1.1", "second")]

    await write(gateways.database, Handed(survey_id=job.survey_id, attempt=1, parts=[a_section("1.1", "third")]))
    assert await gateways.parts(job.survey_id) == [a_section("1.1", "third")]


async def test_a_draft_says_how_its_job_stands(gateways: Gateways) -> None:
    request = a_request(labels={"team": "search"})
    first, second = await gateways.create(request), await gateways.create(request)

    async def draft(survey_id: str) -> Any:
        return await gateways.database.read(lambda c: surveys.draft_of(c, surveys.find(c, survey_id)))

    waiting = await draft(second.survey_id)
    assert (waiting.state, waiting.queue_position, waiting.attempt) == (pb.SURVEY_STATE_QUEUED, 2, 0)
    assert waiting.labels == {"team": "search"}
    assert waiting.spec == second.spec
    assert waiting.created_at.timestamp() == pytest.approx(second.created_at, abs=1e-5)
    job = await gateways.begun(first.survey_id)
    await gateways.ended(job)
    ended = await draft(first.survey_id)
    assert (ended.state, ended.queue_position, ended.attempt) == (pb.SURVEY_STATE_DONE, 0, 1)
    assert ended.finished_at is not None


# lists


async def test_a_list_shows_every_survey_as_it_is_now(gateways: Gateways) -> None:
    """The stored form of a survey is from when it was made or ended; a list never shows an old state."""
    queued = [await gateways.create() for _ in range(2)]
    running = await gateways.running()
    failed = await gateways.running()
    await gateways.ended(failed, pb.SURVEY_STATE_FAILED)
    resumed = await gateways.running()
    head = pb.Survey(survey_id=resumed.survey_id, title="A title", failure=pb.Failure(reason="X"), queue_position=7)
    head.finished_at.GetCurrentTime()
    await gateways.database.run(
        lambda c: surveys.end(c, resumed.survey_id, 1, pb.SURVEY_STATE_FAILED, head, failure=pb.Failure(reason="X"))
    )
    await gateways.database.run(lambda c: surveys.resume(c, resumed.survey_id, [], LIMITS))
    cancelled = await gateways.create(a_request("A question", labels={"team": "search"}))
    await gateways.cancelled(cancelled.survey_id)

    surveys_listed, token = await listed(gateways)

    assert token == ""
    shown = {each.survey_id: each for each in surveys_listed}
    assert list(shown) == [each.survey_id for each in (cancelled, resumed, failed, running, queued[1], queued[0])]
    states = [pb.SurveyState.Name(each.state).removeprefix("SURVEY_STATE_") for each in surveys_listed]
    assert states == ["CANCELLED", "QUEUED", "FAILED", "RUNNING", "QUEUED", "QUEUED"]
    assert [each.queue_position for each in surveys_listed] == [0, 3, 0, 0, 2, 1]
    assert [each.attempt for each in surveys_listed] == [0, 1, 1, 1, 0, 0]
    assert [each.HasField("finished_at") for each in surveys_listed] == [True, False, True, False, False, False]
    assert not shown[resumed.survey_id].HasField("failure")
    assert shown[resumed.survey_id].title == "A title"
    assert shown[cancelled.survey_id].labels == {"team": "search"}
    assert shown[cancelled.survey_id].spec == cancelled.spec
    assert shown[cancelled.survey_id].created_at.ToMilliseconds() / 1000 == pytest.approx(
        cancelled.created_at, abs=0.002
    )


async def test_pages_show_each_survey_once_whatever_is_made_or_deleted_meanwhile(gateways: Gateways) -> None:
    jobs = [await gateways.create() for _ in range(7)]
    newest_first = [job.survey_id for job in reversed(jobs)]

    first, token = await listed(gateways, size=3)
    await gateways.create()  # newer than the first page
    for gone in (newest_first[2], newest_first[3]):  # the last one of the first page and the first of the second
        await gateways.cancelled(gone)
        await gateways.database.run(lambda connection, gone=gone: surveys.delete(connection, gone))
    second, last_token = await listed(gateways, size=3, token=token)

    assert [each.survey_id for each in first] == newest_first[:3]
    assert [each.survey_id for each in second] == newest_first[4:]
    assert last_token == ""


async def test_a_page_that_is_just_full_is_the_last_one(gateways: Gateways) -> None:
    for _ in range(3):
        await gateways.create()

    assert (await listed(gateways, size=3))[1] == ""
    assert (await listed(gateways, size=2))[1] != ""


async def test_a_token_that_is_none_is_refused(gateways: Gateways) -> None:
    for token in ("x", "-1", "1.5", "\N{FULLWIDTH DIGIT ONE}", "9" * 19, "survey-1", " 1"):
        with pytest.raises(InvalidRequest) as failure:
            await listed(gateways, token=token)
        assert [violation.field for violation in failure.value.violations] == ["page_token"], token


async def test_filters_hold_together_and_for_one_tenant(gateways: Gateways) -> None:
    labels = [{"team": "search"}, {"team": "search", "env": "prod"}, {"team": "ads", "env": "prod"}, {}]
    jobs = [await gateways.create(a_request(labels=each)) for each in labels * 2]
    for place, job in enumerate(jobs):
        await gateways.sql(
            "UPDATE survey SET created_at = :moment WHERE survey_id = :id", moment=1000.0 + place, id=job.survey_id
        )
    for job in jobs[4:]:
        await gateways.cancelled(job.survey_id)
    await gateways.create(a_request(labels={"team": "search", "env": "prod"}), tenant="tenant-b")

    async def found(**filters: Any) -> list[int]:
        pages, token = await listed(gateways, replace(MINE, **filters), 1)
        while token:
            shown, token = await listed(gateways, replace(MINE, **filters), 1, token)
            pages += shown
        return [[job.survey_id for job in jobs].index(each.survey_id) for each in pages]

    both = (("team", "search"), ("env", "prod"))
    assert await found(labels=(("team", "search"),)) == [5, 4, 1, 0]
    assert await found(labels=both) == [5, 1]
    assert await found(labels=both, states=frozenset({pb.SURVEY_STATE_CANCELLED})) == [5]
    assert await found(labels=(("team", "none"),)) == []
    assert await found(states=frozenset({pb.SURVEY_STATE_QUEUED, pb.SURVEY_STATE_DONE})) == [3, 2, 1, 0]
    assert await found(created_from=1002.0) == [7, 6, 5, 4, 3, 2]
    assert await found(created_before=1002.0) == [1, 0]
    assert await found(created_from=1001.0, created_before=1006.0, labels=(("env", "prod"),)) == [5, 2, 1]


async def test_a_page_of_many_surveys_is_read_through_the_index(gateways: Gateways) -> None:
    """It looks at few rows besides those it returns, wherever in the list it begins."""
    from sqlalchemy import insert, text

    from gateway.store.tables import SURVEY

    common = {"request": b"", "spec": b"", "head": pb.Survey().SerializeToString(), "created_at": 1.0, "queued_at": 1.0}
    many = [
        common | {"survey_id": f"s{number}", "tenant": f"tenant-{number % 20}", "state": pb.SURVEY_STATE_DONE}
        for number in range(1_000)
    ]
    query = surveys.select_page(JobFilter(tenant="tenant-1"), 20, 800)

    def plan(connection: Any) -> str:
        connection.execute(insert(SURVEY), many)
        is_postgres = connection.dialect.name == "postgresql"
        if is_postgres:
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # a table this small could be read whole
        compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
        rows = connection.exec_driver_sql(f"{'EXPLAIN' if is_postgres else 'EXPLAIN QUERY PLAN'} {compiled}")
        return "\n".join(str(row) for row in rows)

    found = await gateways.database.run(plan)

    if "SEARCH" in found:  # SQLite's word
        assert "INDEX survey_list" in found
        assert "B-TREE" not in found
    else:  # PostgreSQL may take the index of the numbers
        assert "Index" in found
        assert "Seq Scan" not in found


# upkeep


async def test_expired_are_ended_surveys_made_before(gateways: Gateways) -> None:
    jobs = [await gateways.create() for _ in range(5)]
    for place, job in enumerate(jobs):
        await gateways.sql(
            "UPDATE survey SET created_at = :moment WHERE survey_id = :id", moment=1000.0 + place, id=job.survey_id
        )
    for place in (0, 2, 3, 4):
        await gateways.cancelled(jobs[place].survey_id)

    async def expired(before: float, limit: int = 10) -> list[str]:
        found = await gateways.database.read(lambda connection: surveys.expired(connection, before, limit))
        return [job.survey_id for job in found]

    assert await expired(1004.0) == [jobs[place].survey_id for place in (0, 2, 3)]
    assert await expired(1004.0, limit=2) == [jobs[place].survey_id for place in (0, 2)]
    assert await expired(1000.0) == []


async def test_unsettled_are_ended_surveys_until_they_are_settled(gateways: Gateways) -> None:
    jobs = [await gateways.create() for _ in range(4)]
    for place, job in enumerate(jobs[:3]):
        await gateways.cancelled(job.survey_id)
        await gateways.sql(
            "UPDATE survey SET finished_at = :moment WHERE survey_id = :id", moment=1000.0 - place, id=job.survey_id
        )
    await gateways.database.run(lambda connection: surveys.settled(connection, jobs[1].survey_id))
    await gateways.database.run(lambda connection: surveys.settled(connection, jobs[3].survey_id))  # it waits: nothing

    async def unsettled(before: float, limit: int = 10) -> list[str]:
        found = await gateways.database.read(lambda connection: surveys.unsettled(connection, before, limit))
        return [job.survey_id for job in found]

    assert await unsettled(1001.0) == [jobs[2].survey_id, jobs[0].survey_id]
    assert await unsettled(1000.0) == [jobs[2].survey_id]
    assert await unsettled(1001.0, limit=1) == [jobs[2].survey_id]
    await gateways.cancelled(jobs[3].survey_id)
    assert jobs[3].survey_id in await unsettled(1e12)
