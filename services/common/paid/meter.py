"""How many requests, or tokens, may go to a model: as configured, as its server tells, or as far as can be guessed."""

import asyncio
import math
from dataclasses import dataclass

from services.common.paid.bucket import Bucket, Limit
from services.common.paid.faults import RateState

FIRST_WINDOW = 32
"""Calls in flight at which the slow start begins, over all workers."""
PACE = 0.95
"""Part of a limit that is used: what two clocks and a rounded header are apart must not bring a refusal."""
FORGETTING = 0.9
"""Weight an earlier answer's header keeps with each later one."""
FIRST_GUESS = 0.7
"""Part of the throughput before the first refusal that is tried after it: the server's bucket was not empty then."""
LEAST_CUT, MOST_CUT = 0.9, 0.7
"""Part of a guess that a row of refusals leaves."""
LEAST_PASSED = 3
"""Fewer calls before a first refusal tell nothing of the limit."""
FIRST_GUESS_GROWTH, GUESS_GROWTH = 0.1, 0.05
"""Growth of a guess in a second without refusals, as part of what it was after the last one."""
GUESS_BURST_S = 0.25
"""What may go at once under a guess, in seconds of its rate."""
RECENT_S = 1.0
"""Time over which the throughput before a first refusal is taken."""
STALE_S = 60.0
"""After so long without a refusal, a guess tells nothing any more."""


class HeaderLimit:
    """The limit that headers tell.

    The rate is a ratio of sums, of limit - remaining and of the time until the bucket is full. A header whose moment is
    in whole seconds tells next to nothing while little of the limit is used: it must not weigh like one that tells
    more.
    """

    def __init__(self) -> None:
        self.limit: Limit | None = None
        self._size = 0.0
        self._used = 0.0
        self._reset_s = 0.0

    def hear(self, size: float, remaining: float, reset_s: float | None) -> None:
        """Take note of one answer's header."""
        if size != self._size:  # another limit begins
            self._size, self._used, self._reset_s = size, 0.0, 0.0
        if remaining < size and reset_s is not None and reset_s > 0:
            self._used = FORGETTING * self._used + size - remaining
            self._reset_s = FORGETTING * self._reset_s + reset_s
        if self._reset_s > 0:
            self.limit = Limit(size=size, per_s=self._used / self._reset_s)


class GuessedLimit:
    """The limit of a server that tells none, seen from its refusals; this worker's part of it.

    From the first refusal of one row to that of the next the server's bucket goes from empty to empty, so what it let
    through meanwhile, by the time between them, is its rate.
    """

    def __init__(self) -> None:
        self.limit: Limit | None = None
        self.workers = 1
        self._earlier: Limit | None = None  # the guess before the present row of refusals
        self._guess_per_s = 0.0  # after the present row
        self._is_measured = False  # from one row to the next
        self._grown_at = 0.0
        self._recent_count = 0.0  # sent of late, forgotten over RECENT_S
        self._sent_at = 0.0
        self._sent_count = 0  # since the present row began
        self._row_at = self._row_until = -math.inf
        self._passed_count = 0.0  # sent before it and not refused
        self._span_s = RECENT_S  # the time these took

    def sent(self, now: float) -> None:
        """Count a request."""
        self._recent_count = self._recent_count * math.exp((self._sent_at - now) / RECENT_S) + 1
        self._sent_at = now
        self._sent_count += 1

    def refused(self, sent_at: float, now: float, pause_s: float) -> None:
        """Guess anew after a refusal that is followed by a pause."""
        if sent_at > self._row_at:
            self._begin_row(now, pause_s)
        self._passed_count -= 1
        if not self._is_measured and self._passed_count < LEAST_PASSED:
            self.limit = None  # the account was at its limit before; what it allows did not show
            return
        seen = max(self._passed_count, 1.0) / self._span_s
        if not self._is_measured:
            if self.workers > 1:  # the others may have been a little quicker
                seen = max(seen, FIRST_WINDOW / self.workers / self._span_s)
            self._guess(FIRST_GUESS * seen)
        elif self._earlier is None:
            self._guess(LEAST_CUT * seen)
        else:
            self._guess(max(MOST_CUT * self._earlier.per_s, min(seen, LEAST_CUT * self._earlier.per_s)))

    def answered(self, now: float) -> None:
        """Try a little more after an answer."""
        if self.limit is None or now <= self._grown_at:
            return
        if self._is_stale(now):
            self.limit = None
        else:
            growth = GUESS_GROWTH if self._is_measured else FIRST_GUESS_GROWTH
            self._limit_to(self.limit.per_s + growth * self._guess_per_s * (now - self._grown_at))
            self._grown_at = now

    def _begin_row(self, now: float, pause_s: float) -> None:
        self._is_measured = not self._is_stale(now)
        if not self._is_measured:  # the bucket was full: the pause that fills it again belongs to what it let through
            self._earlier = None
            self._passed_count, self._span_s = self._recent_count, max(RECENT_S, pause_s)
        else:
            self._earlier = self.limit
            self._passed_count, self._span_s = self._sent_count, now - self._row_at
        self._sent_count, self._row_at = 0, now
        self._row_until = self._grown_at = now + pause_s

    def _is_stale(self, now: float) -> bool:
        return now - self._row_until > STALE_S

    def _guess(self, per_s: float) -> None:
        self._guess_per_s = per_s
        self._limit_to(per_s)

    def _limit_to(self, per_s: float) -> None:
        self.limit = Limit(size=max(1.0, per_s * GUESS_BURST_S), per_s=per_s)


