"""Turns and takeovers on one replica and on several, in SQLite and in PostgreSQL."""

import asyncio
import contextlib
import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from paperroute.v1 import survey_pb2 as pb
from postgres import database_url, postgres  # noqa: F401  # fixtures
from replica_process import FAN_OUT, Replicas, forker, replicas, settings  # noqa: F401
from survey_rows import Gateways, a_request, file_gateways, gateway_store, gateways  # noqa: F401

from gateway.jobs import turns as module
from gateway.jobs.durable import Durable, StepRunner
from gateway.jobs.replicas import FOLDER, _lock_number, replica_locks
from gateway.jobs.turns import TurnLimits, Turns
from gateway.store import surveys
from gateway.store import turns as rows
from services.common.errors import UpstreamFailed
from services.common.settings import SharedSettings

PATIENCE_S = 20
DEAD = "a-replica-that-is-gone"
QUEUED, RUNNING, DONE = pb.SURVEY_STATE_QUEUED, pb.SURVEY_STATE_RUNNING, pb.SURVEY_STATE_DONE


class Office:
    """A replica in this process. All of it is real but what a survey is about: a stage that waits, and another one."""

    def __init__(self, gateways: Gateways, **limits: Any) -> None:  # noqa: F811
        self.database = gateways.database
        self.gateways = gateways
        self.locks = replica_locks(gateways.shared)
        self.durable = Durable(gateways.shared, self.run, self.locks.owner)
        self.told: list[str] = []
        self.turns = Turns(
            self.database,
            self.durable,
            self.locks,
            TurnLimits(**({"max_running": 2, "max_running_per_tenant": 9} | limits)),
            runs=self,
            changed=self.told.append,
        )
        self.attempts: dict[str, int] = {}
        self.begun: list[tuple[str, str]] = []
        self.stopped: list[str] = []
        self.let_go: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def open(self) -> None:
        await self.locks.acquire()
        await self.durable.launch()
        await self.turns.start()

    async def close(self) -> None:
        self.turns.poke()  # in the same moment: the loop that it wakes must end all the same
        await self.turns.close()
        await self.durable.close()
        await self.locks.close()

    def stop(self, survey_id: str) -> None:
        self.stopped.append(survey_id)
        self._tasks[survey_id].cancel()

    async def run(self, survey_id: str, run: int, steps: StepRunner) -> None:
        owner = self.locks.owner
        job = await self.database.run(lambda connection: surveys.begin(connection, survey_id, run, owner))
        if job is None:
            return
        task = self._tasks[survey_id] = asyncio.create_task(self._stages(survey_id, steps))
        self.attempts[survey_id] = job.attempt
        try:
            await task
        finally:
            del self.attempts[survey_id]
        await self.gateways.ended(job)

    async def _stages(self, survey_id: str, steps: StepRunner) -> None:
        async def plan() -> None:
            self.begun.append((survey_id, "plan"))
            await self.let_go[survey_id].wait()

        async def retrieve() -> None:
            self.begun.append((survey_id, "retrieve"))

        await steps.run_step(pb.STAGE_PLAN, plan)
        await steps.run_step(pb.STAGE_RETRIEVE, retrieve)

    async def has_begun(self, survey_id: str, stage: str = "plan") -> None:
        await until(lambda: (survey_id, stage) in self.begun)

    async def has_ended(self, survey_id: str, state: pb.SurveyState.ValueType = DONE) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.gateways.found(survey_id)).state != state:
                await asyncio.sleep(0.01)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REAP_EVERY_S", "LOOK_EVERY_S", "SHOW_EVERY_S"):
        monkeypatch.setattr(module, name, 0.05)


Open = Callable[..., Awaitable[Office]]
on_sqlite = pytest.mark.parametrize("gateway_store", ["sqlite"], indirect=True)
"""For what does not depend on the database."""
on_postgresql = pytest.mark.parametrize("gateway_store", ["postgresql"], indirect=True)


@pytest.fixture
async def office(gateways: Gateways) -> AsyncIterator[Open]:  # noqa: F811
    """What opens a replica in this process, one at a time."""
    opened: list[Office] = []

    async def open_one(**limits: Any) -> Office:
        opened.append(Office(gateways, **limits))
        await opened[-1].open()
        return opened[-1]

    yield open_one
    for each in opened:
        await each.close()


async def a_survey(gateways: Gateways, tenant: str = "tenant-a") -> str:  # noqa: F811
    return (await gateways.create(a_request(timeout_ms=60_000), tenant=tenant)).survey_id


async def a_survey_of(gateways: Gateways, owner: str) -> str:  # noqa: F811
    """Return a survey that a replica has given its turn and not started."""
    survey_id = await a_survey(gateways)
    await gateways.database.run(lambda connection: rows.claim(connection, owner, 1, 99, {survey_id}))
    return survey_id


async def shown_place(gateways: Gateways, survey_id: str) -> int:  # noqa: F811
    event = (await gateways.live(survey_id)).get("queue")
    return event.queue_moved.queue_position if event else 0


