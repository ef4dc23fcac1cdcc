"""The gate before a model: who may go, and when."""

import asyncio
import itertools
import math
import random
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field

from services.common.paid.caller import Priority
from services.common.paid.meter import FIRST_WINDOW, Pace, Taken

DOUBLING_S = 0.25
"""Time in which the window doubles during the slow start, while calls wait for a place in it."""
STEP_S = 0.0625
"""Least time between two steps of its growth: the calls of the last one get it to bring a refusal."""
MAX_LAG_S = 0.02
"""Most of its growth that the window catches up on when the event loop was busy."""
WINDOW_CUT = 0.7
CUT_SPACING_S = 1.0
"""The window is cut once in this time: one crowd of calls brings many refusals."""
MAX_PAUSE_S = 120.0
FIRST_PAUSE_S = 1.0
"""Pause after a refusal that does not say how long to wait; it doubles with each further row of them."""
SPREAD_SHARE, MAX_SPREAD_S = 0.1, 1.0
"""Part of a pause over which the calls that waited for its end are spread, and the most of it."""
MEAN_OVER_S = 30.0
"""Time over which the mean number of calls in flight is taken."""
_SHORTEST_TIMER_S = 0.001


class Window:
    """How many calls may be in flight: a slow start, then additive increase and multiplicative decrease."""

    def __init__(self, most: int, workers: int) -> None:
        self._most = most
        self._size = self._first(workers)
        self._is_unused = self._is_starting = True
        self._blocked_at: float | None = None
        self._cut_at = -math.inf

    @property
    def size(self) -> int:
        """How many calls may be in flight now."""
        return int(self._size)

    def divide(self, workers: int) -> None:
        """Begin with one worker's part; of no effect once a call has asked for a place."""
        if self._is_unused:
            self._size = self._first(workers)

    def _first(self, workers: int) -> float:
        return max(1.0, min(FIRST_WINDOW / workers, self._most))

    def wait_s(self, in_flight: int, now: float) -> float:
        """Return the time until there is a place for one more; infinity when only the end of a call makes one."""
        self._is_unused = False
        if in_flight < int(self._size):
            self.is_not_full()
            return 0.0
        if in_flight >= self._most or not self._is_starting:
            return math.inf
        if self._blocked_at is None:
            self._blocked_at = now
        # In small steps, and without catching up much when the loop was busy: a refusal then finds few calls under way.
        waited_s = now - self._blocked_at
        step_s = max(STEP_S, DOUBLING_S * math.log2((in_flight + 1) / self._size))
        if waited_s < step_s:
            return step_s - waited_s
        grown = self._size * 2.0 ** (min(waited_s, step_s + MAX_LAG_S) / DOUBLING_S)
        self._size, self._blocked_at = min(self._most, max(grown, in_flight + 1.0)), now
        return 0.0

    def is_not_full(self) -> None:
        """Note that nobody waits for a place now: the window grows only while somebody does."""
        self._blocked_at = None

    def answered(self) -> None:
        """Grow by one with a window of answers, once the slow start is over."""
        if not self._is_starting:
            self._size = min(self._most, self._size + 1 / self._size)

    def refused(self, now: float, *, ends_start: bool) -> None:
        """Shrink after a call that was one too many."""
        self._is_starting = self._is_starting and not ends_start
        if now >= self._cut_at + CUT_SPACING_S:
            self._size, self._cut_at = max(1.0, self._size * WINDOW_CUT), now
            self._blocked_at = None


class Pauses:
    """The pause after a refusal, for all calls to a model; at its end they go one after the other, not at once."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self.until = -math.inf
        self._chance = chance
        self._row_at = -math.inf
        self._row_count = 0
        self._gap_s = 0.0
        self._next_at = -math.inf

    def length_s(self, asked_s: float | None, sent_at: float, now: float) -> float:
        """Return how long to pause: as the server asks, else longer with each row of refusals without an answer.

        A row is one refusal, and those of calls that were sent before it.
        """
        if sent_at > self._row_at:
            self._row_at = now
            self._row_count += 1
        if asked_s is not None and asked_s > 0:
            return min(asked_s, MAX_PAUSE_S)
        return min(FIRST_PAUSE_S * 2.0 ** min(max(self._row_count - 1, 0), 10), MAX_PAUSE_S)

    def pause(self, until: float, now: float, waiting_count: int) -> None:
        """Let nobody go before `until`, and those who wait then spread over a little time."""
        if until <= self.until:
            return
        self.until = until
        spread_s = min(SPREAD_SHARE * (until - now), MAX_SPREAD_S)
        self._gap_s = spread_s / max(1, waiting_count)
        self._next_at = until + self._chance() * self._gap_s

    def wait_s(self, now: float) -> float:
        """Return the time until the next may go."""
        return max(0.0, self._next_at - now)

    def passed(self, now: float) -> None:
        """Note that one went."""
        if now < self.until + MAX_SPREAD_S:
            self._next_at = now + 2 * self._chance() * self._gap_s

    def answered(self, sent_at: float) -> None:
        """Note an answer: refusals after it begin to count anew."""
        if sent_at > self._row_at:
            self._row_count = 0


class InFlight:
    """How many calls are in flight, and how many on average while there are any."""

    def __init__(self) -> None:
        self.count = 0
        self._changed_at = 0.0
        self._busy_s = 0.0
        self._call_s = 0.0

    def change(self, by: int) -> None:
        """Count calls in or out."""
        now = asyncio.get_running_loop().time()
        if self.count:
            kept = math.exp((self._changed_at - now) / MEAN_OVER_S)
            self._busy_s = self._busy_s * kept + MEAN_OVER_S * (1 - kept)
            self._call_s = self._call_s * kept + MEAN_OVER_S * (1 - kept) * self.count
        self.count += by
        self._changed_at = now

    def mean(self) -> float:
        """Return the mean over the last half minute of use; 0 before the first call."""
        self.change(0)
        return self._call_s / self._busy_s if self._busy_s > 0 else float(self.count)


@dataclass(eq=False, kw_only=True, slots=True)
class Ticket:
    """A call's place in the queue. It keeps it for further attempts, so that these do not begin at the end."""

    priority: Priority
    number: int
    tokens: float
    give_up_at: float
    """The moment of the loop's clock from which going is of no use."""
    turn: "asyncio.Future[bool]" = field(init=False)
    taken: Taken = field(init=False)

    @property
    def place(self) -> tuple[int, int]:
        """Who comes first: interactive work, then who came first."""
        return (self.priority, self.number)


