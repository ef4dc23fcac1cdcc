"""Deadlines: what is left of the time a caller gave."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

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

    @classmethod
    def of_rpc(cls, context: "grpc.aio.ServicerContext[Any, Any]", most_s: float) -> "Deadline":
        """Return the deadline of an RPC's caller; `most_s` from now when it gave none, or a later one."""
        remaining_s = context.time_remaining()
        return cls.after(most_s if remaining_s is None else min(remaining_s, most_s))

    @property
    def is_over(self) -> bool:
        """Whether no call is worth beginning any more."""
        return self.timeout_s(1.0) <= 0

    def timeout_s(self, most_s: float) -> float:
        """Return how long a call may take: `most_s`, or what is left less a margin; never below 0."""
        return max(0.0, min(most_s, self.at_s - time.monotonic() - MARGIN_S))
