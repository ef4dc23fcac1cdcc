"""Whose turn it is, in SQLite and in PostgreSQL, and the rules of turns on random queues."""

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paperroute.v1 import survey_pb2 as pb
from sqlalchemy import Connection, Engine, create_engine, insert, update
from survey_rows import (
    LIMITS,
    OWNER,
    Gateways,
    a_job,
    a_request,
    kind_of,
    section_finished,
    stage_finished,
    stage_started,
)

from gateway.document.draft import Draft
from gateway.jobs.values import Job
from gateway.store import surveys, turns
from gateway.store.run_rows import Handed, write
from gateway.store.tables import METADATA, SURVEY, TENANT

T = TypeVar("T")
MANY = 1_000
DEFAULT_LIMIT = 2
TENANTS = ("ant", "bee", "cat", "dog")
OTHER_OWNER = "replica-2"


def claimed_by(owner: str = OWNER, places: int = MANY, most: int = MANY, **options: Any) -> Callable[..., list[Job]]:
    return functools.partial(turns.claim, owner=owner, places=places, default_max_running=most, **options)


async def in_queue(gateways: Gateways, *tenants: str, **spec: Any) -> list[str]:
    """Put a survey of each of these tenants into the queue, one after another."""
    jobs = [await gateways.create(a_request(timeout_ms=60_000, **spec), tenant=tenant) for tenant in tenants]
    return [job.survey_id for job in jobs]


async def limit(gateways: Gateways, tenant: str, most: int) -> None:
    row = {"tenant": tenant, "limits": b"", "max_running_surveys": most, "created_at": 0}
    await gateways.database.run(lambda connection: connection.execute(insert(TENANT), row))


async def claim(gateways: Gateways, **options: Any) -> list[str]:
    return [job.survey_id for job in await gateways.database.run(claimed_by(**options))]


async def positions(gateways: Gateways, *tenants: str) -> dict[str, int]:
    return await gateways.database.read(lambda connection: turns.positions(connection, *tenants))


async def test_a_turn_makes_a_survey_run_with_a_deadline(gateways: Gateways) -> None:
    first, second = await in_queue(gateways, "ant", "ant")
    (job,) = await gateways.database.run(claimed_by(places=1))
    found = await gateways.found(first)

    assert job == found
    assert (job.state, job.run, job.attempt, job.owner) == (pb.SURVEY_STATE_RUNNING, 1, 0, OWNER)
    assert job.deadline_at == pytest.approx(job.created_at + 60, abs=30)
    assert (await gateways.found(second)).state == pb.SURVEY_STATE_QUEUED


async def test_tenants_take_turns(gateways: Gateways) -> None:
    a1, a2, a3, b1, c1, b2 = await in_queue(gateways, "ant", "ant", "ant", "bee", "cat", "bee")
    order = [a1, b1, c1, a2, b2, a3]

    assert await positions(gateways) == {survey_id: place for place, survey_id in enumerate(order, start=1)}
    assert await positions(gateways, "bee", "cat") == {b1: 2, c1: 3, b2: 5}
    assert await claim(gateways, places=4) == order[:4]
    (d1,) = await in_queue(gateways, "dog")  # had no turn yet
    assert await claim(gateways) == [d1, *order[4:]]
    assert await claim(gateways) == []


async def test_a_tenant_that_had_its_turn_waits_although_its_survey_has_ended(gateways: Gateways) -> None:
    a1, _, b1 = await in_queue(gateways, "ant", "ant", "bee")
    assert await claim(gateways, places=1) == [a1]
    await gateways.ended(await gateways.begun(a1))
    await gateways.database.run(lambda connection: surveys.delete(connection, a1))

    assert await claim(gateways, places=1) == [b1]


async def test_limits_of_tenants_hold(gateways: Gateways) -> None:
    await limit(gateways, "ant", 1)
    await limit(gateways, "cat", 0)  # has none of its own
    a1, a2, b1, b2, b3, c1 = await in_queue(gateways, "ant", "ant", "bee", "bee", "bee", "cat")

    assert await claim(gateways, most=2) == [a1, b1, c1, b2]
    assert await positions(gateways) == {a2: 1, b3: 2}
    await gateways.ended(await gateways.begun(b1))
    assert await positions(gateways) == {b3: 1, a2: 2}  # there is a place for the one, not for the other
    assert await claim(gateways, most=2) == [b3]


async def test_a_turn_is_given_to_named_surveys_only(gateways: Gateways) -> None:
    a1, a2, b1 = await in_queue(gateways, "ant", "ant", "bee")

    assert await claim(gateways, only={a2, "unknown"}) == [a2]
    assert await claim(gateways, only=set()) == []
    assert await claim(gateways) == [b1, a1]


async def test_a_resumed_survey_has_another_run_behind_those_that_wait(gateways: Gateways) -> None:
    a1, a2 = await in_queue(gateways, "ant", "ant")
    await claim(gateways, places=1)
    await gateways.cancelled(a1)
    await gateways.database.run(lambda connection: surveys.resume(connection, a1, [], LIMITS))

    assert await claim(gateways) == [a2, a1]
    assert (await gateways.found(a1)).run == 2


