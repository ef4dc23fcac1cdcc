"""What a survey holds of its tenant's month: taken from the database in portions, for all calls that wait at once."""

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, TypeVar

from gateway.jobs.values import Job
from gateway.money.account import Account
from services.common.database import Database
from services.common.errors import UpstreamFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from gateway.store import months

logger = logging.getLogger(__name__)
T = TypeVar("T")

MONTH_POLL_S = 0.25
"""How often is looked for what other surveys give back of a month."""
RETRY_DELAYS_S = (0.2, 1.0, 3.0, 5.0)
"""When the database, or a ledger, is asked again that did not answer."""


class MonthShare:
    """What a survey holds of its tenant's month."""

    def __init__(self, job: Job, limit: int, database: Database) -> None:
        """Name it; nothing is taken before the first call that may cost something."""
        self._job = job
        self._limit = limit
        self._database = database
        self._mine: tuple[months.Account, int] | None = None  # with what of the survey's cost is of other months
        self._taken = 0  # spent and set aside
        self.left = limit
        """What nobody holds, as far as is known."""
        self.others = 0
        """What is set aside for other surveys."""
        self.take_next_at = -math.inf

    @property
    def is_begun(self) -> bool:
        """Whether anything was ever taken."""
        return self._mine is not None

    def room(self, account: Account) -> int:
        """Return what of it no call holds or has taken."""
        before = self._mine[1] if self._mine else account.known
        return self._taken - (account.known - before) - account.held

    async def take(self, account: Account, *, least: int, most: int) -> bool:
        """Take so much that a new call can be granted `least`, better `most`; return whether there was so much.

        Raises:
            UpstreamFailed: the database does not answer.
        """
        known, kept = account.known, account.held

        def work(connection: "Connection") -> "tuple[tuple[months.Account, int], months.Held]":
            from gateway.store import months

            job = self._job
            mine = self._mine or months.begin(connection, job.tenant, job.survey_id, job.attempt, known)
            held = months.hold(
                connection,
                mine[0],
                limit_nano_usd=self._limit,
                spent_nano_usd=known - mine[1],
                kept=kept,
                least=kept + least,
                most=kept + most,
            )
            return mine, held

        mine, held = await self._done(work)
        self._mine = mine
        self.left, self.others = held.left, held.others
        self._taken = known - mine[1] + held.reserved
        has_enough = self.room(account) >= least
        self.take_next_at = time.monotonic() + (0.0 if has_enough else MONTH_POLL_S)
        return has_enough

    async def _done(self, work: "Callable[[Connection], T]") -> T:
        """Run a transaction that may be run twice, again for a while when the database does not answer."""
        for delay_s in RETRY_DELAYS_S:
            try:
                return await self._database.run(work)
            except UpstreamFailed as error:
                logger.warning("the month of survey %s cannot be kept up yet: %s", self._job.survey_id, error)
                await asyncio.sleep(delay_s)
        return await self._database.run(work)
