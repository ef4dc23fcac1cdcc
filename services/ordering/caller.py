"""Whoever waits for an order: how long, and whether still."""

import threading
import time


class Caller:
    """What work in another thread may ask about the caller it works for."""

    def __init__(self, remaining_s: float | None = None) -> None:
        """Begin to count.

        Args:
            remaining_s: seconds until the caller's deadline; None when it has none.
        """
        self._deadline = float("inf") if remaining_s is None else time.monotonic() + remaining_s
        self._has_left = threading.Event()

    def left_s(self) -> float:
        """Return the seconds until the deadline, 0 when it has passed, infinity when there is none."""
        return max(self._deadline - time.monotonic(), 0)

    def leave(self) -> None:
        """Say that nobody waits any more."""
        self._has_left.set()

    @property
    def has_left(self) -> bool:
        """Whether nobody waits any more."""
        return self._has_left.is_set()
