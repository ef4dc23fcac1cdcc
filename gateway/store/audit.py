"""Rows of the table `audit`, as functions of a connection within the caller's transaction."""

from typing import TYPE_CHECKING

from paperroute.v1 import admin_service_pb2 as pb

from gateway.store.moments import timestamp_at
from services.common.database import clock_s

if TYPE_CHECKING:
    from sqlalchemy import Connection


def add(
    connection: "Connection", *, tenant: str, token_id: str, action: pb.AuditAction.ValueType, subject: str
) -> None:
    """Add a row."""
    from sqlalchemy import insert

    from gateway.store.tables import AUDIT

    values = {"tenant": tenant, "token_id": token_id, "action": int(action), "subject": subject}
    connection.execute(insert(AUDIT).values(happened_at=clock_s(connection), **values))


def page(
    connection: "Connection", tenant: str, size: int, before: int | None
) -> tuple[list[pb.AuditEvent], int | None]:
    """Return a page of events, newest first, and where the next one begins; None when there is none.

    Args:
        connection: within the caller's transaction.
        tenant: whose tokens did it; empty means all.
        size: most events.
        before: where the page begins; None is the newest.
    """
    from sqlalchemy import select

    from gateway.store.tables import AUDIT

    query = select(AUDIT).order_by(AUDIT.c.number.desc()).limit(size + 1)
    if tenant:
        query = query.where(AUDIT.c.tenant == tenant)
    if before is not None:
        query = query.where(AUDIT.c.number < before)
    rows = connection.execute(query).all()
    events = [
        pb.AuditEvent(
            happened_at=timestamp_at(row.happened_at),
            tenant=row.tenant,
            token_id=row.token_id,
            action=row.action,
            subject=row.subject,
        )
        for row in rows[:size]
    ]
    return events, rows[size - 1].number if len(rows) > size else None
