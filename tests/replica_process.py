"""A small gateway as a process of its own, to be killed: its surveys are eight steps that call a worker in the test.

Run as a program it becomes gateways; imported it starts them. Who did what stands in one log.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from paperroute.v1 import survey_pb2 as pb

from gateway.jobs.durable import Durable, StepRunner
from gateway.jobs.replicas import replica_locks
from gateway.jobs.turns import TurnLimits, Turns
from gateway.store import surveys
from gateway.store.schema import gateway_database
from services.common.database import Database
from services.common.settings import SharedSettings

SERVICE, METHOD = "test.Worker", "Work"
FAN_OUT = 24
HELD_FROM = 10
"""A call of the fan-out with this number or a higher one is not answered while the worker holds it back."""
PATIENCE_S = 30.0


class Log:
    """What the processes did, a line each: a word and what it is about."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *words: object) -> None:
        line = " ".join(str(word) for word in words) + "\n"
        with self.path.open("ab", buffering=0) as file:  # one write each: lines of two processes do not mix
            file.write(line.encode())

    def lines(self, *first: object) -> list[list[str]]:
        """Return the lines that begin with these words."""
        wanted = [str(word) for word in first]
        lines = [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []
        return [line for line in lines if line[: len(wanted)] == wanted]

    def steps(self, survey_id: str) -> dict[str, int]:
        """Return how often each step of a survey was begun."""
        names = [line[2] for line in self.lines("step", survey_id)]
        return {name: names.count(name) for name in names}

    async def wait_for(self, is_there: Callable[["Log"], bool]) -> float:
        """Wait until the log shows something; return for how many seconds."""
        begun = time.monotonic()
        while not is_there(self):
            assert time.monotonic() < begun + PATIENCE_S, self.path.read_text()
            await asyncio.sleep(0.01)
        return time.monotonic() - begun


class SmallRuns:
    """Runs surveys as the gateway does, without what they are about."""

    def __init__(self, log: Log, channel: grpc.aio.Channel, database: Database | None, owner: str) -> None:
        self.attempts: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log, self._database, self._owner = log, database, owner
        self._work = channel.unary_unary(f"/{SERVICE}/{METHOD}")

    def stop(self, survey_id: str) -> None:
        self._tasks[survey_id].cancel()

    async def run(self, survey_id: str, run: int, steps: StepRunner) -> None:
        attempt = 1
        if self._database:
            job = await self._database.run(lambda connection: surveys.begin(connection, survey_id, run, self._owner))
            if job is None:
                return
            attempt = job.attempt
        self._log.add("begun", survey_id, self._owner)
        task = self._tasks[survey_id] = asyncio.create_task(self._stages(survey_id, steps))
        self.attempts[survey_id] = attempt
        try:
            await task
        finally:
            del self.attempts[survey_id]
        if self._database:
            head = pb.Survey(survey_id=survey_id)
            await self._database.run(
                lambda connection: surveys.end(connection, survey_id, attempt, pb.SURVEY_STATE_DONE, head)
            )
        self._log.add("finished", survey_id, self._owner)

    async def _stages(self, survey_id: str, steps: StepRunner) -> None:
        async def stage(name: str, calls: int = 1) -> None:
            async def work() -> None:
                self._log.add("step", survey_id, name, self._owner)
                async with asyncio.TaskGroup() as group:
                    for number in range(calls):
                        group.create_task(self._call(survey_id, name, number))

            await steps.run_step(pb.Stage.Value(f"STAGE_{name.upper()}"), work)

        async def text() -> None:
            await stage("embed")
            await stage("order")
            async with asyncio.TaskGroup() as group:
                group.create_task(stage("frame"))
                group.create_task(stage("write"))

        await stage("plan")
        await stage("retrieve")
        async with asyncio.TaskGroup() as group:
            group.create_task(stage("summarize", FAN_OUT))
            group.create_task(text())
        await stage("assemble")

    async def _call(self, survey_id: str, name: str, number: int) -> None:
        request = f"{survey_id} {name} {number} {self._owner}".encode()
        if await self._work(request, timeout=PATIENCE_S) == b"die":
            os.kill(os.getpid(), signal.SIGKILL)


async def serve_gateway(log: Log, worker: str, turns_of: int, resumed: Sequence[str]) -> None:
    """Serve until SIGTERM, and give turns to so many surveys at one time or resume those that are named."""
    shared = SharedSettings()
    locks = replica_locks(shared)
    channel = grpc.aio.insecure_channel(worker)  # on the loop that serves
    owner = await locks.acquire()
    database = gateway_database(shared) if turns_of else None
    runs = SmallRuns(log, channel, database, owner)
    durable = Durable(shared, runs.run, owner)
    await durable.launch()
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(channel.close)
        closing.push_async_callback(locks.close)
        closing.push_async_callback(durable.close)
        closing.push_async_callback(server.stop, 0)
        for survey_id in resumed:
            await durable.resume(survey_id, 1)
        if database:
            limits = TurnLimits(max_running=turns_of, max_running_per_tenant=100)
            turns = Turns(database, durable, locks, limits, runs=runs, changed=lambda _: None)
            closing.push_async_callback(database.close)
            closing.push_async_callback(turns.close)
            await turns.start()
        log.add("serves", os.getpid(), owner)
        await stopped.wait()
    log.add("stopped", owner)


def fork_gateways() -> None:
    """Fork a gateway for each line that comes in, and answer with its number: what is imported once serves all."""
    import dbos  # noqa: F401  # takes longer than all else
    import psycopg  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid:
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
            continue
        order = json.loads(line)
        os.environ.update(order["environment"])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        logging.getLogger("gateway").setLevel("ERROR")  # that it takes over is no fault
        asyncio.run(serve_gateway(Log(Path(order["log"])), order["worker"], order["turns_of"], order["resumed"]))
        return


class Replicas:
    """Starts gateways over one store, in front of a worker, and ends them all."""

    def __init__(self, shared: SharedSettings, folder: Path, forker: Callable[[dict[str, Any]], int]) -> None:
        self.shared = shared
        self._forker = forker
        self.log = Log(folder / "log")
        self.errors = folder / "errors"
        self.errors.touch()
        self.let_go = asyncio.Event()
        """Lets the worker answer the calls that it holds back."""
        self.deadly: set[str] = set()
        """Stages whose next answer kills the gateway."""
        self._pids: list[int] = []
        self._worker = grpc.aio.server()
        handlers = {METHOD: grpc.unary_unary_rpc_method_handler(self._work)}
        self._worker.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._port = self._worker.add_insecure_port("127.0.0.1:0")

    async def start(self) -> None:
        await self._worker.start()

    async def gateway(self, *resumed: str, turns_of: int = 0) -> "Process":
        """Start a gateway that gives turns to so many surveys, or resumes these; return it once it serves."""
        shared = self.shared
        order = {
            "environment": {
                "PAPERROUTE_DATA_DIR": str(shared.data_dir),
                "PAPERROUTE_DATABASE_URL": shared.database_url,
            },
            "log": str(self.log.path),
            "errors": str(self.errors),
            "worker": f"127.0.0.1:{self._port}",
            "turns_of": turns_of,
            "resumed": resumed,
        }
        pid = await asyncio.to_thread(self._forker, order)
        self._pids.append(pid)
        await self.log.wait_for(lambda log: bool(log.lines("serves", pid)) or bool(self.errors.read_text()))
        assert self.log.lines("serves", pid), self.errors.read_text()
        return Process(pid, self.log.lines("serves", pid)[0][2])

    async def close(self) -> None:
        self.let_go.set()
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._worker.stop(0)

    async def _work(self, request: bytes, _context: Any) -> bytes:
        survey_id, name, number, owner = request.decode().split()
        self.log.add("asked", survey_id, name, number, owner)
        if name == "summarize" and int(number) >= HELD_FROM:
            await self.let_go.wait()
        if name in self.deadly:
            self.deadly.remove(name)
            return b"die"
        return b"live"


class Process:
    """A gateway."""

    def __init__(self, pid: int, owner: str) -> None:
        self.pid, self.owner = pid, owner

    async def kill(self) -> None:
        """End it as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        await self.ended()

    async def stop(self) -> None:
        """End it in order."""
        os.kill(self.pid, signal.SIGTERM)
        await self.ended()

    async def ended(self) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(self.pid, 0)
                assert time.monotonic() < give_up_at
                await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def forker() -> Iterator[Callable[[dict[str, Any]], int]]:
    """Return what starts a gateway and returns the number of its process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", __file__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def fork(order: dict[str, Any]) -> int:
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{json.dumps(order)}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    with process:
        yield fork


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> SharedSettings:
    """Settings of an empty store, in SQLite and in PostgreSQL."""
    return SharedSettings(database_url=database_url, data_dir=tmp_path / "data")


@pytest.fixture
async def replicas(settings: SharedSettings, tmp_path: Path, forker: Any) -> AsyncIterator[Replicas]:
    """Gateways as processes of their own on that store."""
    made = Replicas(settings, tmp_path, forker)
    await made.start()
    yield made
    await made.close()


if __name__ == "__main__":
    fork_gateways()
