"""How much waits and runs on all replicas, and how near tenants are to their limits, as gauges show it."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import survey_pb2 as pb

from gateway.store.months import month_now
from services.common.database import clock_s

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """What all replicas have to do at one moment."""

    queued_count: int
    running_count: int
    silence_s: float
    """Since something was last told of the running survey that has been silent longest; 0 without one."""
    spent_parts: Mapping[str, float]
    """Parts of their limits of the month that tenants have spent, by tenant; of those nearest to their limits."""


def backlog(connection: "Connection", max_tenants: int) -> Backlog:
    """Return what the surveys and months of all tenants are now."""
    from sqlalchemy import func, select

    from gateway.store.tables import SURVEY

    columns, (queued, running) = SURVEY.c, (pb.SURVEY_STATE_QUEUED, pb.SURVEY_STATE_RUNNING)
    query = select(columns.state, func.count().label("total"), func.min(columns.told_at).label("told_at"))
    query = query.where(columns.state.in_((queued, running))).group_by(columns.state)
    rows = {row.state: row for row in connection.execute(query)}
    told_at = rows[running].told_at if running in rows else None
    return Backlog(
        queued_count=rows[queued].total if queued in rows else 0,
        running_count=rows[running].total if running in rows else 0,
        silence_s=0.0 if told_at is None else max(0.0, clock_s(connection) - told_at),
        spent_parts=_spent_parts(connection, max_tenants),
    )


def _spent_parts(connection: "Connection", most: int) -> Mapping[str, float]:
    from sqlalchemy import and_, select

    from gateway.store.tables import TENANT, TENANT_MONTH

    tenant, month = TENANT.c, TENANT_MONTH.c
    of_month = and_(month.tenant == tenant.tenant, month.month == month_now(connection))
    query = select(tenant.tenant, tenant.limits, month.spent_nano_usd).select_from(
        TENANT.outerjoin(TENANT_MONTH, of_month)
    )
    parts: dict[str, float] = {}
    for row in connection.execute(query):
        limits = admin_pb.Tenant.FromString(row.limits)
        if limits.HasField("max_month_cost_nano_usd"):
            limit = limits.max_month_cost_nano_usd
            parts[row.tenant] = (row.spent_nano_usd or 0) / limit if limit else 1.0
    nearest = heapq.nlargest(most, parts.items(), key=lambda item: item[1])
    return dict(nearest)
