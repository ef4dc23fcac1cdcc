"""arXiv's pause as this process knows it: from its own refusals and from its looks at the queue that replicas share.

A scrape reads it from memory, since it must not wait for the store. A replica that asks for nothing may not know of a
pause; the largest value of all replicas is the pause.
"""

import time
from collections.abc import Iterable
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from services.common.telemetry import names


class Cooldown:
    """What is left of a pause."""

    def __init__(self) -> None:
        """Begin without one."""
        self._until = 0.0
        _cooldowns.add(self)

    def heard(self, left_s: float) -> None:
        """Take note of what is left of it now, in seconds; 0 for none."""
        self._until = time.monotonic() + left_s

    def close(self) -> None:
        """Tell of it no more."""
        _cooldowns.discard(self)

    @property
    def left_s(self) -> float:
        """What is left of it, in seconds; 0 when it is over."""
        return max(self._until - time.monotonic(), 0.0)


_cooldowns: WeakSet[Cooldown] = WeakSet()


def _observed(_options: CallbackOptions) -> Iterable[Observation]:
    known = list(_cooldowns)
    if known:  # else this process does not ask arXiv
        yield Observation(max(each.left_s for each in known))


gauge = metrics.get_meter("paperroute").create_observable_gauge(
    names.ARXIV_COOLDOWN,
    callbacks=[_observed],
    unit="s",
    description="What is left of the pause after arXiv refused a request; 0 without one.",
)