async def test_what_waits_no_more_gets_no_turn(gateways: Gateways) -> None:
    a1, a2, a3 = await in_queue(gateways, "ant", "ant", "ant")
    await gateways.cancelled(a1)
    await gateways.database.run(lambda connection: surveys.delete(connection, a2))

    assert await positions(gateways) == {a3: 1}
    assert await claim(gateways) == [a3]
    assert await positions(gateways) == {}


async def test_replicas_that_claim_at_once_get_each_survey_once(gateways: Gateways) -> None:
    wanted = await in_queue(gateways, *TENANTS * 6)
    await limit(gateways, "ant", 3)

    async def replica(owner: str) -> list[str]:
        database, got = gateways.another_database(), []
        while jobs := await database.run(claimed_by(owner, places=2)):
            got += [job.survey_id for job in jobs]
        return got

    got = await asyncio.gather(*(replica(f"replica-{number}") for number in range(4)))
    running = [survey_id for each in got for survey_id in each]

    assert len(running) == len(set(running)) == 18 + 3
    assert set(running) < set(wanted)
    owned = await gateways.database.read(turns.running)
    assert {owner: {each.survey_id for each in found} for owner, found in owned.items()} == {
        f"replica-{number}": set(each) for number, each in enumerate(got) if each
    }


async def test_a_survey_is_taken_over_once_and_only_while_it_runs(gateways: Gateways) -> None:
    a1, a2 = await in_queue(gateways, "ant", "ant")
    await claim(gateways, places=1)

    async def take_over(survey_id: str, owner: str = OWNER) -> bool:
        return await gateways.database.run(
            lambda connection: turns.take_over(connection, survey_id, owner, OTHER_OWNER)
        )

    assert [await take_over(a1), await take_over(a1), await take_over(a2)] == [True, False, False]
    assert (await gateways.found(a1)).owner == OTHER_OWNER
    running = await gateways.database.read(turns.running)
    assert running == {OTHER_OWNER: [turns.RunningSurvey(survey_id=a1, run=1)]}
    await gateways.cancelled(a1)
    assert not await take_over(a1, OTHER_OWNER)


async def test_surveys_that_may_not_go_on_here_are_named(gateways: Gateways) -> None:
    mine, cancelled, begun_again, taken = [
        await gateways.running(a_request(), tenant=tenant) for tenant in ("ant", "bee", "cat", "dog")
    ]
    await gateways.cancelled(cancelled.survey_id)
    await gateways.begun(begun_again.survey_id)
    await gateways.database.run(lambda connection: turns.take_over(connection, taken.survey_id, OWNER, OTHER_OWNER))
    attempts = {job.survey_id: job.attempt for job in (mine, cancelled, begun_again, taken)} | {"deleted": 1}
    gone = await gateways.database.read(lambda connection: turns.gone(connection, OWNER, attempts))

    assert gone == {cancelled.survey_id, begun_again.survey_id, taken.survey_id, "deleted"}


async def test_interruptions_are_counted_since_the_last_progress(gateways: Gateways) -> None:
    job = await gateways.running(a_request())
    counted = []

    async def again(*events_between: Any) -> None:
        nonlocal job
        handed = Handed(survey_id=job.survey_id, attempt=job.attempt, events=list(events_between))
        assert await gateways.database.run(lambda connection: write(connection, [handed])) == []
        job = await gateways.begun(job.survey_id)
        counted.append(await gateways.database.read(lambda connection: turns.interruptions(connection, job.survey_id)))

    counted.append(await gateways.database.read(lambda connection: turns.interruptions(connection, job.survey_id)))
    await again()
    await again(stage_started())
    await again(stage_started(), stage_finished())
    await again(stage_started())
    await again(section_finished("1.1"))
    cut_short = stage_finished()
    cut_short.stage_finished.report.state = pb.STAGE_STATE_CANCELLED
    await again(cut_short)
    assert counted == [0, 1, 2, 0, 1, 0, 1]
    await again()
    await gateways.cancelled(job.survey_id)
    await gateways.database.run(lambda connection: surveys.resume(connection, job.survey_id, [], LIMITS))
    job = await gateways.begun(job.survey_id)
    assert await gateways.database.read(lambda connection: turns.interruptions(connection, job.survey_id)) == 0


async def test_places_are_shown_when_they_change_noticeably(gateways: Gateways) -> None:
    ids = await in_queue(gateways, *["ant"] * 30)

    async def shown() -> list[str]:
        moved = await gateways.database.read(turns.moved_places)
        await gateways.database.run(lambda connection: turns.show_places(connection, moved))
        return list(moved)

    async def place(survey_id: str) -> int:
        live = await gateways.live(survey_id)
        return live["queue"].queue_moved.queue_position if live else 0

    assert await shown() == ids
    assert await shown() == []
    assert await claim(gateways, places=1) == ids[:1]
    assert await shown() == ids[1:20]  # from 21 on one place is less than a twentieth
    assert [await place(ids[number]) for number in (1, 19, 20, 29)] == [1, 19, 21, 30]
    await gateways.cancelled(ids[1])
    assert await shown() == ids[2:]
    assert [await place(ids[number]) for number in (1, 2, 29)] == [0, 1, 28]
    assert kind_of((await gateways.events(ids[1]))[-1]) == "CANCELLED"