async def rounds_of(office: Office, monkeypatch: pytest.MonkeyPatch, count: int = 3) -> None:
    """Wait until the replica has looked so often who runs what."""
    looked = asyncio.Semaphore(0)
    running = rows.running

    def look(connection: Any) -> Any:
        office.durable._loop.call_soon_threadsafe(looked.release)
        return running(connection)

    with monkeypatch.context() as patched:
        patched.setattr(rows, "running", look)
        for _ in range(count):
            await asyncio.wait_for(looked.acquire(), PATIENCE_S)


async def test_surveys_of_killed_gateways_end_on_others(replicas: Replicas, settings: SharedSettings) -> None:  # noqa: F811
    """Through channels of the loop that serves: a recovered step on another loop would end a survey for good."""
    log, gateways = replicas.log, Gateways(settings)  # noqa: F811
    survey_id = await a_survey(gateways)
    first = await replicas.gateway(turns_of=1)
    await log.wait_for(lambda log: len(log.lines("asked", survey_id, "summarize")) == FAN_OUT)
    await log.wait_for(lambda log: "write" in log.steps(survey_id))
    second = await replicas.gateway(turns_of=1)
    replicas.let_go.set()
    replicas.deadly.add("assemble")  # its work is done, but no marker says so when the process dies
    await first.kill()
    await second.ended()
    third = await replicas.gateway(turns_of=1)
    await log.wait_for(lambda log: bool(log.lines("finished", survey_id, third.owner)))

    assert [line[2] for line in log.lines("begun", survey_id)] == [first.owner, second.owner, third.owner]
    steps = log.steps(survey_id)
    assert {steps[name] for name in ("plan", "retrieve", "embed", "order")} == {1}
    assert {steps[name] for name in ("summarize", "assemble")} == {2}
    assert len(log.lines("asked", survey_id, "summarize")) == 2 * FAN_OUT
    assert (await gateways.found(survey_id)).state == DONE
    if not settings.database_url:
        assert [path.name for path in (settings.data_dir / FOLDER).iterdir()] == [f"{third.owner}.lock"]
    await third.stop()
    assert log.lines("stopped", third.owner)
    assert replicas.errors.read_text() == ""
    await gateways.close()