class Gate:
    """Lets calls go one by one, the first in the queue as soon as nothing holds it back.

    One timer, set for the moment at which the first in the queue may go as things stand; whatever changes them calls
    `look_again`.
    """

    def __init__(self, pace: Pace, window: Window, pauses: Pauses) -> None:
        self.in_flight = InFlight()
        self.held_by = "its turn"
        """What the first in the queue waits for."""
        self._pace = pace
        self._window = window
        self._pauses = pauses
        self._queue: list[Ticket] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting_count(self) -> int:
        """How many calls wait for their turn."""
        return len(self._queue)

    @property
    def cooldown_s(self) -> float:
        """How long nobody may go yet after a refusal; to be asked in any thread."""
        return max(0.0, self._pauses.until - time.monotonic())  # the clock of loops

    def is_used(self) -> bool:
        """Return whether calls wait or are in flight."""
        return bool(self._queue) or self.in_flight.count > 0

    def has_queue(self) -> bool:
        """Return whether calls wait."""
        return bool(self._queue)

    def ticket(self, priority: Priority, tokens: float, give_up_at: float) -> Ticket:
        """Return a place behind all that have one."""
        return Ticket(priority=priority, number=next(self._numbers), tokens=tokens, give_up_at=give_up_at)

    async def enter(self, ticket: Ticket) -> bool:
        """Wait for the turn; False means that it cannot come in time. Who entered must `leave`."""
        loop = asyncio.get_running_loop()
        if self._is_useless(ticket, loop.time()):
            return False
        ticket.turn = loop.create_future()
        insort(self._queue, ticket, key=lambda each: each.place)
        self.look_again()
        try:
            return await ticket.turn
        except asyncio.CancelledError:
            if ticket in self._queue:
                self._queue.remove(ticket)
            elif not ticket.turn.cancelled() and ticket.turn.result():  # the turn came, and nobody is there to use it
                self._pace.undo(ticket.taken)
                self.in_flight.change(-1)
            self.look_again()
            raise

    def leave(self) -> None:
        """Make place: a call has ended."""
        self.in_flight.change(-1)
        self.look_again()

    def pause(self, seconds: float) -> None:
        """Let nobody go for so long."""
        now = asyncio.get_running_loop().time()
        self._pauses.pause(now + seconds, now, len(self._queue))
        for ticket in [each for each in self._queue if self._is_useless(each, now)]:
            self._queue.remove(ticket)
            if not ticket.turn.done():
                ticket.turn.set_result(False)
        self.look_again()

    def look_again(self) -> None:
        """Let go who may go now, and set the timer for the next one."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._queue:
            if self._queue[0].turn.done():  # cancelled
                self._queue.pop(0)
                continue
            wait_s = self._wait_s(self._queue[0], now)
            if wait_s > 0:
                if wait_s < math.inf:
                    self._timer = loop.call_at(now + max(wait_s, _SHORTEST_TIMER_S), self.look_again)
                return
            self._let_go(self._queue.pop(0), now)
        self._window.is_not_full()

    def _let_go(self, ticket: Ticket, now: float) -> None:
        ticket.taken = self._pace.take(ticket.tokens)
        self._pauses.passed(now)
        self.in_flight.change(1)
        ticket.turn.set_result(True)

    def _is_useless(self, ticket: Ticket, now: float) -> bool:
        """Return whether the turn cannot come in time: known at once, it leaves time for another model."""
        if ticket.give_up_at > max(self._pauses.until, now):
            return False
        if self._pauses.until > now:
            self.held_by = f"the end of a pause in {self._pauses.until - now:.1f} s after too many calls"
        return True

    def _wait_s(self, ticket: Ticket, now: float) -> float:
        holds = (
            (self._pauses.wait_s(now), "the end of a pause after too many calls"),
            (self._pace.requests.wait_s(1), "the limit of requests"),
            (self._pace.tokens.wait_s(ticket.tokens), "the limit of tokens"),
        )
        wait_s, self.held_by = max(holds, key=lambda hold: hold[0])
        if wait_s > 0:
            self._window.is_not_full()
            return wait_s
        self.held_by = f"the end of one of {self.in_flight.count} calls in flight"
        return self._window.wait_s(self.in_flight.count, now)