class Meter:
    """This worker's part of up to three buckets: as configured, as the server tells, as can be guessed."""

    def __init__(self, configured: Limit | None) -> None:
        self._header = HeaderLimit()
        self._configured = configured
        self._adopted: Limit | None = None
        self._workers = 1
        self._ours = Bucket(configured) if configured else None
        self._theirs: Bucket | None = None
        self._guessed: Bucket | None = None
        self._is_level_heard = False
        self._in_flight = 0.0
        self._newest_at = -math.inf  # when the call was sent whose answer tells the newest state

    @property
    def told(self) -> Limit | None:
        """The whole limit as headers of this worker's answers tell it."""
        return self._header.limit

    def wait_s(self, amount: float) -> float:
        """Return the time until `amount` may be taken."""
        return max((bucket.wait_s(amount) for bucket in self._buckets()), default=0.0)

    def take(self, amount: float) -> None:
        """Take it, whether or not it is there."""
        self._in_flight += amount
        for bucket in self._buckets():
            bucket.take(amount)

    def settle(self, reserved: float, used: float) -> None:
        """Replace what a call was let go with by what it used in the end."""
        self._in_flight -= reserved
        for bucket in self._buckets():
            bucket.give_back(reserved - used)

    def hear(
        self, size: float | None, remaining: float | None, reset_s: float | None, *, sent_at: float, now: float
    ) -> None:
        """Take note of a header; its call must be settled before.

        Args:
            size: the limit; None when the header does not tell.
            remaining: what the server had left of it.
            reset_s: time until it has all of it again.
            sent_at: when the call was sent that brought the header.
            now: the present moment.
        """
        if size is None or remaining is None or size <= 0:
            return
        self._header.hear(size, remaining, reset_s)
        if self.told is not None:
            self._theirs = _adapted(self._theirs, self._part_of(self.told))
            self._correct(self._theirs, remaining / self._workers, self.told.per_s / self._workers, sent_at, now)

    def adopt(self, limit: Limit | None) -> None:
        """Use what another worker was told, as long as this one was told nothing."""
        self._adopted = limit
        if self.told is not None or limit is None:
            return
        is_new = self._theirs is None
        self._theirs = _adapted(self._theirs, self._part_of(limit))
        if is_new and self._workers > 1:  # the others may have left nothing
            self._theirs.set_to(0.0)

    def guess(self, limit: Limit | None) -> None:
        """Keep to a guess too; None for none."""
        self._guessed = _adapted(self._guessed, limit) if limit else None

    def divide(self, workers: int) -> None:
        """Keep to this worker's part of all limits from now on."""
        before, self._workers = self._workers, workers
        for bucket in (self._ours, self._theirs):
            if bucket is not None and workers > before:  # what is left belongs to the new ones too
                bucket.lower_to(bucket.available * before / workers)
        told = self.told or self._adopted
        if self._ours is not None and self._configured is not None:
            self._ours.change(self._configured.shared_by(workers))
        if self._theirs is not None and told is not None:
            self._theirs.change(self._part_of(told))

    def _correct(self, bucket: Bucket, left: float, per_s: float, sent_at: float, now: float) -> None:
        """Bring a bucket in step with what the server had left at some moment between sending and now."""
        refilled = per_s * (now - sent_at)  # at most
        least = max(0.0, left - self._in_flight)  # nobody knows which of these calls are counted in it
        if not self._is_level_heard:
            bucket.set_to(least + refilled)
            self._is_level_heard = True
        bucket.lower_to(left + refilled)
        if sent_at >= self._newest_at:  # what was sent later is in flight
            self._newest_at = sent_at
            bucket.raise_to(least)

    def _buckets(self) -> list[Bucket]:
        return [bucket for bucket in (self._ours, self._theirs, self._guessed) if bucket is not None]

    def _part_of(self, told: Limit) -> Limit:
        return Limit(size=told.size, per_s=told.per_s * PACE).shared_by(self._workers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What a call was let go with."""

    tokens: float
    at_s: float
    """On the loop's clock."""


class Pace:
    """The meters of a model: its requests and its tokens."""

    def __init__(self, requests: Limit | None, tokens: Limit | None) -> None:
        """Begin with what is configured, None for nothing."""
        self.requests = Meter(requests)
        self.tokens = Meter(tokens)
        self._guessed = GuessedLimit()

    def take(self, tokens: float) -> Taken:
        """Count a call with the most tokens it can use."""
        now = asyncio.get_running_loop().time()
        self._guessed.sent(now)
        self.requests.take(1)
        self.tokens.take(tokens)
        return Taken(tokens=tokens, at_s=now)

    def undo(self, taken: Taken) -> None:
        """Take back a call that the server did not count."""
        self.requests.settle(1, 0)
        self.tokens.settle(taken.tokens, 0)

    def settle(self, taken: Taken, used_tokens: float) -> None:
        """Count what a call used."""
        self.requests.settle(1, 1)
        self.tokens.settle(taken.tokens, used_tokens)

    def answered(self) -> None:
        """Take note of a call that was answered."""
        self._guessed.answered(asyncio.get_running_loop().time())
        self.requests.guess(self._guessed.limit)

    def refused(self, taken: Taken, pause_s: float) -> None:
        """Take note of a call that was one too many although no limit that is known says so."""
        self._guessed.refused(taken.at_s, asyncio.get_running_loop().time(), pause_s)
        self.requests.guess(self._guessed.limit)

    def hear(self, rate: RateState | None, taken: Taken) -> None:
        """Take note of the headers of an answer to a call that is settled."""
        if rate is None:
            return
        moments = {"sent_at": taken.at_s, "now": asyncio.get_running_loop().time()}
        self.requests.hear(rate.request_limit, rate.requests_remaining, rate.requests_reset_s, **moments)
        self.tokens.hear(rate.token_limit, rate.tokens_remaining, rate.tokens_reset_s, **moments)

    def divide(self, workers: int) -> None:
        """Keep to this worker's part of all limits from now on."""
        self._guessed.workers = workers
        self.requests.divide(workers)
        self.tokens.divide(workers)


def is_explained(rate: RateState | None, taken: Taken) -> bool:
    """Return whether the headers of a refusal say which limit it is about: its bucket then keeps to it."""
    if rate is None:
        return False
    requests, tokens = rate.requests_remaining, rate.tokens_remaining
    return (requests is not None and requests < 1) or (tokens is not None and tokens < taken.tokens)


def _adapted(bucket: Bucket | None, limit: Limit) -> Bucket:
    if bucket is None:
        return Bucket(limit)
    bucket.change(limit)
    return bucket
