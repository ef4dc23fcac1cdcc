"""The rows of a ledger: what is read and written in one transaction."""

import hashlib
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.common.database import clock_s
from services.common.errors import InvalidRequest, Violation
from services.common.paid.caller import Caller, Scope
from services.common.paid.ledger_values import (
    Busy,
    CallPage,
    CallState,
    Claimed,
    Finished,
    ListedCall,
    Payer,
    Recorded,
)
from services.common.paid.prices import PriceSource
from services.common.paid.usage import Usage

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Table

    from services.common.paid.calls import PaidCall

TOUCH_S = 3_600.0
"""How exact the moment of an answer's last use is: serving one again writes nothing most of the time."""
MAX_TOKEN_DIGITS = 18
_MAX_NAME_CHARACTERS = 300
_FORGOTTEN = "forgotten "
"""Begins the keys of calls that nobody may ask for again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerRows:
    """The rows of one owner as a transaction sees them, which holds a lock on those it changes."""

    connection: "Connection"
    table: "Table"
    now: float
    """Seconds since 1970, by the database's clock."""

    @classmethod
    def of_keys(cls, connection: "Connection", owner: str, keys: Iterable[str]) -> "LedgerRows":
        """Return the rows with these keys locked: other processes wait for them until the transaction ends."""
        from sqlalchemy import ARRAY, BigInteger, bindparam, text

        if connection.dialect.name == "postgresql":  # SQLite lets one process write at a time anyway
            shared = text("SELECT pg_advisory_xact_lock_shared(:number)")
            connection.execute(shared, {"number": _lock_number(f"ledger {owner}")})
            # In one order everywhere, so that no two wait for each other.
            numbers = sorted({_lock_number(f"{owner} {key}") for key in keys})
            locks = text("SELECT pg_advisory_xact_lock(number) FROM unnest(:numbers) AS number")
            connection.execute(locks.bindparams(bindparam("numbers", numbers, ARRAY(BigInteger))))
        return cls.unlocked(connection, owner)

    @classmethod
    def of_all(cls, connection: "Connection", owner: str) -> "LedgerRows":
        """Return the rows with all of them locked."""
        from sqlalchemy import text

        if connection.dialect.name == "postgresql":
            locked = text("SELECT pg_advisory_xact_lock(:number)")
            connection.execute(locked, {"number": _lock_number(f"ledger {owner}")})
        return cls.unlocked(connection, owner)

    @classmethod
    def unlocked(cls, connection: "Connection", owner: str) -> "LedgerRows":
        """Return the rows to be read only."""
        from services.common.paid.ledger_tables import tables_of

        return cls(connection=connection, table=tables_of(owner).call, now=clock_s(connection))

    def claim(
        self, key: str, call: "PaidCall", caller: Caller, *, lease_s: float, worst_nano_usd: int | None
    ) -> Claimed | Recorded | Busy:
        """Return the recorded answer, that another is asking, or that the caller is to ask: its row is in flight."""
        from sqlalchemy import select

        from services.common.paid.ledger_tables import HOLDS_KEY

        row = self.connection.execute(select(self.table).where(self.table.c.key == key, HOLDS_KEY)).one_or_none()
        if row is not None and row.state == CallState.OK.value:
            if row.used_at < self.now - TOUCH_S:
                self._change(row.call_id, {"used_at": self.now})
            return Recorded(body=zlib.decompress(row.answer), payer=_payer(row), paid=_usage(row))
        is_mine = row is not None and (row.tenant, row.survey_id) == (caller.tenant, caller.survey_id)
        mine_nano_usd = row.worst_cost_nano_usd or 0 if row is not None and is_mine else 0
        if row is not None and row.lease_until > self.now:
            return Busy(mine_nano_usd=mine_nano_usd)
        if row is not None:
            self._change(row.call_id, {"state": CallState.LOST.value, "finished_at": row.lease_until})
        call_id = self._begin(key, call, caller, self.now + lease_s, worst_nano_usd)
        return Claimed(
            call_id=call_id,
            key=key,
            started_at=self.now,
            took_over=row is not None,
            lost_nano_usd=mine_nano_usd,
        )

    def finish(self, claimed: Claimed, finished: Finished) -> None:
        """Record what became of a call.

        An answer that came after another process took the call over is paid for but not kept, like one whose survey was
        deleted meanwhile.
        """
        from sqlalchemy import select

        from services.common.paid.ledger_tables import HOLDS_KEY

        columns = self.table.c
        holder = select(columns.call_id).where(columns.key == claimed.key, HOLDS_KEY).scalar_subquery()
        query = select(columns.key, holder.label("holder")).where(columns.call_id == claimed.call_id)
        row = self.connection.execute(query).one_or_none()
        is_forgotten = row is None or row.key != claimed.key
        is_taken_over = row is not None and row.holder not in {None, claimed.call_id}
        state = finished.state
        if state is CallState.OK and (is_forgotten or is_taken_over):
            state = CallState.EXPIRED
        values = self._finished(finished) | {"state": state.value}
        if state is CallState.OK:
            values |= {"answer": finished.answer, "size_bytes": len(finished.answer)}
        if is_forgotten:
            values["response_id"] = ""
        self._change(claimed.call_id, values)

    def add_broken(self, claimed: Claimed, call_id: str, finished: Finished) -> None:
        """Record an attempt of a call in flight that broke but was paid for, as a row beside the call's own."""
        from sqlalchemy import insert, select

        query = select(self.table).where(self.table.c.call_id.in_((claimed.call_id, call_id)))
        rows = {row.call_id: row for row in self.connection.execute(query)}
        if call_id in rows or claimed.call_id not in rows:
            return
        values = rows[claimed.call_id]._asdict() | self._finished(finished)
        values |= {"call_id": call_id, "state": finished.state.value, "started_at": self.now - finished.seconds}
        del values["number"]
        self.connection.execute(insert(self.table).values(values))

    def release(self, claimed: Claimed) -> None:
        """Remove the row of a call that was not sent."""
        from sqlalchemy import delete

        columns = self.table.c
        open_states = (CallState.IN_FLIGHT.value, CallState.LOST.value)
        mine = (columns.call_id == claimed.call_id, columns.state.in_(open_states))
        self.connection.execute(delete(self.table).where(*mine))

    def renew(self, call_ids: Sequence[str], *, lease_s: float) -> None:
        """Move the leases of calls that are still in flight."""
        from sqlalchemy import update

        columns = self.table.c
        mine = (columns.call_id.in_(call_ids), columns.state == CallState.IN_FLIGHT.value)
        self.connection.execute(update(self.table).where(*mine).values(lease_until=self.now + lease_s))

    def expire(self, *, retention_s: float, max_bytes: int) -> int:
        """Remove answers older than that, then the longest unused ones beyond `max_bytes`; return how many."""
        from sqlalchemy import func, select, update

        from services.common.paid.ledger_tables import IS_KEPT

        columns = self.table.c
        gone = update(self.table).values(state=CallState.EXPIRED.value, answer=None, size_bytes=0)
        old = self.connection.execute(gone.where(IS_KEPT, columns.finished_at < self.now - retention_s))
        size_bytes = self.connection.execute(select(func.sum(columns.size_bytes)).where(IS_KEPT)).scalar_one()
        if (size_bytes or 0) <= max_bytes:
            return old.rowcount
        newest_first = (columns.used_at.desc(), columns.number.desc())
        running = func.sum(columns.size_bytes).over(order_by=newest_first).label("running")
        ranked = select(columns.number, running).where(IS_KEPT).subquery()
        beyond = select(ranked.c.number).where(ranked.c.running > max_bytes)
        large = self.connection.execute(gone.where(columns.number.in_(beyond)))
        return old.rowcount + large.rowcount

    def forget(self, tenant: str, survey_id: str) -> int:
        """Remove all that a survey's calls say of its question, and return how many answers went.

        What they took and cost stays. Answers that serve all stay too, but not for which papers the survey asked them.
        """
        from sqlalchemy import case, func, literal, select, update

        columns = self.table.c
        mine = (columns.tenant == tenant, columns.survey_id == survey_id)
        private, public = (*mine, columns.is_public.is_(False)), (*mine, columns.is_public.is_(True))
        is_kept = columns.state == CallState.OK.value
        if self.connection.dialect.name == "sqlite":
            self.connection.exec_driver_sql("PRAGMA secure_delete = ON")  # overwrites what is removed
        count = self.connection.execute(select(func.count(columns.number)).where(*private, is_kept)).scalar_one()
        removed = {
            "state": case((is_kept, CallState.EXPIRED.value), else_=columns.state),
            "key": literal(_FORGOTTEN) + columns.call_id,
            "item": "",
            "response_id": "",
            "answer": None,
            "size_bytes": 0,
        }
        self.connection.execute(update(self.table).where(*private).values(removed))
        self.connection.execute(update(self.table).where(*public).values(item=""))
        return int(count)

    def page(self, tenant: str, survey_id: str, size: int, token: str) -> CallPage:
        """Return a page of a survey's calls, in the order they began.

        Raises:
            InvalidRequest: the token is not one that a page gave.
        """
        from sqlalchemy import select

        if token and not (token.isascii() and token.isdigit() and len(token) <= MAX_TOKEN_DIGITS):
            raise InvalidRequest([Violation(field="page_token", description="the next_page_token of a page, or empty")])
        columns = self.table.c
        query = select(*(column for column in columns if column.name != "answer"))
        query = query.where(columns.tenant == tenant, columns.survey_id == survey_id)
        query = query.where(columns.number > int(token or 0)).order_by(columns.number).limit(size + 1)
        rows = self.connection.execute(query).all()
        calls = tuple(_listed(row, self.now) for row in rows[:size])
        return CallPage(calls=calls, next_page_token=str(rows[size - 1].number) if len(rows) > size else "")

    def _begin(self, key: str, call: "PaidCall", caller: Caller, lease_until: float, worst_nano_usd: int | None) -> str:
        from sqlalchemy import insert

        call_id = uuid.uuid4().hex
        values = {
            "call_id": call_id,
            "key": key,
            "state": CallState.IN_FLIGHT.value,
            "is_public": call.scope is Scope.PUBLIC,
            "tenant": _storable(caller.tenant),
            "survey_id": _storable(caller.survey_id),
            "stage": _storable(caller.stage),
            "item": _storable(caller.item),
            "model": _storable(call.model),
            "prompt_id": _storable(call.prompt_id),
            "started_at": self.now,
            "lease_until": lease_until,
            "used_at": self.now,
            "is_estimated": False,
            "price_source": PriceSource.UNPRICED.value,
            "worst_cost_nano_usd": worst_nano_usd,
        }
        # Given as parameters, not as a part of the statement: building that for each row takes longer than running it.
        self.connection.execute(insert(self.table), values)
        return call_id

    def _change(self, call_id: str, values: dict[str, Any]) -> None:
        from sqlalchemy import bindparam, update

        changed = update(self.table).where(self.table.c.call_id == bindparam("changed_id"))
        self.connection.execute(changed, values | {"changed_id": call_id})

    def _finished(self, finished: Finished) -> dict[str, Any]:
        tokens, priced = finished.tokens, finished.priced
        return {
            "finished_at": self.now,
            "used_at": self.now,
            "input_tokens": tokens.input_tokens,
            "cached_input_tokens": tokens.cached_input_tokens,
            "cache_write_tokens": tokens.cache_write_tokens,
            "output_tokens": tokens.output_tokens,
            "reasoning_tokens": tokens.reasoning_tokens,
            "is_estimated": tokens.is_estimated,
            "cost_nano_usd": priced.cost_nano_usd,
            "price_source": priced.source.value,
            "price_version": priced.version,
            "response_id": _storable(finished.response_id)[:_MAX_NAME_CHARACTERS],
        }