async def test_a_draft_knows_its_place(gateways: Gateways) -> None:
    _, second = await in_queue(gateways, "ant", "bee")

    def draft(connection: Connection) -> Draft:
        return surveys.draft_of(connection, surveys.find(connection, second))

    assert (await gateways.database.read(draft)).queue_position == 2
    await claim(gateways)
    assert (await gateways.database.read(draft)).queue_position == 0


# The rules, on random queues. The tables are in memory, so that many can be tried.


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


class Queue:
    """Does what happens to a queue, and knows what follows from the rules."""

    def __init__(self, connection: Connection, limits: Sequence[int]) -> None:
        self.connection = connection
        self.limits = dict(zip(TENANTS, limits, strict=True))
        self.waiting: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}
        self.running: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}
        self.now = 0
        self.last_turn = dict.fromkeys(TENANTS, 0)
        self.ready_since: dict[str, int | None] = dict.fromkeys(TENANTS)
        """Since when a tenant could have had a turn at any time, and had none."""
        assert turns.positions(connection) == {}  # nothing is left of the queue before
        for tenant, most in self.limits.items():
            row = {"tenant": tenant, "limits": b"", "max_running_surveys": most, "created_at": 0}
            connection.execute(insert(TENANT), row)

    def most(self, tenant: str) -> int:
        return self.limits[tenant] or DEFAULT_LIMIT

    def create(self, tenant: str) -> None:
        job, _ = surveys.create(self.connection, a_job(tenant=tenant), LIMITS)
        self.waiting[tenant].append(job.survey_id)
        self.note_ready()

    def end(self, tenant: str) -> None:
        if self.running[tenant]:
            survey_id = self.running[tenant].pop(0)
            self.connection.execute(
                update(SURVEY).where(SURVEY.c.survey_id == survey_id).values(state=pb.SURVEY_STATE_DONE)
            )
            self.note_ready()

    def cancel(self, tenant: str) -> None:
        if self.waiting[tenant]:
            assert surveys.cancel(self.connection, self.waiting[tenant].pop())
            self.note_ready()

    def claim(self, places: int) -> None:
        foreseen = turns.positions(self.connection)
        jobs = turns.claim(self.connection, OWNER, places, DEFAULT_LIMIT)
        assert sorted(foreseen.values()) == list(range(1, len(foreseen) + 1))
        if self.now:  # before the first turn nobody has said what a tenant without a limit may have
            assert [foreseen[job.survey_id] for job in jobs] == list(range(1, len(jobs) + 1))
        for job in jobs:
            self.note_turn(job)
        if len(jobs) < places:  # no place stays empty while a survey may run
            assert not any(self.is_ready(tenant) for tenant in TENANTS)

    def note_turn(self, job: Job) -> None:
        tenant = job.tenant
        assert self.waiting[tenant].pop(0) == job.survey_id
        self.running[tenant].append(job.survey_id)
        assert len(self.running[tenant]) <= self.most(tenant)
        for other in TENANTS:
            since = self.ready_since[other]
            assert other == tenant or since is None or since > self.last_turn[tenant] or not self.last_turn[tenant]
        self.now += 1
        self.last_turn[tenant], self.ready_since[tenant] = self.now, None
        self.now += 1
        self.note_ready()

    def is_ready(self, tenant: str) -> bool:
        return bool(self.waiting[tenant]) and len(self.running[tenant]) < self.most(tenant)

    def note_ready(self) -> None:
        for tenant in TENANTS:
            if not self.is_ready(tenant):
                self.ready_since[tenant] = None
            elif self.ready_since[tenant] is None:
                self.ready_since[tenant] = self.now


TENANT_NAMES = st.sampled_from(TENANTS)
HAPPENINGS = st.one_of(
    st.tuples(st.just("create"), TENANT_NAMES),
    st.tuples(st.just("create"), TENANT_NAMES),
    st.tuples(st.just("end"), TENANT_NAMES),
    st.tuples(st.just("cancel"), TENANT_NAMES),
    st.tuples(st.just("claim"), st.integers(1, 4)),
)


@given(
    limits=st.lists(st.integers(0, 3), min_size=len(TENANTS), max_size=len(TENANTS)),
    happenings=st.lists(HAPPENINGS, min_size=10, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_turns_are_fair_and_keep_the_limits(
    engine: Engine, limits: Sequence[int], happenings: Sequence[tuple[str, Any]]
) -> None:
    with engine.connect() as connection:
        queue = Queue(connection, limits)
        for name, what in happenings:
            getattr(queue, name)(what)
        queue.claim(MANY)
        connection.rollback()
