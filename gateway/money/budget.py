"""Budgets: no call to a service is begun without a grant, and no grant is given that a limit does not cover.

A survey has a limit of its own and a part in its tenant's limit of the month. What it has spent is read from the
ledgers, never counted here (`account.py`), so that a budget is exact again after a kill. Reading them costs a few
milliseconds and is done only when money is short: then what calls did not take of their grants comes back. The month's
money is taken from the database in portions, for all calls that wait at the same time.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc
from paperroute.v1 import survey_pb2 as pb

from gateway.document.stages import name_of
from gateway.jobs.values import Job
from gateway.money.account import Account, Grant
from gateway.money.ledgers import recorded_calls
from gateway.money.month_share import MONTH_POLL_S, RETRY_DELAYS_S, MonthShare
from gateway.money.wishes import Wish, rank_of
from gateway.money.worst import Request, Worst, worst_of
from gateway.services import Services
from services.common.database import Database
from services.common.errors import BudgetReached, NoSearchTerms, UpstreamFailed, reason_in, status_in

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.store import months
    from services.common.paid.prices import PriceBook

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

AHEAD = 16
"""For how many calls like the one that waits is taken of a month, at least, where it has so much."""
LOOSE_S = 5.0
"""How long after a call that broke its service may still begin calls for it: it has yet to notice."""
READ_GAP_S = 0.05
"""Least time between two readings of the ledgers."""
POLL_S = 1.0
"""How often is looked for what calls bring back that are under way elsewhere."""
MAX_IDLE_S = 30.0
"""Longest wait for what is not of the survey's own calls: after that, it makes do until there is more again."""
ENDLESS = 2**62
"""The room where a survey has no limit of its own."""
MAX_ASKS = 4
"""How often a service is asked at most; each time it is granted more."""
_FREE = Worst(item="", least=0, most=0)


class Budgets:
    """Opens the budgets of surveys."""

    def __init__(self, database: Database, services: Services, prices: "PriceBook") -> None:
        """Take the gateway's database, the services that keep ledgers, and the prices."""
        self._database = database
        self._services = services
        self._prices = prices

    async def open(self, job: Job, month_limit: int | None) -> "SurveyBudget":
        """Return the budget of a survey whose run begins, or of which a part is to be written again.

        Args:
            job: the survey.
            month_limit: of its tenant, in nano-US-dollars; None for none.

        Raises:
            UpstreamFailed: it cannot be told what the survey has spent.
        """
        month = None if month_limit is None else MonthShare(job, month_limit, self._database)
        budget = SurveyBudget(job, month, self._services, self._prices)
        if budget.is_limited:
            await asyncio.to_thread(self._prices.load)
        if budget.is_limited and (job.attempt > 1 or job.has_ended):  # before, nothing can have been spent
            await budget.read_surely()
        return budget

    async def month_left(self, tenant: str, month_limit: int | None) -> int | None:
        """Return what is neither spent nor set aside of a tenant's limit for this month; None without one."""
        if month_limit is None:
            return None
        sums = await self._database.read(lambda connection: _sums_now(connection, tenant))
        return max(0, month_limit - sums.spent - sums.reserved)

    async def check_month(self, tenant: str, month_limit: int | None) -> None:
        """Make sure that a tenant's limit for this month is not spent.

        Raises:
            BudgetReached: it is.
        """
        if month_limit is None:
            return
        sums = await self._database.read(lambda connection: _sums_now(connection, tenant))
        if sums.spent >= month_limit:
            raise BudgetReached(month_limit)


