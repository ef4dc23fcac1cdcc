"""The governor: sends the calls to a model as fast as its limits allow, again where that helps, in the right order.

One governor for each model, all calls of a process go through it. It holds a call at the gate (`gate.py`) until the
buckets of requests and tokens (`meter.py`), the window of calls in flight and the pause after a refusal let it go. What
a refusal or a header tells is shared with the other workers (`shared_limits.py`).
"""

import asyncio
import contextlib
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from services.common.deadlines import Deadline
from services.common.errors import PaperRouteError
from services.common.paid.caller import Priority
from services.common.paid.faults import REACTIONS, FaultKind, ProviderFault
from services.common.paid.shared_limits import Shared, SharedLimits, Told
from services.common.paid.team import Team
from services.common.paid.usage import TokenUsage
from services.common.telemetry import saturation

if TYPE_CHECKING:
    from services.common.paid.bucket import Limit
    from services.common.paid.calls import Reply
    from services.common.paid.gate import Ticket
    from services.common.paid.meter import Taken

T = TypeVar("T")

BURST_SHARE = 0.05
"""Part of a configured limit that may go at once; the rest flows, so that no minute sees more than the limit."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
"""Longest wait before the first retry, doubled with each further one, and the most of it."""
MAX_HINT_S = 120.0
"""Longest wait that a server can ask for."""
BACKED_OFF = frozenset({FaultKind.OVERLOADED, FaultKind.UNREACHABLE, FaultKind.TIMEOUT})
"""Faults after which a call waits before it is tried again; a refused one waits at the gate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfiguredLimits:
    """What the operator allows for a model, over all workers."""

    requests_per_minute: float | None
    """None for what the server allows."""
    tokens_per_minute: float | None
    max_in_flight: int
    """Of one worker."""