@on_sqlite
async def test_turns_are_given_when_called_for_as_far_as_there_are_places(
    gateways: Gateways,  # noqa: F811
    office: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CLAIM_EVERY_S", 3_600)
    here = await office(max_running=2)
    first, second, third = [await a_survey(gateways) for _ in range(3)]
    here.turns.poke(first)
    await here.has_begun(first)
    await here.has_begun(second)
    async with asyncio.timeout(PATIENCE_S):
        while await shown_place(gateways, third) != 1:
            await asyncio.sleep(0.01)
    assert third in here.told
    assert (await gateways.found(third)).state == QUEUED

    here.let_go[first].set()
    await here.has_begun(third)
    assert (await gateways.found(first)).state == DONE
    assert (await gateways.found(third)).owner == here.locks.owner
    assert await gateways.live(third) == {}


@on_sqlite
async def test_surveys_that_others_put_into_the_queue_get_their_turns(
    gateways: Gateways,  # noqa: F811
    office: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CLAIM_EVERY_S", 0.05)
    here = await office()
    await here.has_begun(await a_survey(gateways))


@on_sqlite
async def test_surveys_of_the_dead_are_taken_over_and_those_of_the_living_are_not(
    gateways: Gateways,  # noqa: F811
    office: Open,
) -> None:
    """The dead one died between the turn and the start: the journal does not know its survey."""
    living = replica_locks(gateways.shared)
    await living.acquire()
    its = await a_survey_of(gateways, living.owner)
    left = await a_survey_of(gateways, DEAD)
    here = await office()
    await here.has_begun(left)  # and the living one's, which is older, was looked at before

    assert (await gateways.found(left)).owner == here.locks.owner
    assert ((await gateways.found(its)).owner, (await gateways.found(its)).attempt) == (living.owner, 0)
    await living.close()
    await here.has_begun(its)


@on_sqlite
async def test_a_survey_that_a_reaper_took_and_did_not_resume_is_resumed(
    gateways: Gateways,  # noqa: F811
    office: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or one whose start failed: it is this replica's, but nobody runs it."""
    monkeypatch.setattr(module, "LEFT_BEHIND_S", 0.1)
    here = await office()
    survey_id = await a_survey_of(gateways, here.locks.owner)
    await here.has_begun(survey_id)
    await rounds_of(here, monkeypatch)
    here.let_go[survey_id].set()
    await here.has_ended(survey_id)

    assert here.begun == [(survey_id, "plan"), (survey_id, "retrieve")]  # what runs is left alone


@on_sqlite
async def test_a_start_that_fails_does_not_lose_its_survey(
    gateways: Gateways,  # noqa: F811
    office: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEFT_BEHIND_S", 0.1)
    here = await office()
    start = here.durable.start
    lost, other = [await a_survey(gateways) for _ in range(2)]

    async def fail_once(survey_id: str, run: int) -> None:
        if survey_id == lost:
            raise UpstreamFailed("the journal", "it does not answer")
        await start(survey_id, run)

    monkeypatch.setattr(here.durable, "start", fail_once)
    here.turns.poke()
    await here.has_begun(other)
    await here.has_begun(lost)


@on_sqlite
async def test_a_replica_for_one_survey_leaves_alone_what_is_not_its_own(
    gateways: Gateways,  # noqa: F811
    office: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, waiting = await a_survey_of(gateways, DEAD), await a_survey(gateways)
    here = await office(can_recover=False, own_only=True)
    own = await a_survey(gateways)
    here.turns.poke(own)
    here.let_go[own].set()
    await here.has_ended(own)
    await rounds_of(here, monkeypatch)

    assert {survey_id for survey_id, _ in here.begun} == {own}
    assert (await gateways.found(left)).owner == DEAD
    assert (await gateways.found(waiting)).state == QUEUED


@on_sqlite
async def test_a_survey_that_another_replica_cancels_is_stopped(gateways: Gateways, office: Open) -> None:  # noqa: F811
    here = await office()
    cancelled, other = [await a_survey(gateways) for _ in range(2)]
    here.turns.poke()
    await here.has_begun(cancelled)
    await here.has_begun(other)
    await gateways.cancelled(cancelled)
    await until(lambda: cancelled in here.stopped)
    await until(lambda: here.durable.count == 1)

    assert set(here.stopped) == {cancelled}
    assert (await gateways.found(other)).state == RUNNING


@on_postgresql
async def test_no_step_begins_while_the_lock_is_lost(gateways: Gateways, office: Open) -> None:  # noqa: F811
    """Others may take this replica for dead; of what they took nothing goes on here afterwards."""
    here = await office()
    kept, taken = [await a_survey(gateways) for _ in range(2)]
    here.turns.poke()
    await here.has_begun(kept)
    await here.has_begun(taken)
    owner = here.locks.owner
    async with lock_of_the_lost(gateways.shared, here):
        await asyncio.wait_for(here.locks.lost.wait(), PATIENCE_S)
        for survey_id in (kept, taken):
            here.let_go[survey_id].set()
            await finished_steps(survey_id, ["plan"])
        assert await gateways.database.run(lambda connection: rows.take_over(connection, taken, owner, "a-reaper"))
        assert {stage for _, stage in here.begun} == {"plan"}
    await here.has_ended(kept)

    assert here.begun.count((kept, "plan")) == 1
    assert (taken, "retrieve") not in here.begun
    assert here.stopped == [taken]


@contextlib.asynccontextmanager
async def lock_of_the_lost(shared: SharedSettings, lost: Office) -> AsyncIterator[None]:
    """End the session of a replica that lives, and hold its lock as one does that takes it for dead."""
    connect = functools.partial(psycopg.AsyncConnection.connect, shared.database_url, autocommit=True)
    async with await connect() as reaper, await connect() as operator, asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(reaper.execute(f"SELECT pg_advisory_lock({_lock_number(lost.locks.owner)})"))
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s"
        while (await (await operator.execute(waits, [reaper.info.backend_pid])).fetchone()) is None:
            await asyncio.sleep(0.01)
        await operator.execute(f"SELECT pg_terminate_backend({lost.locks._connection.info.backend_pid})")
        await waiting
        yield


async def finished_steps(survey_id: str, names: list[str]) -> None:
    """Wait until the journal has these markers."""
    from dbos import DBOS

    async with asyncio.timeout(PATIENCE_S):
        while [step["function_name"] for step in await DBOS.list_workflow_steps_async(f"{survey_id}-1")] != names:
            await asyncio.sleep(0.01)


@on_sqlite
async def test_what_runs_stays_running_for_others_when_a_replica_closes(gateways: Gateways, office: Open) -> None:  # noqa: F811
    first = await office()
    survey_id = await a_survey(gateways)
    first.turns.poke()
    await first.has_begun(survey_id)
    await first.close()
    found = await gateways.found(survey_id)
    assert (found.state, found.owner) == (RUNNING, first.locks.owner)

    second = await office()
    await second.has_begun(survey_id)
    second.let_go[survey_id].set()
    await second.has_ended(survey_id)
    assert (await gateways.found(survey_id)).attempt == 2


@on_sqlite
async def test_trouble_is_logged_once_and_is_not_the_end_of_turns(
    gateways: Gateways,  # noqa: F811
    office: Open,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = await office()
    claim, calls = rows.claim, asyncio.Semaphore(0)

    def fail(*arguments: Any) -> Any:
        here.durable._loop.call_soon_threadsafe(calls.release)
        raise UpstreamFailed("the gateway's database", "it does not answer")

    monkeypatch.setattr(rows, "claim", fail)
    for _ in range(3):
        here.turns.poke()
        await asyncio.wait_for(calls.acquire(), PATIENCE_S)
    monkeypatch.setattr(rows, "claim", claim)
    survey_id = await a_survey(gateways)
    here.turns.poke()
    await here.has_begun(survey_id)

    assert [record.message for record in caplog.records if "_claim" in record.message] == [
        "turns: _claim failed and is tried again: the gateway's database: it does not answer"
    ]
