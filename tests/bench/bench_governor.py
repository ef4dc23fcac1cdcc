"""`make bench-governor`: 160 summaries at once, against a server that limits them and against one that is only slow.

The stand-in provider runs in a process of its own, and so does each worker. A worker makes its calls as the services
do: the real adapter on the real library, the ledger in a SQLite file that all workers share, the governor. Nothing of
the limits is configured. What a call of another model takes to load is not counted. Each way is run several times; the
worst figures are told. Beside them stands what the provider's own library does with its usual retries.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench_table import Target, finish, print_table
from standins.provider_process import ProviderProcess, provider_process

from services.common.deadlines import Deadline
from services.common.errors import PaperRouteError
from services.common.paid.caller import Caller, Priority, Scope
from services.common.paid.calls import PaidCalls, TextSink
from services.common.paid.faults import ProviderFault
from services.common.paid.governor import Governors
from services.common.paid.ledger import Ledger
from services.common.paid.ledger_schema import ledger_database
from services.common.paid.prices import PriceBook
from services.common.paid.shared_limits import SharedLimits
from services.common.providers.chat import ChatReply, ChatRequest, Provider
from services.common.providers.registry import Providers
from services.common.settings import SharedSettings
from services.generation.llm.chat_model import ChatModel

CALL_COUNT = 160
REQUESTS_PER_S, BURST = 20, 30
LATENCY_S = 0.5
IDEAL_S = (CALL_COUNT - BURST) / REQUESTS_PER_S
MODEL, OTHER_MODEL = "gpt-6-luna", "gpt-6-sol"
PROMPT = "Summarize what this paper says about limits.\n" + "We study how to keep to the limit of a server. " * 27
DEADLINE_S = 120.0
LIMITED = ("--requests-per-s", str(REQUESTS_PER_S), "--burst", str(BURST))


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to make the calls."""

    name: str
    workers: int = 1
    is_limited: bool = True
    is_governed: bool = True
    has_headers: bool = True
    """Whether the workers see what the headers of answers tell of limits; Retry-After they see either way."""
    rounds: int = 3


