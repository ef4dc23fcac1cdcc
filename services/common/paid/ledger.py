"""The ledger of paid calls: what was asked once and answered is not paid for again. One for each owner.

Architecture, section 6. A call is claimed before it is sent: its row is then in flight, with a lease that is renewed
while the call runs. Who asks the same meanwhile waits; an expired lease is taken over. Claims and answers that come at
the same time are written in one transaction, since a durable one takes longer than all else.
"""

import asyncio
import functools
import hashlib
import json
import logging
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from services.common.database import Database
from services.common.errors import PaperRouteError
from services.common.paid.caller import Caller, Scope
from services.common.paid.ledger_rows import LedgerRows
from services.common.paid.ledger_values import Busy, CallPage, CallState, Claimed, Finished, Recorded
from services.common.paid.prices import Priced
from services.common.paid.usage import TokenUsage

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from services.common.paid.calls import PaidCall

logger = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_S = 15.0
"""A call in flight whose lease was not renewed for so long belongs to a dead process."""
TIDY_EVERY_S = 600.0
"""How often answers beyond the limits on age and size are looked for, while there are calls."""
DEFAULT_PAGE_SIZE = 500
FINISH_DELAYS_S = (0.2, 1.0, 5.0)
"""When what was paid for is tried to be recorded again, after the ledger did not answer."""
_MAX_BATCH = 100
_LARGE_BYTES = 32_768
"""From this size on an answer is compressed in a thread."""
_DAY_S = 86_400.0


