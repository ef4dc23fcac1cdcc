"""How often each token may be used."""

import time
from collections.abc import Callable

MAX_BUCKETS = 10_000
"""Tokens that are kept in mind; the one used longest ago begins anew."""


class Rates:
    """A bucket for each token: it holds the requests of a second and fills as fast as they may come."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._buckets: dict[str, tuple[float, float]] = {}  # requests left, and when

    def take(self, token_id: str, per_s: float) -> float:
        """Count a request; return 0, or after how many seconds it may be made when it is too early.

        Args:
            token_id: whose request it is.
            per_s: requests a second that it may make in the long run, above 0.
        """
        now, size = self._clock_s(), max(1.0, per_s)
        left, at = self._buckets.pop(token_id, (size, now))
        left = min(size, left + (now - at) * per_s)
        wait_s = max(0.0, 1.0 - left) / per_s
        self._buckets[token_id] = (left if wait_s else left - 1.0, now)
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return wait_s
