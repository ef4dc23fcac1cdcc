"""How many papers a summarization worker has in hand, and what it tells those that come when it has no place."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable

from services.common.errors import Overloaded
from services.common.places import NoPlace, Places
from services.common.telemetry.metrics import summaries_in_flight

WAITING_SHARE = 0.5
"""Papers that may wait for a place, as part of the places: a place that becomes free is used at once."""
FIRST_GUESS_S = 2.0
"""How long a paper takes before one has been seen."""
FORGETTING = 0.9
"""Weight of what papers took before, with each further one."""
LEAST_RETRY_S, MOST_RETRY_S = 0.05, 10.0


class Capacity:
    """The places of a worker, shared fairly between surveys.

    A paper that finds no place waits in a short line. When that is full too, it is refused before anything is begun or
    paid, unless its survey has less in hand here than another one: then the other's newest waiting paper is refused.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with all places free.

        Args:
            most: places there are.
            clock: tells the time, in seconds.
        """
        self._most = most
        self._clock = clock
        self._places = Places(most, most_waiting=int(most * WAITING_SHARE))
        self._began: dict[int, float] = {}  # of the papers in hand, the oldest first
        self._numbers = itertools.count()
        self._typical_s = FIRST_GUESS_S
        self._has_seen_one = False

    @contextlib.asynccontextmanager
    async def place(self, survey: str) -> AsyncIterator[None]:
        """Hold a place for a paper of a survey.

        Raises:
            Overloaded: there is none, not even to wait.
        """
        try:
            await self._places.take(survey)
        except NoPlace:
            raise Overloaded(self._most, retry_after_s=self._free_in_s()) from None
        number = next(self._numbers)
        self._began[number] = self._clock()
        summaries_in_flight.add(1)
        try:
            yield
        finally:
            summaries_in_flight.add(-1)
            self._saw(self._clock() - self._began.pop(number))
            self._places.leave(survey)

    def _free_in_s(self) -> float:
        """Return how long it takes until one of the places is likely to be free: the oldest paper's, or by the mean."""
        oldest = next(iter(self._began.values()), self._clock())
        left_s = self._typical_s - (self._clock() - oldest)
        return min(max(left_s, self._typical_s / self._most, LEAST_RETRY_S), MOST_RETRY_S)

    def _saw(self, seconds: float) -> None:
        kept = FORGETTING if self._has_seen_one else 0.0
        self._typical_s = kept * self._typical_s + (1 - kept) * seconds
        self._has_seen_one = True
