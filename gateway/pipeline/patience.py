"""Patience with the summarization workers: papers that they have no place for wait here, and surveys take turns.

A worker that has enough refuses (OVERLOADED). What a gateway has in flight is bounded by a window: it shrinks to what
the workers took, opens little by little, and a paper that is done makes place for the next one at once. So few calls
are refused, however many papers wait.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import grpc

from services.common.deadlines import Deadline
from services.common.errors import Overloaded, reason_in, retry_after_in
from services.common.places import Places
from services.common.telemetry.metrics import summaries_pending

Response = TypeVar("Response")

FIRST_WINDOW = 256
"""Calls in flight before the workers have refused one: more than a survey sends at once."""
MIN_WAIT_S, MAX_WAIT_S = 0.2, 10.0
"""Shortest and longest wait before the window opens further; asking more often tells nothing new."""
JITTER = 0.5
"""Largest part of a wait that is added by chance, so that gateways do not come at the same moment."""


class Patience:
    """Makes the calls of all surveys of a gateway to the workers behind one channel."""

    def __init__(self, most_each: int, *, chance: Callable[[], float] = random.random) -> None:
        """Begin with an open window.

        Args:
            most_each: most calls of one survey in flight.
            chance: draws the jitter, in [0, 1).
        """
        self._places = Places(FIRST_WINDOW, most_each=most_each)
        self._window = _Window(self._places, chance)

    async def call(
        self, survey_id: str, make: Callable[[float], Awaitable[Response]], deadline: Deadline, most_s: float
    ) -> Response:
        """Return the response to a unary call, made when there is a place for it, and again when it was refused one.

        Args:
            survey_id: whose turn it takes.
            make: makes the call, given its timeout in seconds.
            deadline: when to give up.
            most_s: longest timeout of one call.

        Raises:
            TimeoutError: the deadline came before a place did.
            grpc.aio.AioRpcError: the call failed otherwise than by OVERLOADED.
        """
        while True:
            await self._take(survey_id, deadline)
            try:
                timeout_s = deadline.timeout_s(most_s)
                if timeout_s <= 0:
                    raise TimeoutError
                return await make(timeout_s)
            except grpc.aio.AioRpcError as failure:
                if reason_in(failure) != Overloaded.reason:
                    raise
                self._window.refused(retry_after_in(failure) or 0.0)
            finally:
                self._places.leave(survey_id)

    async def _take(self, survey_id: str, deadline: Deadline) -> None:
        self._window.wanted()
        with _pending():
            async with asyncio.timeout(deadline.timeout_s(math.inf)):
                await self._places.take(survey_id)


class _Window:
    """How many calls may be in flight: what the workers took when they last refused one, and then more and more."""

    def __init__(self, places: Places, chance: Callable[[], float]) -> None:
        self._places = places
        self._chance = chance
        self._wait_s = MIN_WAIT_S
        self._step = 1
        self._timer: asyncio.TimerHandle | None = None

    def wanted(self) -> None:
        """Note that a call asks for a place: as long as calls wait, the window opens."""
        if self._timer is None:
            self._open_later()

    def refused(self, retry_after_s: float) -> None:
        """Shrink to what was not refused, until a place is likely to be free; the refused call still holds its own."""
        self._places.resize(self._places.held_count - 1)
        self._wait_s = min(max(retry_after_s, MIN_WAIT_S), MAX_WAIT_S)
        self._step = 1
        if self._timer:
            self._timer.cancel()
        self._open_later()

    def _open_later(self) -> None:
        wait_s = self._wait_s * (1 + JITTER * self._chance())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._open)

    def _open(self) -> None:
        self._timer = None
        if not self._places.waiting_count:
            self._places.resize(FIRST_WINDOW)
            self._wait_s, self._step = MIN_WAIT_S, 1
            return
        if self._places.is_full:
            self._places.resize(self._places.most + self._step)
            self._step *= 2
        self._open_later()


@contextlib.contextmanager
def _pending() -> Iterator[None]:
    """Count a paper that waits."""
    summaries_pending.add(1)
    try:
        yield
    finally:
        summaries_pending.add(-1)