class Governors:
    """The governors of a process, one for each model."""

    def __init__(
        self,
        limits_of: Callable[[str], ConfiguredLimits],
        shared: SharedLimits | None,
        *,
        replicas: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Begin without any.

        Args:
            limits_of: what is configured for a "provider:model".
            shared: what the workers share; None for a process that is alone.
            replicas: least number of workers to divide limits by.
            chance: draws the jitter, in [0, 1).
        """
        self._limits_of = limits_of
        self._shared = shared
        self._replicas = replicas
        self._chance = chance
        self._governors: dict[str, Governor] = {}

    def of(self, model: str) -> "Governor":
        """Return the governor of a "provider:model"; to be called on the event loop."""
        if model not in self._governors:
            limits = self._limits_of(model)
            self._governors[model] = Governor(model, limits, self._shared, replicas=self._replicas, chance=self._chance)
        return self._governors[model]

    async def close(self) -> None:
        """Tell the other workers that this one is gone; calls should have ended."""
        for governor in self._governors.values():
            await governor.close()
        if self._shared and self._governors:
            with contextlib.suppress(PaperRouteError):  # they notice by themselves, a little later
                await self._shared.leave()


class Governor:
    """Sends the calls to one model."""

    def __init__(
        self,
        model: str,
        limits: ConfiguredLimits,
        shared: SharedLimits | None,
        *,
        replicas: int,
        chance: Callable[[], float],
    ) -> None:
        """Make one; see `Governors`."""
        from services.common.paid.gate import Gate, Pauses, Window
        from services.common.paid.meter import Pace

        self.model = model
        self._replicas = replicas
        self._chance = chance
        self._pace = Pace(_limit_of(limits.requests_per_minute), _limit_of(limits.tokens_per_minute))
        self._pace.divide(replicas)
        self._window = Window(limits.max_in_flight, replicas)
        self._pauses = Pauses(chance)
        self._gate = Gate(self._pace, self._window, self._pauses)
        self._team = None
        if shared:
            self._team = Team(
                model,
                shared,
                told=self._told,
                heard=self._heard,
                is_used=self._gate.is_used,
                has_queue=self._gate.has_queue,
            )
        saturation.watch(self)

    @property
    def mean_in_flight(self) -> float:
        """How many calls were in flight on average while there were any, over the last half minute of use."""
        return self._gate.in_flight.mean()

    @property
    def limit(self) -> int:
        """How many calls may be in flight now."""
        return self._window.size

    @property
    def in_flight_count(self) -> int:
        """How many are."""
        return self._gate.in_flight.count

    @property
    def waiting_count(self) -> int:
        """How many wait for their turn."""
        return self._gate.waiting_count

    @property
    def cooldown_s(self) -> float:
        """How long nobody may go yet after a refusal."""
        return self._gate.cooldown_s

    async def run(
        self,
        send: "Callable[[], Awaitable[Reply]]",
        *,
        priority: Priority,
        worst: TokenUsage,
        deadline: Deadline,
        on_fault: Callable[[ProviderFault], Awaitable[None]],
    ) -> "Reply":
        """Return the reply to a call, sent once it is its turn and again as `REACTIONS` says.

        Args:
            send: sends it once; raises ProviderFault.
            priority: who goes first.
            worst: most tokens it can take; reserved, then settled with what it took.
            deadline: bounds all attempts and waits.
            on_fault: awaited for each fault, the last one included.

        Raises:
            ProviderFault: the last fault; TIMEOUT when the deadline came first, or will come before the turn.
        """
        time_left_s = deadline.timeout_s(math.inf)
        give_up_at = asyncio.get_running_loop().time() + time_left_s
        ticket = self._gate.ticket(priority, worst.input_tokens + worst.output_tokens, give_up_at)
        retries = Retries(self._chance)
        while True:
            try:
                return await self._attempt(send, ticket, deadline)
            except ProviderFault as fault:
                await on_fault(fault)
                pause_s = retries.pause_s(fault)
                if pause_s is None:
                    raise
                if pause_s >= deadline.timeout_s(math.inf):
                    late = self._late(f"a pause of {pause_s:.1f} s after: {fault.problem}")
                    await on_fault(late)
                    raise late from fault
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """End the exchange with the other workers."""
        saturation.forget(self)
        if self._team:
            await self._team.close()

    async def _attempt(self, send: "Callable[[], Awaitable[Reply]]", ticket: "Ticket", deadline: Deadline) -> "Reply":
        """Wait for the turn, send once, and draw the lessons."""
        if self._team:
            await self._within(deadline, self._team.join(), lambda: "the other workers' limits")
        if not await self._within(deadline, self._gate.enter(ticket), lambda: self._gate.held_by):
            raise self._late(self._gate.held_by)
        try:
            reply = await self._within(deadline, send(), lambda: "an answer")
        except ProviderFault as fault:
            self._failed(ticket, fault)
            raise
        except asyncio.CancelledError:
            self._pace.settle(ticket.taken, ticket.taken.tokens)  # the server may have counted all of it
            raise
        except Exception:
            self._pace.undo(ticket.taken)  # nothing was sent, as when the key is missing
            raise
        else:
            self._answered(ticket, reply)
            return reply
        finally:
            self._gate.leave()

    def _answered(self, ticket: "Ticket", reply: "Reply") -> None:
        self._pace.settle(ticket.taken, reply.tokens.input_tokens + reply.tokens.output_tokens)
        self._pace.hear(reply.rate, ticket.taken)
        self._pace.answered()
        self._window.answered()
        self._pauses.answered(ticket.taken.at_s)

    def _failed(self, ticket: "Ticket", fault: ProviderFault) -> None:
        now = asyncio.get_running_loop().time()
        is_refusal = REACTIONS[fault.kind].pauses_everyone
        if is_refusal:
            self._pace.undo(ticket.taken)
        else:
            tokens = fault.tokens or TokenUsage()
            self._pace.settle(ticket.taken, tokens.input_tokens + tokens.output_tokens)
        self._pace.hear(fault.rate, ticket.taken)
        if is_refusal:
            self._refused(ticket.taken, fault, now)
        elif fault.kind is FaultKind.OVERLOADED:
            self._window.refused(now, ends_start=True)

    def _refused(self, taken: "Taken", fault: ProviderFault, now: float) -> None:
        from services.common.paid.meter import is_explained

        pause_s = self._pauses.length_s(fault.retry_after_s, taken.at_s, now)
        is_known = is_explained(fault.rate, taken)
        if not is_known:
            self._pace.refused(taken, pause_s)
        # Where the bucket keeps to a known limit, the number of calls in flight was not what was wrong.
        self._window.refused(now, ends_start=not is_known)
        self._gate.pause(pause_s)
        if self._team:
            self._team.tell_pause(now + pause_s)

    def _late(self, what: str) -> "_TooLate":
        return _TooLate(FaultKind.TIMEOUT, self.model, f"the caller's time is too short for {what}")

    async def _within(self, deadline: Deadline, work: Awaitable[T], what: Callable[[], str]) -> T:
        """Await work for as long as the deadline allows; `what` names what was waited for."""
        limit = asyncio.timeout(deadline.timeout_s(math.inf))
        try:
            async with limit:
                return await work
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise self._late(what()) from error

    def _told(self) -> Told:
        """Return what the other workers should know."""
        return Told(requests=self._pace.requests.told, tokens=self._pace.tokens.told)

    def _heard(self, shared: Shared) -> None:
        """Take over what the other workers know."""
        workers = max(self._replicas, shared.worker_count)
        self._pace.divide(workers)
        self._pace.requests.adopt(shared.requests)
        self._pace.tokens.adopt(shared.tokens)
        self._window.divide(workers)
        if shared.cooldown_s > 0:
            self._gate.pause(shared.cooldown_s)
        self._gate.look_again()


class Retries:
    """How often, and after which pause, one call is tried again."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._counts: Counter[FaultKind] = Counter()

    def pause_s(self, fault: ProviderFault) -> float | None:
        """Return how long to wait before the next attempt, None when there is none."""
        most, count = REACTIONS[fault.kind].max_retries, self._counts[fault.kind]
        if isinstance(fault, _TooLate) or 0 <= most <= count:
            return None
        self._counts[fault.kind] += 1
        if fault.kind not in BACKED_OFF:
            return 0.0
        backoff_s = self._chance() * min(FIRST_BACKOFF_S * 2.0**count, MAX_BACKOFF_S)
        return max(backoff_s, min(fault.retry_after_s or 0.0, MAX_HINT_S))


class _TooLate(ProviderFault):
    """The caller's deadline came first, or would."""


def _limit_of(per_minute: float | None) -> "Limit | None":
    from services.common.paid.bucket import Limit

    if per_minute is None:
        return None
    return Limit(size=max(1.0, per_minute * BURST_SHARE), per_s=per_minute * (1 - BURST_SHARE) / 60)
