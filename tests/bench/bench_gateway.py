"""`make bench-gateway`: 200 surveys of 40 papers at once through one gateway, each with a watcher.

The gateway is a process of its own with its SQLite files; the services behind it are a process that answers at once, so
that time and memory are the gateway's. Surveys are created as fast as they are accepted while those before run.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench_table import Target, finish, print_table
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from processes import free_ports, paperroute

from services.common.channel import open_channel

SURVEYS, PAPERS, CREATORS = 200, 40, 16
MEMORY_MB = 1_000
TIMEOUT_S = 300
_SERVICES = Path(__file__).parents[1] / "standins" / "services_main.py"
_ROLES = ("RETRIEVAL", "EMBEDDING", "ORDERING", "GENERATION", "SUMMARIZATION")


@dataclass(kw_only=True)
class Seen:
    """What the clients saw."""

    create_s: list[float] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    complete_watchers: int = 0
    cited: list[int] = field(default_factory=list)


@contextlib.contextmanager
def services() -> Iterator[str]:
    """Run the stand-ins of the services and yield their address."""
    command = [sys.executable, str(_SERVICES), "--papers", str(PAPERS)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        yield child.stdout.readline().strip()
    finally:
        assert child.stdin
        child.stdin.close()
        child.wait(20)


@contextlib.contextmanager
def gateway(address: str, folder: str, count: int) -> Iterator[tuple[str, int]]:
    """Run a gateway in front of the services; yield its address and its process id."""
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
    environment |= {f"PAPERROUTE_GATEWAY__{role}": address for role in _ROLES}
    environment |= {
        "PAPERROUTE_GATEWAY__LISTEN": listen,
        "PAPERROUTE_GATEWAY__MAX_RUNNING_SURVEYS": str(count),
        "PAPERROUTE_GATEWAY__MAX_RUNNING_SURVEYS_PER_TENANT": str(count),
        "PAPERROUTE_DATA_DIR": folder,
    }
    child = subprocess.Popen(paperroute("serve", "gateway"), env=environment)
    try:
        yield listen, child.pid
    finally:
        child.terminate()
        child.wait(30)


async def one(stub: "pb_grpc.SurveyServiceAsyncStub", number: int, places: asyncio.Semaphore, seen: Seen) -> None:
    """Create a survey, watch it to its end, and read it."""
    async with places:
        began = time.perf_counter()
        request = service_pb.CreateSurveyRequest(spec=pb.SurveySpec(question=f"Which names, {number}?"))
        created = await stub.CreateSurvey(request, timeout=TIMEOUT_S)
        seen.create_s.append(time.perf_counter() - began)
    survey_id = created.survey.survey_id
    watch = stub.WatchSurvey(service_pb.WatchSurveyRequest(survey_id=survey_id), timeout=TIMEOUT_S)
    numbers, last = [], ""
    async for event in watch:
        if event.number:
            numbers.append(event.number)
            last = event.WhichOneof("event") or ""
    seen.complete_watchers += numbers == list(range(1, len(numbers) + 1)) and last == "finished"
    answer = await stub.GetSurvey(service_pb.GetSurveyRequest(survey_id=survey_id), timeout=TIMEOUT_S)
    seen.states[pb.SurveyState.Name(answer.survey.state)] += 1
    seen.cited.append(answer.survey.coverage.cited_count)


async def measured(listen: str, count: int) -> tuple[Seen, float]:
    """Run the surveys; return what was seen and how long all took, in seconds."""
    seen, places = Seen(), asyncio.Semaphore(CREATORS)
    async with open_channel(listen) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True
        )
        await check
        stub: pb_grpc.SurveyServiceAsyncStub = pb_grpc.SurveyServiceStub(channel)
        await one(stub, -1, asyncio.Semaphore(1), Seen())  # loads what the first survey loads
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(stub, number, places, seen))
        return seen, time.perf_counter() - began


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """Return the most memory a process has held."""
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--surveys", type=int, default=SURVEYS)
    count = parser.parse_args().surveys
    with tempfile.TemporaryDirectory() as folder, services() as address, gateway(address, folder, count) as made:
        listen, pid = made
        before = 0.0

        async def run() -> tuple[Seen, float]:
            nonlocal before
            before = cpu_s(pid)
            return await measured(listen, count)

        seen, seconds = asyncio.run(run())
        cpu_ms, peak = (cpu_s(pid) - before) * 1_000 / count, peak_mb(pid)
    quantiles = statistics.quantiles(seen.create_s, n=100)
    figures = {
        "surveys": count,
        "papers": PAPERS,
        "surveys_per_s": round(count / seconds, 2),
        "cpu_ms_per_survey": round(cpu_ms, 1),
        "create_p50_ms": round(quantiles[49] * 1_000, 1),
        "create_p99_ms": round(quantiles[98] * 1_000, 1),
        "peak_mb": round(peak),
        "states": dict(seen.states),
    }
    print_table(("figure", "value"), [(name, str(value)) for name, value in figures.items()])
    finish(
        [
            Target(name="surveys not DONE", figure=count - seen.states["SURVEY_STATE_DONE"], most=0),
            Target(name="watchers with a gap, a repeat or no end", figure=count - seen.complete_watchers, most=0),
            Target(name="papers not cited", figure=count * PAPERS - sum(seen.cited), most=0),
            Target(name="peak memory of the gateway, MB", figure=peak, most=MEMORY_MB),
        ],
        figures,
    )


if __name__ == "__main__":
    main()