ONE = Way(name="1 worker")
THREE = Way(name="3 workers, one ledger", workers=3)
UNLIMITED = Way(name="1 worker, no limit", is_limited=False)
WAYS = (
    Way(name="openai library, its retries", is_governed=False, rounds=1),
    ONE,
    THREE,
    Way(name="1 worker, Retry-After only", has_headers=False, rounds=1),
    Way(name="3 workers, Retry-After only", workers=3, has_headers=False, rounds=1),
    Way(name="openai library, no limit", is_limited=False, is_governed=False, rounds=1),
    UNLIMITED,
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one round of a way took."""

    lost_count: int
    wasted_count: int
    """Requests that were refused with 429."""
    doubled_count: int
    """Answers beyond one for each call."""
    wall_s: float
    """From the first worker's beginning to the last one's end."""
    cpu_ms: float
    """Of the workers' processes, for each call."""


class HeadersUnread:
    """A provider whose answers tell nothing of limits, but how long to wait."""

    def __init__(self, provider: Provider) -> None:
        self.name, self.endpoint, self.key_variable = provider.name, provider.endpoint, provider.key_variable
        self._provider = provider

    async def chat(self, request: ChatRequest, sink: TextSink | None = None) -> ChatReply:
        try:
            return replace(await self._provider.chat(request, sink), rate=None)
        except ProviderFault as fault:
            fault.rate = None
            raise

    async def embed(self, model: str, texts: tuple[str, ...], dimension: int) -> Any:
        return await self._provider.embed(model, texts, dimension)

    async def close(self) -> None:
        await self._provider.close()


class Governed:
    """Makes calls as the services do."""

    def __init__(self, data_dir: Path, *, has_headers: bool) -> None:
        shared = SharedSettings(data_dir=data_dir)
        self._providers = Providers.from_environment()
        database = ledger_database(shared, "generation")
        ledger = Ledger(database, "generation", retention_days=90, max_answer_bytes=2**30)
        governors = Governors(self._providers.limits_of, SharedLimits(database, "generation"), replicas=1)
        self._calls = PaidCalls(ledger, PriceBook(""), governors)
        provider = self._providers.find("openai")
        assert provider
        self._provider = provider if has_headers else HeadersUnread(provider)

    async def call(self, number: int, model: str = MODEL) -> bool:
        """Make a call and return whether it was answered."""
        item = f"paper {number}"
        caller = Caller(
            tenant="default",
            survey_id="bench",
            stage="summarize",
            item=item,
            deadline=Deadline.after(DEADLINE_S),
            priority=Priority.BULK,
        )
        request = ChatRequest(model=model, system="", prompt=f"{item}\n{PROMPT}", max_output_tokens=600)
        try:
            chat = ChatModel(self._provider, model, self._calls)
            return bool((await chat.ask(request, caller, scope=Scope.PUBLIC, prompt_id="bench")).text)
        except (ProviderFault, PaperRouteError) as error:
            print(f"{item}: {error}", file=sys.stderr)
            return False

    async def close(self) -> None:
        await self._calls.close()
        await self._providers.close()


class Ungoverned:
    """Makes calls as the provider's library does by itself."""

    def __init__(self) -> None:
        import openai

        limits = openai.DefaultAioHttpClient(limits=_many_connections())
        self._client = openai.AsyncOpenAI(base_url=os.environ["PAPERROUTE_OPENAI__BASE_URL"], http_client=limits)

    async def call(self, number: int, model: str = MODEL) -> bool:
        import openai

        messages: Any = [{"role": "user", "content": f"paper {number}\n{PROMPT}"}]
        try:
            await self._client.chat.completions.create(model=model, messages=messages, max_completion_tokens=600)
        except openai.OpenAIError:
            return False
        return True

    async def close(self) -> None:
        await self._client.close()


def _many_connections() -> Any:
    import httpx2

    return httpx2.Limits(max_connections=256, max_keepalive_connections=256)


async def work(given: argparse.Namespace) -> None:
    """Make this worker's calls once a line comes, and print what they took as JSON."""
    data_dir = Path(given.data_dir)
    caller = Governed(data_dir, has_headers=given.has_headers) if given.is_governed else Ungoverned()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(caller.close)
        await caller.call(given.worker, OTHER_MODEL)  # loads what calls need; limits are those of a model
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began, cpu_began = time.monotonic(), _cpu_s()
        answered = await asyncio.gather(*(caller.call(each) for each in range(given.worker, CALL_COUNT, given.workers)))
        ended, cpu_ended = time.monotonic(), _cpu_s()
    figures = {"began": began, "ended": ended, "cpu_s": cpu_ended - cpu_began, "lost": answered.count(False)}
    print(json.dumps(figures), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(way: Way) -> Measured:
    """Run one round with a server and workers of its own."""
    with tempfile.TemporaryDirectory() as data_dir:
        arguments = ["--latency-s", str(LATENCY_S), *(LIMITED if way.is_limited else ())]
        with provider_process(*arguments) as provider:
            reports = _run_workers(way, provider, data_dir)
            statuses = [each["status"] for each in provider.requests() if each["model"] == MODEL]
    lost_count = sum(report["lost"] for report in reports)
    return Measured(
        lost_count=lost_count,
        wasted_count=statuses.count(429),
        doubled_count=statuses.count(200) - (CALL_COUNT - lost_count),
        wall_s=max(report["ended"] for report in reports) - min(report["began"] for report in reports),
        cpu_ms=1000 * sum(report["cpu_s"] for report in reports) / CALL_COUNT,
    )


def _run_workers(way: Way, provider: ProviderProcess, data_dir: str) -> list[dict[str, float]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
    environment |= {"OPENAI_API_KEY": "stand-in", "PAPERROUTE_OPENAI__BASE_URL": provider.openai_url}
    switches = [f"--{name.replace('_', '-')}" for name in ("is_governed", "has_headers") if getattr(way, name)]
    command = [sys.executable, __file__, *switches, "--data-dir", data_dir, "--workers", str(way.workers), "--worker"]
    children = [
        subprocess.Popen(
            [*command, str(number)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in range(way.workers)
    ]
    try:
        for child in children:
            _line_of(child)
        for child in children:
            _tell(child, "go\n")
        return [json.loads(_line_of(child)) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _line_of(child: "subprocess.Popen[str]") -> str:
    assert child.stdout
    line = child.stdout.readline()
    if not line:
        raise SystemExit("a worker ended early")
    return line


def _tell(child: "subprocess.Popen[str]", line: str) -> None:
    assert child.stdin
    child.stdin.write(line)
    child.stdin.flush()


def worst_of(rounds: Sequence[Measured]) -> Measured:
    names = ("lost_count", "wasted_count", "doubled_count", "wall_s", "cpu_ms")
    return Measured(**{name: max(getattr(each, name) for each in rounds) for name in names})


def targets_of(worst: dict[str, Measured]) -> list[Target]:
    targets = []
    for way in (ONE, THREE):
        found = worst[way.name]
        targets += [
            Target(name=f"{way.name}: lost calls", figure=found.lost_count, most=0),
            Target(name=f"{way.name}: refused requests", figure=found.wasted_count, most=20),
            Target(name=f"{way.name}: answers paid for twice", figure=found.doubled_count, most=0),
            Target(name=f"{way.name}: wall by the ideal {IDEAL_S:g} s", figure=found.wall_s / IDEAL_S, most=1.35),
        ]
    found = worst[UNLIMITED.name]
    return [
        *targets,
        Target(name=f"{UNLIMITED.name}: lost calls", figure=found.lost_count, most=0),
        Target(name=f"{UNLIMITED.name}: wall in s", figure=found.wall_s, most=2.2),
        Target(name=f"{UNLIMITED.name}: CPU of the client in ms a call", figure=found.cpu_ms, most=4),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often to run each way")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", help=argparse.SUPPRESS)
    parser.add_argument("--is-governed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--has-headers", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        asyncio.run(work(given))
        return
    rounds = {way.name: [measured(way) for _ in range(given.rounds or way.rounds)] for way in WAYS}
    worst = {name: worst_of(each) for name, each in rounds.items()}

    def row(name: str, found: Measured) -> list[str]:
        counts = [str(each) for each in (len(rounds[name]), found.lost_count, found.wasted_count)]
        return [name, *counts, f"{found.wall_s:.2f}", f"{found.cpu_ms:.2f}"]

    print_table(
        [f"{CALL_COUNT} calls, worst round", "rounds", "lost", "refused", "wall s", "CPU ms a call"],
        [row(name, found) for name, found in worst.items()],
    )
    finish(targets_of(worst), {name: vars(each) for name, each in worst.items()})


if __name__ == "__main__":
    main()
