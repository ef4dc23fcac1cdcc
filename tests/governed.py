"""What governors are tested with: calls that end when a test says so, and a server that keeps to a limit.

Both are meant for virtual time (virtual_time.py); nothing here waits for anything real.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.common.deadlines import Deadline
from services.common.errors import UpstreamFailed
from services.common.paid.caller import Priority
from services.common.paid.calls import Reply
from services.common.paid.faults import FaultKind, ProviderFault, RateState
from services.common.paid.governor import ConfiguredLimits, Governor, Governors
from services.common.paid.shared_limits import Shared, Told
from services.common.paid.usage import TokenUsage

MODEL = "own:model"
WORST = TokenUsage(input_tokens=200, output_tokens=100)
USED = TokenUsage(input_tokens=200, output_tokens=100)


def reply(*, tokens: TokenUsage = USED, rate: RateState | None = None) -> Reply:
    return Reply(body=b"an answer", tokens=tokens, rate=rate)


def fault(kind: FaultKind, retry_after_s: float | None = None, **others: Any) -> ProviderFault:
    return ProviderFault(kind, MODEL, "as the test wants it", retry_after_s=retry_after_s, **others)


def refusal(retry_after_s: float | None = None, **others: Any) -> ProviderFault:
    return fault(FaultKind.RATE_LIMIT, retry_after_s, **others)


def requests_left(remaining: float, *, limit: float = 10, per_s: float = 1, rounded: bool = False) -> RateState:
    """Return what a server with a limit of requests says; `rounded` to whole seconds, as Anthropic does."""
    reset_s = (limit - remaining) / per_s
    return RateState(
        request_limit=limit,
        requests_remaining=math.floor(remaining),
        requests_reset_s=math.ceil(reset_s) if rounded else reset_s,
    )


def make_governors(
    shared: Any = None,
    *,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    max_in_flight: int = 256,
    replicas: int = 1,
    chance: Callable[[], float] = lambda: 0.5,
) -> Governors:
    limits = ConfiguredLimits(
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, max_in_flight=max_in_flight
    )
    return Governors(lambda _model: limits, shared, replicas=replicas, chance=chance)


def make_governor(**settings: Any) -> Governor:
    return make_governors(**settings).of(MODEL)


class Calls:
    """Calls through a governor: which were sent, when, and how they end.

    Each attempt takes the next of `answers`: a reply, a fault, or None for one that is held until `end` is called. When
    there are no more, all are answered at once.
    """

    def __init__(self, governor: Governor, answers: Sequence[Reply | Exception | None] = ()) -> None:
        self.governor = governor
        self.sent: list[str] = []
        self.sent_at: list[float] = []
        self.faults: list[ProviderFault] = []
        self._answers = list(answers)
        self._held: list[asyncio.Future[Reply]] = []

    @property
    def held_count(self) -> int:
        return sum(not each.done() for each in self._held)

    def start(self, name: str = "call", **settings: Any) -> "asyncio.Task[Reply]":
        return asyncio.create_task(self.run(name, **settings))

    async def run(
        self,
        name: str = "call",
        *,
        priority: Priority = Priority.BULK,
        worst: TokenUsage = WORST,
        seconds: float = 100_000.0,
        governor: Governor | None = None,
    ) -> Reply:
        return await (governor or self.governor).run(
            lambda: self._send(name),
            priority=priority,
            worst=worst,
            deadline=Deadline.after(seconds),
            on_fault=self._note,
        )

    def end(self, answer: Reply | Exception | None = None) -> None:
        """End the call that is held for longest."""
        held = next(each for each in self._held if not each.done())
        if isinstance(answer, Exception):
            held.set_exception(answer)
        else:
            held.set_result(answer or reply())

    async def _send(self, name: str) -> Reply:
        loop = asyncio.get_running_loop()
        self.sent.append(name)
        self.sent_at.append(loop.time())
        answer = self._answers.pop(0) if self._answers else reply()
        if answer is None:
            held = loop.create_future()
            self._held.append(held)
            return await held
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _note(self, fault: ProviderFault) -> None:
        self.faults.append(fault)


async def settled() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


class LimitedServer:
    """Answers after a while; refuses what is over its limit at once, with headers or without."""

    def __init__(
        self,
        *,
        requests_per_s: float,
        burst: int,
        latency_s: float,
        has_headers: bool = True,
        retry_after: Callable[[float], float | None] = lambda wait_s: max(1.0, math.ceil(wait_s)),
        seed: int = 0,
    ) -> None:
        self.answered_count = self.refused_count = self.in_flight = self.most_in_flight = 0
        self._requests_per_s = requests_per_s
        self._burst = burst
        self._latency_s = latency_s
        self._has_headers = has_headers
        self._retry_after = retry_after
        self._level = float(burst)
        self._filled_at: float | None = None
        self._random = random.Random(seed)

    async def send(self) -> Reply:
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            await self._network()
            return await self._answer()
        finally:
            self.in_flight -= 1

    async def _answer(self) -> Reply:
        self._fill()
        is_over = self._level < 1
        self._level -= not is_over
        state = requests_left(self._level, limit=self._burst, per_s=self._requests_per_s)
        rate = state if self._has_headers else None
        if is_over:
            self.refused_count += 1
            await self._network()
            raise refusal(self._retry_after((1 - self._level) / self._requests_per_s), rate=rate)
        await asyncio.sleep(self._latency_s)
        self.answered_count += 1
        return reply(rate=rate)

    async def _network(self) -> None:
        await asyncio.sleep(self._random.uniform(0.001, 0.02))

    def _fill(self) -> None:
        now = asyncio.get_running_loop().time()
        passed_s = 0.0 if self._filled_at is None else now - self._filled_at
        self._level = min(self._burst, self._level + passed_s * self._requests_per_s)
        self._filled_at = now


class Blackboard:
    """What workers share, in memory: the same as the tables, in virtual time."""

    def __init__(self) -> None:
        self.workers: dict[object, float] = {}
        self.cooldown_until = -math.inf
        self.requests: Any = None
        self.tokens: Any = None

    def view(self) -> "BlackboardView":
        return BlackboardView(self)


class BlackboardView:
    """One worker's view; it can be made to fail or to hang."""

    def __init__(self, board: Blackboard) -> None:
        self.board = board
        self.told: list[Told] = []
        self.is_broken = False
        self.hangs = False

    async def exchange(self, _model: str, told: Told) -> Shared:
        await asyncio.sleep(0.005)
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.is_broken:
            raise UpstreamFailed("the ledger", "it is broken")
        self.told.append(told)
        board, now = self.board, asyncio.get_running_loop().time()
        board.workers.pop(self, None)
        others = sum(seen_at > now - 3 for seen_at in board.workers.values())
        if told.is_active:
            board.workers[self] = now
        if told.cooldown_s > 0:
            board.cooldown_until = max(board.cooldown_until, now + told.cooldown_s)
        board.requests = told.requests or board.requests
        board.tokens = told.tokens or board.tokens
        return Shared(
            cooldown_s=max(0.0, board.cooldown_until - now),
            requests=board.requests,
            tokens=board.tokens,
            worker_count=others + 1,
        )

    async def leave(self) -> None:
        self.board.workers.pop(self, None)


async def all_through(send: Callable[[], Awaitable[Reply]], governors: Sequence[Governors], count: int) -> float:
    """Make calls, split evenly among workers, and return the time until the last is answered."""

    async def quietly(_fault: ProviderFault) -> None:
        pass

    loop = asyncio.get_running_loop()
    began = loop.time()
    runs = [
        governors[number % len(governors)]
        .of(MODEL)
        .run(send, priority=Priority.BULK, worst=WORST, deadline=Deadline.after(3_600), on_fault=quietly)
        for number in range(count)
    ]
    await asyncio.gather(*runs)
    return loop.time() - began
