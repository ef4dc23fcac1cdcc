"""`make bench-telemetry`: what telemetry costs a process that makes surveys, and what a bad receiver does to it.

All roles run in one process (`paperroute up`), once with each way to export; the stand-in for the model providers is a
process of its own, and so is the OTLP collector. In a pair one way and the one that exports nothing make surveys in
turns (A B B A), so that what else the machine does meets both; the median of 20 pairs counts. What telemetry costs is
CPU time, measured with a provider that answers at once. Whether a bad receiver holds surveys up is told by their time,
with a provider that takes a while: without, a survey is nothing but CPU time, which has been measured already.
It takes about ten minutes.
"""

import argparse
import asyncio
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench_gateway import cpu_s
from bench_table import Target, finish, print_table
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paperroute.v1 import search_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from processes import free_ports, paperroute
from standins.otlp_collector import dead_endpoint
from standins.provider_process import provider_process

from services.common.channel import open_channel

PAIRS, PAPERS = 20, 40
MOST = 1.10
"""Most of CPU time and of time that a way may take, beside the one that exports nothing."""
MOST_END_S = 5.0
TIMEOUT_S = 120
MODEL = "openai:gpt-6-luna"
TERMS = ("LoRA image generation", "LoRA diffusion", "low-rank adaptation")
_COLLECTOR = Path(__file__).parents[1] / "standins" / "otlp_main.py"
_DROPPED = re.compile(r"^paperroute_spans_dropped_total\{.*\} (\S+)$", re.MULTILINE)
WAYS: Mapping[str, tuple[str, ...] | None] = {
    "off": None,
    "on": (),
    "down": None,
    "slow": ("--waits-s", "30"),
    "refusing": ("--refuses-with", "UNAVAILABLE"),
}
"""The arguments of each way's collector; None has no collector."""
BAD = ("down", "slow", "refusing")
LATENCY = ("--latency-s", "0.2", "--tokens-per-s", "1000")
"""Of a provider that takes a while, though a tenth of what real ones take."""


@dataclass(kw_only=True)
class Way:
    """A process that makes surveys, and what one took."""

    address: str
    process: "subprocess.Popen[bytes]"
    metrics: str
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    """Of each pair, beside the way that exports nothing."""
    wall_ratios: list[float] = field(default_factory=list)
    dropped: float = 0
    end_s: float = 0


