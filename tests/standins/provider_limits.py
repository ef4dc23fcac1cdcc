"""Rate limits as providers keep them: token buckets for each model, and what the headers say of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime


class Bucket:
    """Holds at most `size`, gets `rate_per_s` back."""

    def __init__(self, size: float, rate_per_s: float, now: Callable[[], float]) -> None:
        self.size, self.rate_per_s = size, rate_per_s
        self._now, self._level, self._at = now, size, now()

    def wait_for(self, amount: float) -> float:
        """Return the seconds until so much is there, 0 when it is; more than the whole bucket waits for a full one."""
        self._refill()
        return max(0.0, min(amount, self.size) - self._level) / self.rate_per_s

    def take(self, amount: float) -> None:
        self._refill()
        self._level -= min(amount, self.size)

    @property
    def remaining(self) -> int:
        self._refill()
        return max(0, math.floor(self._level + 1e-9))

    @property
    def reset_s(self) -> float:
        """Seconds until the bucket is full again."""
        self._refill()
        return max(0.0, self.size - self._level) / self.rate_per_s

    def _refill(self) -> None:
        now = self._now()
        self._level = min(self.size, self._level + (now - self._at) * self.rate_per_s)
        self._at = now


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitState:
    """What one answer's headers say."""

    request_limit: int
    requests_remaining: int
    requests_reset_s: float
    token_limit: int
    tokens_remaining: int
    tokens_reset_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What each model may be asked. The default is so wide that nothing here reaches it."""

    requests_per_s: float = 500
    burst: int = 30_000
    tokens_per_s: float = 2_500_000
    token_burst: int = 150_000_000
    retry_form: str = "seconds"


class Limits:
    """The buckets of all models."""

    def __init__(self, limit: Limit, now: Callable[[], float]) -> None:
        self.limit = limit
        self._now = now
        self._buckets: dict[tuple[str, str], tuple[Bucket, Bucket]] = {}

    def admit(self, provider: str, model: str, token_count: int) -> float:
        """Take a request with its tokens and return 0, or take nothing and return the seconds to wait."""
        requests, tokens = self._of(provider, model)
        wait_s = max(requests.wait_for(1), tokens.wait_for(token_count))
        if wait_s <= 0:
            requests.take(1)
            tokens.take(token_count)
        return wait_s

    def state(self, provider: str, model: str) -> LimitState:
        requests, tokens = self._of(provider, model)
        return LimitState(
            request_limit=int(requests.size),
            requests_remaining=requests.remaining,
            requests_reset_s=requests.reset_s,
            token_limit=int(tokens.size),
            tokens_remaining=tokens.remaining,
            tokens_reset_s=tokens.reset_s,
        )

    def _of(self, provider: str, model: str) -> tuple[Bucket, Bucket]:
        if (provider, model) not in self._buckets:
            limit = self.limit
            self._buckets[provider, model] = (
                Bucket(limit.burst, limit.requests_per_s, self._now),
                Bucket(limit.token_burst, limit.tokens_per_s, self._now),
            )
        return self._buckets[provider, model]


def retry_headers(retry_after_s: float | None, form: str) -> dict[str, str]:
    """Return the header that says how long to wait; none in the forms that are no header of this kind."""
    if retry_after_s is None:
        return {}
    if form == "ms":
        return {"retry-after-ms": str(math.ceil(retry_after_s * 1000))}
    if form == "date":
        # A date has whole seconds, so it is rounded up like the number.
        at = datetime.now(UTC) + timedelta(seconds=retry_after_s)
        return {"retry-after": format_datetime(at.replace(microsecond=0) + timedelta(seconds=1), usegmt=True)}
    if form == "seconds":
        return {"retry-after": f"{retry_after_s:g}"}
    return {}


def rfc3339_in(seconds: float) -> str:
    """Return the moment in so many seconds, in whole ones, rounded up."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    if at.microsecond:
        at = at.replace(microsecond=0) + timedelta(seconds=1)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def go_duration(seconds: float) -> str:
    """Return "120ms", "1.5s" or "6m0s"."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
