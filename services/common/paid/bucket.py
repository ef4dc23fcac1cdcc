"""A bucket of requests, or of tokens: aiolimiter's, without its queue and with a level that can be put right."""

from dataclasses import dataclass

from aiolimiter import AsyncLimiter


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """At most `size` at once and `per_s` in the long run; both above 0."""

    size: float
    per_s: float

    def shared_by(self, workers: int) -> "Limit":
        """Return one worker's part."""
        return Limit(size=self.size / workers, per_s=self.per_s / workers)


class Bucket(AsyncLimiter):
    """Says how long to wait instead of waiting.

    The queue of `AsyncLimiter.acquire` serves small amounts first; ours goes by priority, so only the level is used,
    which aiolimiter 1 leaves to subclasses.
    """

    __slots__ = ()

    def __init__(self, limit: Limit) -> None:
        """Make a full one."""
        super().__init__(limit.size, limit.size / limit.per_s)

    @property
    def available(self) -> float:
        """What may be taken now; below 0 when more was taken than there was."""
        self._leak()
        return self.max_rate - self._level

    def wait_s(self, amount: float) -> float:
        """Return the time until `amount` may be taken; more than the whole bucket waits for a full one."""
        return max(0.0, min(amount, self.max_rate) - self.available) / self._rate_per_sec

    def take(self, amount: float) -> None:
        """Take it, whether or not it is there."""
        self._leak()
        self._level += amount

    def give_back(self, amount: float) -> None:
        """Put back what was not used after all; less than 0 takes more."""
        self._leak()
        self._level = max(0.0, self._level - amount)

    def set_to(self, available: float) -> None:
        """Note that this may be taken now, as far as the size allows."""
        self._leak()
        self._level = max(0.0, self.max_rate - available)

    def lower_to(self, available: float) -> None:
        """Note that no more than this may be taken now."""
        self.set_to(min(available, self.available))

    def raise_to(self, available: float) -> None:
        """Note that no less than this may be taken now, as far as the size allows."""
        self.set_to(max(available, self.available))

    def change(self, limit: Limit) -> None:
        """Go on under another limit; what may be taken now stays, as far as the new size allows."""
        available = self.available
        self.max_rate, self.time_period, self._rate_per_sec = limit.size, limit.size / limit.per_s, limit.per_s
        self.set_to(available)