class SurveyBudget:
    """The budget of one survey, for as long as this process runs it. Of one event loop."""

    def __init__(self, job: Job, month: MonthShare | None, services: Services, prices: "PriceBook") -> None:
        """Name it; `Budgets.open` is the way to one."""
        self._job = job
        self._month = month
        self._services = services
        self._prices = prices
        self._account = Account(job.spec.max_cost_nano_usd if job.spec.HasField("max_cost_nano_usd") else None)
        self._wishes: list[Wish] = []
        self._changed = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._read_at = -math.inf
        self._has_failed = False  # the last reading
        self._idle_since: float | None = None  # what is waited for is not of this survey's own calls
        self.reached = False
        """Whether a call was left out because a limit did not allow it."""

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._account.limit is not None or self._month is not None

    @property
    def left(self) -> int | None:
        """What may still be granted of the survey's own limit, 0 or more; None without one."""
        left = self._account.left
        return None if left is None else max(0, left)

    def worst_of(self, request: Request) -> Worst:
        """Return what a call with this request can cost; of no matter where there is no limit."""
        return worst_of(request, self._prices) if self.is_limited else _FREE

    @contextlib.asynccontextmanager
    async def call(
        self, stage: pb.Stage.ValueType, worst: Worst, *, above: int | None = None
    ) -> AsyncIterator[int | None]:
        """Hold a grant while a service is called, and yield what the call may spend; None without limit.

        A call that could pass a limit waits as long as calls under way could free enough, and is then given what is
        left, which may be nothing.

        Args:
            stage: whose call it is.
            worst: as `worst_of` returns it.
            above: what the call was granted before and came back with; it is granted more.

        Raises:
            BudgetReached: there is no more than `above`.
            UpstreamFailed: the database that keeps the tenant's month does not answer.
        """
        if not self.is_limited:
            yield None
            return
        grant = await self._granted(stage, worst, above)
        unsure_s = LOOSE_S
        try:
            yield grant.amount
            unsure_s = 0.0
        except grpc.aio.AioRpcError as failure:
            unsure_s = 0.0 if status_in(failure) else LOOSE_S  # with details of ours it is the service's own last word
            raise
        finally:
            self._account.ended(grant, time.monotonic() + unsure_s)
            self._changed.set()

    async def read_surely(self) -> None:
        """Read the ledgers, again for a while when one does not answer.

        Raises:
            UpstreamFailed: it does not.
        """
        for delay_s in RETRY_DELAYS_S:
            if await self._has_read():
                return
            await asyncio.sleep(delay_s)
        if not await self._has_read():
            raise UpstreamFailed("the ledgers", "what the survey has spent cannot be read", retry_after_s=5)

    async def close(self) -> None:
        """Give nothing more. Of the month only what calls under way can take stays set aside."""
        if self._serving:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        if self._month and self._month.is_begun:
            await self._has_read()
            try:
                await self._month.take(self._account, least=0, most=0)
            except UpstreamFailed as error:
                logger.warning(
                    "what survey %s set aside is released when it is settled: %s", self._job.survey_id, error
                )

    async def _granted(self, stage: pb.Stage.ValueType, worst: Worst, above: int | None) -> Grant:
        wish = Wish(item=(name_of(stage), worst.item), worst=worst, above=above, rank=rank_of(stage, above))
        if self._wishes or not self._is_fulfilled(wish):
            self._queue(wish)
        try:
            return await wish.grant
        except asyncio.CancelledError:
            self._forget(wish)
            raise

    def _queue(self, wish: Wish) -> None:
        place = next((i for i, each in enumerate(self._wishes) if each.rank > wish.rank), len(self._wishes))
        self._wishes.insert(place, wish)
        self._changed.set()
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())

    def _forget(self, wish: Wish) -> None:
        """Leave no trace of a call whose caller has gone."""
        if wish in self._wishes:
            self._wishes.remove(wish)
        if wish.grant.done() and not wish.grant.cancelled() and not wish.grant.exception():
            self._account.drop(wish.grant.result())
        self._changed.set()

    async def _serve(self) -> None:
        """Fulfil the wishes, one after the other."""
        try:
            while self._wishes:
                self._changed.clear()
                wish = self._wishes[0]
                if wish.grant.done():  # its caller has gone
                    self._wishes.remove(wish)
                elif not self._is_fulfilled(wish):
                    await self._make_room(wish)
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait are told
            for wish in self._wishes:
                if not wish.grant.done():
                    wish.grant.set_exception(error)
        finally:
            for wish in self._wishes:
                wish.grant.cancel()
            self._wishes.clear()

    async def _make_room(self, wish: Wish) -> None:
        """Get room for a wish, wait for it, or give it what there is."""
        now = time.monotonic()
        freed, unsure_until = self._account.settling(now)
        read_at = self._reading_at(wish, freed)
        if read_at <= now:
            await self._has_read()
        elif self._month and await self._has_taken(wish, now):
            return
        elif self._may_wait(wish, now):
            polled_at = now + MONTH_POLL_S if self._month and self._month.others else math.inf
            await self._wait(min(read_at, unsure_until, polled_at, now + MAX_IDLE_S) - now)
        else:
            await self._give_rest(wish)

    def _reading_at(self, wish: Wish, freed: int) -> float:
        """Return when to read the ledgers for a wish; never, as infinity, where that frees too little.

        Of a month anything is worth freeing: other surveys may wait for it.

        Args:
            wish: the one that waits.
            freed: what a reading frees of grants that have ended.
        """
        if self._has_failed:
            return self._read_at + POLL_S if freed or self._account.in_flight_elsewhere else math.inf
        if freed and (self._month or self._room + freed >= wish.least):
            return self._read_at + READ_GAP_S
        return self._read_at + POLL_S if self._account.in_flight_elsewhere else math.inf

    def _is_fulfilled(self, wish: Wish) -> bool:
        amount = wish.size(self._room)
        if amount is None:
            return False
        self._idle_since = None
        self._give(wish, amount)
        return True

    def _give(self, wish: Wish, amount: int) -> None:
        if wish in self._wishes:
            self._wishes.remove(wish)
        wish.grant.set_result(self._account.give(wish.item, amount))

    async def _give_rest(self, wish: Wish) -> None:
        if self._month and self._month.left > 0:
            rest = self._month.room(self._account) + self._month.left
            await self._month.take(self._account, least=min(rest, self._survey_room), most=0)
            if wish.grant.done():  # its caller has gone meanwhile
                return
        if wish.above is None or self._room > wish.above:
            self._give(wish, max(0, self._room))
        else:
            self._wishes.remove(wish)
            wish.grant.set_exception(BudgetReached(wish.above))

    @property
    def _room(self) -> int:
        """What can be granted now; below 0 when more is held than there is."""
        return min(self._survey_room, self._month.room(self._account)) if self._month else self._survey_room

    @property
    def _survey_room(self) -> int:
        left = self._account.left
        return ENDLESS if left is None else left

    async def _has_taken(self, wish: Wish, now: float) -> bool:
        """Return whether there is more of the month for a wish that only the month keeps waiting."""
        month = self._month
        if month is None or month.room(self._account) >= self._survey_room or now < month.take_next_at:
            return False
        most = max(sum(each.portion for each in self._wishes), AHEAD * wish.portion)
        return await month.take(self._account, least=wish.needed, most=most)

    def _may_wait(self, wish: Wish, now: float) -> bool:
        """Return whether what is under way may bring back enough for a wish."""
        account, month = self._account, self._month
        back = account.held + account.in_flight
        others = month.others if month else 0
        could = self._survey_room + back
        if month:
            could = min(could, month.room(account) + month.left + back + others)
        if could < wish.least or not back + others:
            return False
        if account.is_busy:
            return True
        if self._idle_since is None:
            self._idle_since = now
        return now < self._idle_since + MAX_IDLE_S

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _has_read(self) -> bool:
        """Read the ledgers; return whether they answered."""
        self._read_at = read_at = time.monotonic()
        try:
            calls = await recorded_calls(self._services, self._job.tenant, self._job.survey_id)
        except grpc.aio.AioRpcError as failure:
            logger.warning("the ledgers of survey %s cannot be read: %s", self._job.survey_id, failure.code().name)
            self._has_failed = True
        else:
            self._account.learn(calls, read_at)
            self._has_failed = False
        return not self._has_failed


