"""Deadlines: what is left of the time a caller gave."""

import time
from dataclasses import dataclass

MARGIN_S = 0.2
"""Kept back from what is left, so that a failure can still be told to the caller in time."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    def timeout_s(self, most_s: float) -> float:
        """Return how long a call may take: `most_s`, or what is left less a margin; never below 0."""
        return max(0.0, min(most_s, self.at_s - time.monotonic() - MARGIN_S))
