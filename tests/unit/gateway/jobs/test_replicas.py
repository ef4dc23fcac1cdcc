"""The locks by which replicas know who is alive: files, and sessions of PostgreSQL."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from postgres import new_database, postgres  # noqa: F401  # a fixture

from gateway.jobs import replicas
from gateway.jobs.replicas import FOLDER, ReplicaLocks, replica_locks
from services.common.errors import NotReady, UpstreamFailed
from services.common.settings import SharedSettings

PATIENCE_S = 20
LONG_GONE = "long-gone"
HOLDER = """
import asyncio, sys
from gateway.jobs import replicas
from gateway.jobs.replicas import replica_locks
from services.common.settings import SharedSettings

async def main():
    replicas.DEAD_AFTER_S = 0
    locks = replica_locks(SharedSettings(data_dir=sys.argv[1], database_url=sys.argv[2]))
    owner = await locks.acquire()
    is_held = False
    while not is_held:
        async with locks.held(sys.argv[3]) as is_held:
            if is_held:
                print(owner, flush=True)
                await asyncio.Event().wait()
        await asyncio.sleep(0.05)

asyncio.run(main())
"""
Make = Callable[[], Awaitable[ReplicaLocks]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SharedSettings:
    """Settings of a store that these tests share."""
    url = "" if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))
    return SharedSettings(database_url=url, data_dir=tmp_path_factory.mktemp("locks"))


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "BEAT_S", 0.05)
    monkeypatch.setattr(replicas, "DEAD_AFTER_S", 0.1)


@pytest.fixture
async def replica(settings: SharedSettings) -> AsyncIterator[Make]:
    """What makes the locks of another process, acquired."""
    made: list[ReplicaLocks] = []

    async def make() -> ReplicaLocks:
        made.append(replica_locks(settings))
        await made[-1].acquire()
        return made[-1]

    yield make
    for each in made:
        await each.close()


@contextlib.contextmanager
def process(shared: SharedSettings) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process that holds its lock and that of the long gone; yield it and its name."""
    command = [sys.executable, "-c", HOLDER, str(shared.data_dir), shared.database_url, LONG_GONE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout
            yield started, started.stdout.readline().strip()
        finally:
            started.kill()


def files(shared: SharedSettings) -> list[str]:
    return sorted(path.name for path in (shared.data_dir / FOLDER).glob("*"))


@contextlib.asynccontextmanager
async def held_by_and_by(locks: ReplicaLocks, other: str) -> AsyncIterator[None]:
    """Hold a dead process's lock as soon as it is taken for dead."""
    async with asyncio.timeout(PATIENCE_S):
        is_dead = False
        while not is_dead:
            async with locks.held(other) as is_dead:
                if is_dead:
                    yield
            await asyncio.sleep(0.01)


async def lose_lock(shared: SharedSettings, locks: ReplicaLocks) -> None:
    """Take a lock away, as a failover of the database or a hand in the data folder does."""
    if not shared.database_url:
        (shared.data_dir / FOLDER / f"{locks.owner}.lock").unlink()
        return
    async with await psycopg.AsyncConnection.connect(shared.database_url, autocommit=True) as connection:
        await connection.execute(f"SELECT pg_terminate_backend({locks._connection.info.backend_pid}, 5000)")


async def test_the_living_are_never_taken_for_dead_and_have_names_of_their_own(replica: Make) -> None:
    one, other = await replica(), await replica()
    async with one.held(other.owner) as is_dead, one.held(one.owner) as is_own_dead:
        assert not is_dead
        assert not is_own_dead
    assert one.owner != other.owner


async def test_only_one_gets_the_lock_of_a_dead_one(replica: Make) -> None:
    dead, one, other = await replica(), await replica(), await replica()
    await dead.close()
    async with held_by_and_by(one, dead.owner), other.held(dead.owner) as is_held_by_other:
        assert not is_held_by_other
    async with held_by_and_by(other, dead.owner):
        pass


async def test_a_process_that_is_stopped_lives_and_one_that_is_killed_does_not(
    replica: Make, settings: SharedSettings
) -> None:
    """Nor does what it held of others stay locked."""
    locks = await replica()
    with process(settings) as (started, owner):
        started.send_signal(signal.SIGSTOP)
        for other in (owner, LONG_GONE):
            async with locks.held(other) as is_dead:
                assert not is_dead
        started.kill()
        started.wait()
        for other in (owner, LONG_GONE):
            async with held_by_and_by(locks, other):
                pass


async def test_a_lost_lock_is_told_and_taken_again(
    replica: Make, settings: SharedSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "DEAD_AFTER_S", PATIENCE_S)  # however slow this machine is
    locks, other = await replica(), await replica()
    told = asyncio.create_task(locks.lost.wait())
    await asyncio.sleep(0)  # it waits before there is something to hear of
    await lose_lock(settings, locks)
    await asyncio.wait_for(told, PATIENCE_S)
    again = asyncio.create_task(locks.held_again())
    while settings.database_url and not again.done():  # it lives, so it is not taken for dead meanwhile
        async with other.held(locks.owner) as is_dead:
            assert not is_dead
        await asyncio.sleep(0)
    await asyncio.wait_for(again, PATIENCE_S)

    assert not locks.lost.is_set()
    async with other.held(locks.owner) as is_dead:
        assert not is_dead
    assert "the lock of this replica is held again" in caplog.text


async def test_who_may_be_dead_itself_judges_nobody(replica: Make) -> None:
    locks = await replica()
    locks.lost.set()
    async with locks.held(LONG_GONE) as is_dead:
        assert not is_dead


async def test_a_lock_that_another_process_holds_is_not_taken_again(
    replica: Make, settings: SharedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who took this replica for dead works on what it had; only then may it go on."""
    locks, reaper = await replica(), await replica()
    may_look, tries = asyncio.Event(), asyncio.Semaphore(0)
    is_held, take = locks._is_held, locks._take

    async def look_later() -> bool:
        await may_look.wait()
        return await is_held()

    async def take_and_tell() -> bool:
        tries.release()
        return await take()

    monkeypatch.setattr(locks, "_is_held", look_later)
    monkeypatch.setattr(locks, "_take", take_and_tell)
    await lose_lock(settings, locks)
    async with held_by_and_by(reaper, locks.owner):
        may_look.set()
        for _ in range(3):
            await asyncio.wait_for(tries.acquire(), PATIENCE_S)
        assert locks.lost.is_set()
    await asyncio.wait_for(locks.held_again(), PATIENCE_S)


async def test_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    shared = SharedSettings(data_dir=tmp_path / "data")
    with process(shared) as (started, killed):
        pass
    assert started.returncode == -signal.SIGKILL
    assert files(shared) == sorted([f"{killed}.lock", f"{LONG_GONE}.lock"])
    living = replica_locks(shared)
    await living.acquire()
    assert files(shared) == [f"{living.owner}.lock"]
    assert (shared.data_dir / FOLDER).stat().st_mode & 0o777 == 0o700

    async with living.held(LONG_GONE) as is_dead:
        assert is_dead
        assert files(shared) == sorted([f"{living.owner}.lock", f"{LONG_GONE}.lock"])
    assert files(shared) == [f"{living.owner}.lock"]
    await living.close()
    assert files(shared) == []


async def test_a_lock_is_not_inherited_by_what_the_process_starts(tmp_path: Path) -> None:
    """A program that outlives its gateway must not keep it alive."""
    locks, other = (replica_locks(SharedSettings(data_dir=tmp_path)) for _ in range(2))
    await locks.acquire()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        await locks.close()
        async with other.held(locks.owner) as is_dead:
            assert is_dead
        child.kill()


async def test_a_place_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotReady, match="PAPERROUTE_DATA_DIR"):
        await replica_locks(SharedSettings(data_dir=tmp_path / "file")).acquire()
    away = SharedSettings(database_url=f"postgresql://nobody:secret@/nowhere?host={tmp_path}")
    with pytest.raises(UpstreamFailed, match="does not answer") as failure:
        await replica_locks(away).acquire()
    assert "secret" not in str(failure.value)


async def test_a_silent_database_does_not_cost_the_lock(
    postgres: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The session lives on while its server is stopped: nobody else can have its lock."""
    monkeypatch.setattr(replicas, "PATIENCE_S", 0.1)
    shared = SharedSettings(database_url=new_database(postgres))
    locks, other = replica_locks(shared), replica_locks(shared)
    await locks.acquire()
    await other.acquire()
    pid = locks._connection.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.wait_for(locks.lost.wait(), PATIENCE_S)
        async with other.held(locks.owner) as is_dead:
            assert not is_dead
    finally:
        os.kill(pid, signal.SIGCONT)
    await asyncio.wait_for(locks.held_again(), PATIENCE_S)

    assert locks._connection.info.backend_pid == pid
    await other.close()
    await locks.close()
