"""Two retrieval processes on one store, in SQLite and in PostgreSQL, against one stand-in of arXiv and its log."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc
from paperroute.v1 import search_pb2
from postgres import new_database, postgres  # noqa: F401  # a fixture
from processes import START_TIMEOUT_S, free_ports, paperroute
from standins import arxiv_server as arxiv
from standins.arxiv_atom import Record

SPACING_S = 0.4
NOW = datetime.now(UTC).replace(microsecond=0)
WORDS = ("cats", "dogs", "birds", "trees", "clouds", "rivers", "stars", "moons", "suns", "roads", "stones")
RECORDS = [
    Record(
        paper_id=f"26{place + 1:02}.{number:05}",
        title=f"About {word}",
        abstract="",
        published=NOW - timedelta(days=1 + number),
        updated=NOW,
    )
    for place, word in enumerate(WORDS)
    for number in range(150 if word in {"cats", "clouds"} else 3)
]


@contextlib.contextmanager
def replica(environment: Mapping[str, str]) -> Iterator["Replica"]:
    """Run a retrieval process and wait until it serves."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with (Path(environment["PAPERROUTE_DATA_DIR"]) / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            paperroute("serve", "retrieval"),
            env={**environment, "PAPERROUTE_RETRIEVAL__LISTEN": address},
            stdout=log,
            stderr=log,
        )
    try:
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            health.Check(health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S, wait_for_ready=True)
        yield Replica(process, address)
    finally:
        process.kill()
        process.wait(30)


class Replica:
    """A retrieval process."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self._process = process
        self._address = address

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)

    async def events(self, term: str) -> Sequence[pb.SearchPapersResponse]:
        request = pb.SearchPapersRequest(search_terms=[term], source=search_pb2.SOURCE_ARXIV)
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = pb_grpc.RetrievalServiceStub(channel)
            return [message async for message in stub.SearchPapers(request, timeout=60)]

    async def found(self, term: str) -> int:
        return len((await self.events(term))[-1].result.papers)


def environment_of(data_dir: Path, arxiv_port: int, database: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
    return {
        **inherited,
        "PAPERROUTE_DATA_DIR": str(data_dir),
        "PAPERROUTE_DATABASE_URL": database,
        "PAPERROUTE_RETRIEVAL__ARXIV_URL": f"http://127.0.0.1:{arxiv_port}/api/query",
        "PAPERROUTE_RETRIEVAL__REQUEST_SPACING_S": str(SPACING_S),
        "PAPERROUTE_RETRIEVAL__COOLDOWN_S": "0.5",
    }


@pytest.fixture(scope="module")
def arxiv_port() -> int:
    """Where the stand-in of each test listens: the processes outlive it."""
    return free_ports(1)[0]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def replicas(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, arxiv_port: int
) -> Iterator[tuple[Replica, Replica]]:
    """Two processes on one store; what a test searched for is kept in it, so each searches for words of its own."""
    database = new_database(request.getfixturevalue("postgres")) if request.param == "postgresql" else ""
    environment = environment_of(tmp_path_factory.mktemp("replicas"), arxiv_port, database)
    with replica(environment) as one, replica(environment) as other:
        yield one, other


@pytest.fixture
async def server(arxiv_port: int) -> AsyncIterator[arxiv.ArxivStandIn]:
    async with arxiv.ArxivStandIn(RECORDS, port=arxiv_port) as running:
        yield running


async def test_requests_of_two_processes_keep_their_distance(replicas, server):
    """Never closer than the spacing, and none beside another: two slow ones are in the log at full length."""
    one, other = replicas
    slow_s = 2 * SPACING_S
    server.script([None, arxiv.slow(slow_s), arxiv.unavailable(), None, arxiv.slow(slow_s)])

    found = await asyncio.gather(one.found("cats"), other.found("dogs"), one.found("birds"), other.found("trees"))

    assert found == [150, 3, 3, 3]
    starts = [each.started_at for each in server.requests]
    assert len(starts) == 6
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert all(gap >= SPACING_S for gap in gaps)
    assert gaps[1] >= slow_s
    assert gaps[4] >= slow_s


async def test_search_under_way_is_joined_across_processes(replicas, server):
    one, other = replicas
    server.script([arxiv.slow(0.5)])

    found = await asyncio.gather(one.found("clouds"), other.found("clouds"), one.found("clouds"))

    assert found == [150, 150, 150]
    assert [request.start for request in server.requests] == [0, 100]


async def test_place_in_the_queue_is_told(replicas, server):
    one, other = replicas
    server.script([arxiv.slow(1.5)])
    first = asyncio.create_task(one.events("rivers"))
    while not server.requests:
        await asyncio.sleep(0.01)

    events = await asyncio.gather(*(other.events(word) for word in WORDS[6:9]))
    await first

    waits = {event.progress.waiting_for for each in events for event in each}
    assert {"arXiv", "arXiv, 2nd in the queue", "arXiv, 3rd in the queue"} <= waits


async def test_throttling_of_one_process_pauses_the_other(replicas, server):
    one, other = replicas
    server.script([arxiv.too_many_requests("2")])

    await asyncio.gather(one.found("roads"), other.found("stones"))

    starts = [each.started_at for each in server.requests]
    assert starts[1] - starts[0] >= 2


async def test_turn_of_a_killed_process_is_free_again(server, arxiv_port, tmp_path):
    environment = environment_of(tmp_path, arxiv_port, database="")
    server.script([arxiv.slow(30)])
    with replica(environment) as one, replica(environment) as other:
        doomed = asyncio.create_task(one.found("cats"))
        while not server.requests:
            await asyncio.sleep(0.01)
        one.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await doomed

        assert await other.found("dogs") == 3