@contextlib.contextmanager
def collector(arguments: tuple[str, ...]) -> Iterator[str]:
    """Run a collector and yield its endpoint."""
    child = subprocess.Popen(
        [sys.executable, str(_COLLECTOR), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout
        yield child.stdout.readline().strip()
    finally:
        child.communicate(timeout=20)


@contextlib.contextmanager
def way(name: str, provider_url: str) -> Iterator[Way]:
    """Run all roles in one process that exports in a way."""
    with contextlib.ExitStack() as stack:
        listen, metrics = (f"127.0.0.1:{port}" for port in free_ports(2))
        given = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
        given |= {f"PAPERROUTE_MODELS__{stage}": MODEL for stage in ("PLAN", "SUMMARIZE", "WRITE", "FRAME")}
        given |= {
            "PAPERROUTE_GATEWAY__LISTEN": listen,
            "PAPERROUTE_GATEWAY__CONSOLE_LISTEN": "127.0.0.1:0",
            "PAPERROUTE_DATA_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
            "PAPERROUTE_OPENAI__BASE_URL": provider_url,
            "PAPERROUTE_OPENAI__API_KEY": "sk-of-the-stand-in",
        }
        if name != "off":
            arguments = WAYS[name]
            endpoint = stack.enter_context(dead_endpoint() if arguments is None else collector(arguments))
            given |= {"PAPERROUTE_OTLP_ENDPOINT": endpoint, "PAPERROUTE_METRICS_LISTEN": metrics}
        if name == "on":
            given |= {"PAPERROUTE_LOG_FORMAT": "json", "PAPERROUTE_LOG_LEVEL": "info"}
        log = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(paperroute("up"), env=given, stdout=log, stderr=log)
        try:
            yield Way(address=listen, process=process, metrics=metrics)
        except BaseException:
            log.seek(0)
            print(f"{name}:\n{log.read().decode()}", file=sys.stderr)
            raise
        finally:
            process.kill()
            process.wait()


def scraped(metrics: str) -> str:
    """Return the metrics of a process as a Prometheus reads them."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as answer:
        return str(answer.read(), "utf-8")


@contextlib.contextmanager
def scraping(metrics: str, stop: threading.Event) -> Iterator[None]:
    """Scrape once a second until it is to stop."""

    def scrape() -> None:
        with contextlib.suppress(OSError):  # of a process that ends
            while not stop.wait(1):
                scraped(metrics)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def surveys(listen: str, count: int) -> None:
    """Make surveys, one after the other; each pays for all its calls anew."""
    async with open_channel(listen) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True
        )
        stub: pb_grpc.SurveyServiceAsyncStub = pb_grpc.SurveyServiceStub(channel)
        for _ in range(count):
            spec = pb.SurveySpec(
                question="How is LoRA used?", source=search_pb2.SOURCE_SAMPLE, max_papers=PAPERS, cache_off=True
            )
            created = await stub.CreateSurvey(service_pb.CreateSurveyRequest(spec=spec), timeout=TIMEOUT_S)
            survey_id = created.survey.survey_id
            async for _event in stub.WatchSurvey(service_pb.WatchSurveyRequest(survey_id=survey_id), timeout=TIMEOUT_S):
                pass
            answer = await stub.GetSurvey(service_pb.GetSurveyRequest(survey_id=survey_id), timeout=TIMEOUT_S)
            if answer.survey.state != pb.SURVEY_STATE_DONE:
                raise RuntimeError(f"a survey is not done: {answer.survey.failure}")


def measure(each: Way) -> None:
    """Make a survey and note what it took."""
    cpu, began = cpu_s(each.process.pid), time.perf_counter()
    asyncio.run(surveys(each.address, 1))
    each.wall_s.append(time.perf_counter() - began)
    each.cpu_s.append(cpu_s(each.process.pid) - cpu)


def pair(off: Way, other: Way) -> None:
    """Compare two ways once."""
    for each in (off, other, other, off):
        measure(each)
    other.cpu_ratios.append(sum(other.cpu_s[-2:]) / sum(off.cpu_s[-2:]))
    other.wall_ratios.append(sum(other.wall_s[-2:]) / sum(off.wall_s[-2:]))


def end(each: Way) -> None:
    """End a process as its owner does, and note how long that takes."""
    began = time.perf_counter()
    each.process.terminate()
    each.process.wait(60)
    each.end_s = time.perf_counter() - began


def measured(pairs: int, names: Sequence[str], *speed: str) -> Mapping[str, Way]:
    """Run some ways, in pairs with the one that exports nothing.

    Args:
        pairs: how many of each.
        names: of the ways beside that one.
        speed: of the provider, as its process takes it.
    """
    stop_scraping = threading.Event()
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(provider_process(*speed, *(f"--search-term={term}" for term in TERMS)))
        ways = {name: stack.enter_context(way(name, provider.openai_url)) for name in ("off", *names)}
        for name, each in ways.items():
            asyncio.run(surveys(each.address, 2))  # loads what the first survey loads
            if name == "on":
                stack.enter_context(scraping(each.metrics, stop_scraping))
        for _ in range(pairs):
            for name in names:
                pair(ways["off"], ways[name])
        for name in names:
            ways[name].dropped = sum(float(value) for value in _DROPPED.findall(scraped(ways[name].metrics)))
        stop_scraping.set()
        for each in ways.values():
            end(each)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=PAIRS)
    pairs = parser.parse_args().pairs
    quick, patient = measured(pairs, ["on"]), measured(pairs, BAD, *LATENCY)
    ways = {"off": quick["off"], "on": quick["on"], "off, provider with latency": patient["off"]}
    ways |= {name: patient[name] for name in BAD}
    rows, figures, targets = [], {}, []
    for name, each in ways.items():
        cpu, wall = (statistics.median(ratios or [1.0]) for ratios in (each.cpu_ratios, each.wall_ratios))
        figures[name] = {
            "cpu_ms_per_survey": round(statistics.median(each.cpu_s) * 1_000, 1),
            "cpu_ratio": round(cpu, 3),
            "wall_ms_per_survey": round(statistics.median(each.wall_s) * 1_000, 1),
            "wall_ratio": round(wall, 3),
            "end_s": round(each.end_s, 2),
            "dropped_spans": round(each.dropped),
        }
        rows.append((name, *(str(value) for value in figures[name].values())))
        if name == "on":
            targets.append(Target(name="CPU time, on beside off", figure=cpu, most=MOST))
        if name in BAD:
            targets += [
                Target(name=f"time, {name} beside off", figure=wall, most=MOST),
                Target(name=f"wait at the end, {name}, s", figure=each.end_s - patient["off"].end_s, most=MOST_END_S),
                Target(name=f"no dropped span counted, {name}", figure=float(each.dropped == 0), most=0),
            ]
    print_table(("export", *figures["off"]), rows)
    finish(targets, {"pairs": pairs, "papers": PAPERS, **figures})


if __name__ == "__main__":
    main()
