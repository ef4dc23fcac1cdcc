"""What a tenant's surveys took of a month, and what their calls under way may still take of it.

A survey has a row for each month it spent in: what it has spent, and what is set aside for it. The tenant's row of the
month holds their sums, so that one row says what is left, however many surveys there were; it is the lock as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services.common.database import clock_s

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

SHARE = 8
"""Beyond what it needs a survey is given at most this part of what is left of a month: other surveys want some too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A survey's part in a tenant's month."""

    tenant: str
    survey_id: str
    month: str
    """"2026-11", UTC."""
    attempt: int
    """Of the survey: what ran it before may not set anything aside any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """What a tenant's surveys took of a month, in nano-US-dollars."""

    spent: int
    reserved: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What is set aside for a survey, in nano-US-dollars."""

    reserved: int
    left: int
    """What nobody holds, 0 or more."""
    others: int
    """What is set aside for other surveys; some of it will come back."""


def month_now(connection: "Connection") -> str:
    """Return the month it is, UTC."""
    return datetime.fromtimestamp(clock_s(connection), UTC).strftime("%Y-%m")


def sums_of(connection: "Connection", tenant: str, month: str) -> Sums:
    """Return what a tenant's surveys took of a month."""
    from gateway.store.tables import TENANT_MONTH

    columns = TENANT_MONTH.c
    query = TENANT_MONTH.select().where(columns.tenant == tenant, columns.month == month)
    row = connection.execute(query).one_or_none()
    return Sums(spent=row.spent_nano_usd, reserved=row.reserved_nano_usd) if row else Sums(spent=0, reserved=0)


def begin(
    connection: "Connection", tenant: str, survey_id: str, attempt: int, total_nano_usd: int
) -> tuple[Account, int]:
    """Return the account of a run that begins, and what of the survey's cost belongs to other months.

    What an earlier run, now dead, had set aside is released.

    Args:
        connection: with the caller's transaction.
        tenant: whose survey.
        survey_id: the survey.
        attempt: of the survey; its earlier ones set nothing aside from now on.
        total_nano_usd: what it has cost in all.
    """
    charge(connection, tenant, survey_id, total_nano_usd)
    account = Account(tenant=tenant, survey_id=survey_id, month=month_now(connection), attempt=attempt)
    _lock(connection, tenant, [account.month])
    row = _row(connection, account)
    _put(connection, account, row, spent=row.spent_nano_usd if row else 0, reserved=0)
    before = sum(row.spent_nano_usd for row in _rows(connection, survey_id) if row.month != account.month)
    return account, before