def key_of(call: "PaidCall", caller: Caller) -> str:
    """Return the name of what is asked: who asks the same gets the same answer.

    It is a hash of the scope, the model with its address, everything that decides the answer, and the sample. The
    prompt itself is never stored.
    """
    scope = ["public"] if call.scope is Scope.PUBLIC else ["tenant", caller.tenant]
    own = [caller.tenant, caller.survey_id] if caller.cache_off else []
    payload = hashlib.sha256(call.payload).hexdigest()
    parts = [scope, own, call.endpoint, call.model, payload, call.sample]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Ledger:
    """The recorded calls of one owner."""

    def __init__(self, database: Database, owner: str, *, retention_days: int, max_answer_bytes: int) -> None:
        """Name a ledger; nothing is opened yet.

        Args:
            database: as `ledger_database` returns it; closed with the ledger.
            owner: "generation" or "embedding".
            retention_days: age from which an answer is removed; what it cost is kept.
            max_answer_bytes: most bytes of answers; those not used for longest go first.
        """
        self._database = database
        self._owner = owner
        self._retention_s = retention_days * _DAY_S
        self._max_answer_bytes = max_answer_bytes
        self._waiting: list[_Entry] = []
        self._writing: asyncio.Task[None] | None = None
        self._held: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._next_tidy = 0.0

    async def claim(
        self, key: str, call: "PaidCall", caller: Caller, worst_nano_usd: int | None = None
    ) -> Claimed | Recorded | Busy:
        """Return the recorded answer, that another process asks now, or that the caller is to ask.

        What is claimed must be finished or released; until then its lease is renewed.

        Args:
            key: as `key_of` returns it.
            call: what to ask.
            caller: who pays.
            worst_nano_usd: the most the call can cost; None where its price is unknown.

        Raises:
            NotReady: the ledger cannot be opened.
            UpstreamFailed: it does not answer.
        """
        found = await self._write(
            key, lambda rows: rows.claim(key, call, caller, lease_s=LEASE_S, worst_nano_usd=worst_nano_usd)
        )
        if isinstance(found, Claimed):
            self._hold(found.call_id)
            if found.took_over:
                logger.warning("took over a call to %s whose process is taken for dead", call.model)
        return found

    async def finish(
        self,
        claimed: Claimed,
        *,
        state: CallState,
        tokens: TokenUsage,
        priced: Priced,
        body: bytes = b"",
        response_id: str = "",
    ) -> None:
        """Record what became of a claimed call, as far as the ledger can be reached: the answer is paid for anyway.

        Args:
            claimed: as `claim` returned it.
            state: only an answer that is OK is kept and served again.
            tokens: what it took.
            priced: what it cost.
            body: the answer.
            response_id: the provider's name of it.
        """
        answer = await _compressed(body) if state is CallState.OK else b""
        finished = Finished(state=state, tokens=tokens, priced=priced, answer=answer, response_id=response_id)
        await self._write_surely(claimed.key, lambda rows: rows.finish(claimed, finished))
        self._held.discard(claimed.call_id)

    async def add_broken(
        self, claimed: Claimed, *, state: CallState, tokens: TokenUsage, priced: Priced, seconds: float
    ) -> None:
        """Record an attempt that brought no answer but was paid for; the call stays claimed."""
        finished = Finished(state=state, tokens=tokens, priced=priced, seconds=seconds)
        call_id = uuid.uuid4().hex
        await self._write_surely(claimed.key, lambda rows: rows.add_broken(claimed, call_id, finished))

    async def release(self, claimed: Claimed) -> None:
        """Forget a claimed call that was not sent; where that fails, its lease runs out."""
        self._held.discard(claimed.call_id)
        await self._quietly(self._write(claimed.key, lambda rows: rows.release(claimed)))

    async def list_calls(self, tenant: str, survey_id: str, page_size: int = 0, page_token: str = "") -> CallPage:
        """Return the calls that a survey paid for, in the order they began.

        Args:
            tenant: whose calls.
            survey_id: who paid.
            page_size: most calls to return; 0 means 500.
            page_token: that of the page before; empty for the first page.

        Raises:
            InvalidRequest: the token is none.
            NotReady: the ledger cannot be opened.
            UpstreamFailed: it does not answer.
        """
        size = page_size or DEFAULT_PAGE_SIZE

        def work(connection: "Connection") -> CallPage:
            return LedgerRows.unlocked(connection, self._owner).page(tenant, survey_id, size, page_token)

        return await self._database.run(work)

    async def delete_calls(self, tenant: str, survey_id: str) -> int:
        """Remove what a survey's calls say of its question; return how many answers went. What they cost stays.

        Raises:
            NotReady: the ledger cannot be opened.
            UpstreamFailed: it does not answer.
        """

        def work(connection: "Connection") -> int:
            return LedgerRows.of_all(connection, self._owner).forget(tenant, survey_id)

        return await self._database.run(work)

    async def renew_leases(self) -> None:
        """Move the leases of the calls that this ledger holds; done by itself while there are any."""
        held = sorted(self._held)
        await self._write("", lambda rows: rows.renew(held, lease_s=LEASE_S))

    async def tidy(self) -> None:
        """Remove answers beyond the limits on age and size; done by itself now and then."""

        def work(connection: "Connection") -> int:
            rows = LedgerRows.of_all(connection, self._owner)
            return rows.expire(retention_s=self._retention_s, max_bytes=self._max_answer_bytes)

        removed = await self._database.run(work)
        if removed:
            logger.info("removed %d recorded answers by the limits on age and size", removed)

    async def close(self) -> None:
        """Write what waits to be written and close the database. Leases that are held run out."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._tidying is not None:
            await asyncio.wait([self._tidying])
        await self._database.close()

    async def _write(self, key: str, work: Callable[[LedgerRows], T]) -> T:
        """Run work that touches the rows of one key, together with what else waits."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(key=key, work=work, done=done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await done

    async def _write_surely(self, key: str, work: Callable[[LedgerRows], None]) -> None:
        """Run work that may not be left undone for a ledger that is away for a moment; running it twice is harmless."""
        for delay_s in FINISH_DELAYS_S:
            try:
                return await self._write(key, work)
            except PaperRouteError as error:
                logger.warning("a paid call is not recorded yet: %s", error)
                await asyncio.sleep(delay_s)
        try:
            await self._write(key, work)
        except PaperRouteError:
            logger.exception("a paid call could not be recorded")

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
            try:
                await self._database.run(functools.partial(self._write_batch, batch))
            except Exception as error:  # noqa: BLE001  # whatever it is, those who wait are told
                for entry in batch:
                    entry.fail(error)
            else:
                for entry in batch:
                    entry.succeed()
        self._tidy_at_times()

    def _write_batch(self, batch: "list[_Entry]", connection: "Connection") -> None:
        rows = LedgerRows.of_keys(connection, self._owner, [entry.key for entry in batch])
        for entry in batch:
            entry.result = entry.work(rows)

    def _hold(self, call_id: str) -> None:
        self._held.add(call_id)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(LEASE_S / 3)
            await self._quietly(self.renew_leases())

    def _tidy_at_times(self) -> None:
        if time.monotonic() >= self._next_tidy:
            self._next_tidy = time.monotonic() + TIDY_EVERY_S
            self._tidying = asyncio.create_task(self._quietly(self.tidy()))

    @staticmethod
    async def _quietly(work: Awaitable[None]) -> None:
        """Await work whose failure only means that it happens later."""
        try:
            await work
        except PaperRouteError as error:
            logger.warning("the ledger was not kept up: %s", error)


@dataclass(kw_only=True, slots=True)
class _Entry:
    """Work that waits for the next transaction."""

    key: str
    work: Callable[[LedgerRows], Any]
    done: "asyncio.Future[Any]"
    result: Any = None

    def succeed(self) -> None:
        if not self.done.done():  # who waited may have gone
            self.done.set_result(self.result)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def _compressed(body: bytes) -> bytes:
    if len(body) < _LARGE_BYTES:
        return zlib.compress(body)
    return await asyncio.to_thread(zlib.compress, body)