def _listed(row: "Row[Any]", now: float) -> ListedCall:
    state, finished_at = CallState(row.state), row.finished_at
    if state is CallState.IN_FLIGHT and row.lease_until < now:  # nobody has asked the same since
        state, finished_at = CallState.LOST, row.lease_until
    return ListedCall(
        call_id=row.call_id,
        survey_id=row.survey_id,
        stage=row.stage,
        item=row.item,
        state=state,
        started_at=row.started_at,
        finished_at=finished_at,
        usage=_usage(row),
        price_source=PriceSource(row.price_source),
        price_version=row.price_version,
        prompt_id=row.prompt_id,
        response_id=row.response_id,
        worst_nano_usd=row.worst_cost_nano_usd,
    )


def _payer(row: "Row[Any]") -> Payer:
    return Payer(tenant=row.tenant, survey_id=row.survey_id, stage=row.stage, item=row.item)


def _usage(row: "Row[Any]") -> Usage:
    return Usage(
        model=row.model,
        input_tokens=row.input_tokens,
        cached_input_tokens=row.cached_input_tokens,
        cache_write_tokens=row.cache_write_tokens,
        output_tokens=row.output_tokens,
        reasoning_tokens=row.reasoning_tokens,
        cost_nano_usd=row.cost_nano_usd,
        is_estimated=row.is_estimated,
    )


def _storable(text: str) -> str:
    """Return a text as every database takes it: what a server calls its answer must not keep it from being recorded."""
    return text.encode(errors="replace").decode().replace("\0", "")


def _lock_number(name: str) -> int:
    """Return the number of a PostgreSQL lock."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