def hold(
    connection: "Connection",
    account: Account,
    *,
    limit_nano_usd: int,
    spent_nano_usd: int,
    kept: int,
    least: int,
    most: int,
) -> Held:
    """Set aside for a survey what it wants, as far as the month allows; nothing for what a later attempt replaced.

    Args:
        connection: with the caller's transaction.
        account: the survey's.
        limit_nano_usd: of the tenant, for a month.
        spent_nano_usd: what of the survey's cost belongs to this month.
        kept: what has been handed out and stays set aside in any case.
        least: what it needs, `kept` included; where the month has not so much left, nothing beyond `kept` is set aside.
        most: what it can use; beyond `least` it gets a part of what is left.
    """
    _lock(connection, account.tenant, [account.month])
    sums = sums_of(connection, account.tenant, account.month)
    row = _row(connection, account)
    if row and row.attempt > account.attempt:
        return Held(reserved=kept, left=0, others=0)
    others = sums.reserved - (row.reserved_nano_usd if row else 0)
    others_spent = sums.spent - (row.spent_nano_usd if row else 0)
    room = max(0, limit_nano_usd - others_spent - others - spent_nano_usd)
    reserved = max(kept, least, min(most, least + (room - least) // SHARE)) if least <= room else kept
    _put(connection, account, row, spent=spent_nano_usd, reserved=reserved)
    return Held(reserved=reserved, left=max(0, room - reserved), others=others)


def charge(connection: "Connection", tenant: str, survey_id: str, total_nano_usd: int) -> None:
    """Note what a survey has cost in all, and release what is set aside for it; repeating it changes nothing.

    What is new belongs to the month for which its run has set something aside, else to this one.

    Args:
        connection: with the caller's transaction.
        tenant: whose survey.
        survey_id: the survey.
        total_nano_usd: what it has cost in all, calls under way at their worst.
    """
    now = month_now(connection)
    rows = _rows(connection, survey_id)
    if not rows and not total_nano_usd:
        return
    _lock(connection, tenant, [now, *(row.month for row in rows)])
    rows = _rows(connection, survey_id)
    new = total_nano_usd - sum(row.spent_nano_usd for row in rows)
    month = _month_of_change(rows, new, now)
    by_month = {row.month: row for row in rows}
    for each in sorted({*by_month, *([month] if new else [])}):
        row = by_month.get(each)
        account = Account(tenant=tenant, survey_id=survey_id, month=each, attempt=row.attempt if row else 0)
        spent = (row.spent_nano_usd if row else 0) + (new if each == month else 0)
        _put(connection, account, row, spent=spent, reserved=0)


def _month_of_change(rows: "Sequence[Row[Any]]", new: int, now: str) -> str:
    """Return the month to which a change of a survey's cost belongs."""
    if new < 0:  # worst cases that were counted and did not come true
        return str(max(rows, key=lambda row: row.spent_nano_usd).month)
    return next((row.month for row in rows if row.reserved_nano_usd), now)


def _row(connection: "Connection", account: Account) -> "Row[Any] | None":
    return next((row for row in _rows(connection, account.survey_id) if row.month == account.month), None)


def _rows(connection: "Connection", survey_id: str) -> "Sequence[Row[Any]]":
    from sqlalchemy import select

    from gateway.store.tables import RESERVATION

    return connection.execute(select(RESERVATION).where(RESERVATION.c.survey_id == survey_id)).all()


def _lock(connection: "Connection", tenant: str, months: Sequence[str]) -> None:
    """Keep others from a tenant's months until the transaction ends; in one order, so that no two wait for each other.

    SQLite lets one transaction write at a time anyway.
    """
    from sqlalchemy import select, text

    from gateway.store.tables import TENANT_MONTH

    if connection.dialect.name == "sqlite":
        return
    for month in sorted(set(months)):
        add = text("INSERT INTO tenant_month (tenant, month) VALUES (:tenant, :month) ON CONFLICT DO NOTHING")
        connection.execute(add, {"tenant": tenant, "month": month})
        columns = TENANT_MONTH.c
        query = select(columns.month).where(columns.tenant == tenant, columns.month == month)
        connection.execute(query.with_for_update())


def _put(connection: "Connection", account: Account, row: "Row[Any] | None", *, spent: int, reserved: int) -> None:
    """Write a survey's row, and what it changes in the tenant's."""
    from gateway.store.tables import RESERVATION, TENANT_MONTH
    from gateway.store.upserts import insert_or_update

    before = (row.spent_nano_usd, row.reserved_nano_usd) if row else (0, 0)
    dialect = connection.dialect.name
    key = {"tenant": account.tenant, "month": account.month}
    values = {"spent_nano_usd": spent, "reserved_nano_usd": reserved, "attempt": account.attempt, **key}
    connection.execute(insert_or_update(dialect, RESERVATION), {"survey_id": account.survey_id, **values})
    if before == (spent, reserved):
        return
    sums = sums_of(connection, account.tenant, account.month)
    changed = {
        "spent_nano_usd": sums.spent + spent - before[0],
        "reserved_nano_usd": sums.reserved + reserved - before[1],
    }
    connection.execute(insert_or_update(dialect, TENANT_MONTH), {**key, **changed})