async def within_budget(
    budget: SurveyBudget,
    stage: pb.Stage.ValueType,
    worst: Worst,
    call: Callable[[int | None], Awaitable[Answer]],
) -> Answer:
    """Return the answer of a service, called with as much as the budget grants it.

    A service that leaves calls out for want of money is called again with more, as long as there is more: what it
    recorded the first time it need not pay for again. What is lost by that is time, not money.

    Args:
        budget: the survey's.
        stage: whose call it is.
        worst: as `SurveyBudget.worst_of` returns it.
        call: calls the service; takes `max_cost_nano_usd`, None for no limit.

    Raises:
        grpc.aio.AioRpcError: the service's own failure; with the reason BUDGET_REACHED where it cannot do without.
        UpstreamFailed: the database that keeps the tenant's month does not answer.
    """
    asked = await _asked(budget, stage, worst, call, None)
    for _ in range(MAX_ASKS - 1):
        if not asked.wants_more:
            break
        try:
            asked = await _asked(budget, stage, worst, call, asked.granted)
        except BudgetReached:
            break
        except (grpc.aio.AioRpcError, TimeoutError):
            if asked.failure:
                raise
            break  # what it brought the first time is better than nothing
    if asked.wants_more:
        budget.reached = True
    return asked.result()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked(Generic[Answer]):
    """What a call brought."""

    granted: int | None
    answer: Answer | None = None
    failure: grpc.aio.AioRpcError | None = None

    @property
    def wants_more(self) -> bool:
        """Whether it left calls out for want of money."""
        return self.failure is not None or getattr(self.answer, "budget_reached", False)

    def result(self) -> Answer:
        """Return the answer, or raise the failure."""
        if self.failure or self.answer is None:
            raise self.failure or ValueError("a call brought neither an answer nor a failure")
        return self.answer


async def _asked(
    budget: SurveyBudget,
    stage: pb.Stage.ValueType,
    worst: Worst,
    call: Callable[[int | None], Awaitable[Answer]],
    above: int | None,
) -> _Asked[Answer]:
    async with budget.call(stage, worst, above=above) as granted:
        try:
            return _Asked(granted=granted, answer=await call(granted))
        except grpc.aio.AioRpcError as failure:
            if granted is None or not _is_for_want_of_money(failure, granted, worst):
                raise
            return _Asked(granted=granted, failure=failure)


def _is_for_want_of_money(failure: grpc.aio.AioRpcError, granted: int, worst: Worst) -> bool:
    """Return whether more money may help: without a model a question may hold nothing to search for."""
    reason = reason_in(failure)
    return reason == BudgetReached.reason or (reason == NoSearchTerms.reason and granted < worst.most)


def _sums_now(connection: "Connection", tenant: str) -> "months.Sums":
    from gateway.store import months

    return months.sums_of(connection, tenant, months.month_now(connection))
