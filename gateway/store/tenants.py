"""Rows of the table `tenant`, as functions of a connection within the caller's transaction."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paperroute.v1 import admin_service_pb2 as pb

from gateway.store.moments import timestamp_at
from gateway.store.months import month_now
from services.common.database import clock_s
from services.common.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Row

_OF_SERVER = ("created_at", "month_spent_nano_usd", "month_reserved_nano_usd")
"""Fields of the message Tenant that are not stored with the limits."""


def create(connection: "Connection", tenant: pb.Tenant) -> pb.Tenant:
    """Set up a tenant and return it.

    Raises:
        AlreadyExists: there is one of that name.
    """
    from sqlalchemy import insert
    from sqlalchemy.exc import IntegrityError

    from gateway.store.tables import TENANT

    values = {"tenant": tenant.tenant, "created_at": clock_s(connection), **_limits(tenant)}
    try:
        with connection.begin_nested():
            connection.execute(insert(TENANT).values(values))
    except IntegrityError:
        (known,) = named(connection, [tenant.tenant])
        raise AlreadyExists("tenant", tenant.tenant, _difference(known, tenant)) from None
    return _with_month(connection, named(connection, [tenant.tenant]))[0]


def replace(connection: "Connection", tenant: pb.Tenant) -> pb.Tenant:
    """Replace all limits of a tenant and return it.

    Raises:
        NotFound: there is none of that name.
    """
    from sqlalchemy import update

    from gateway.store.tables import TENANT

    query = update(TENANT).where(TENANT.c.tenant == tenant.tenant).values(_limits(tenant))
    if not connection.execute(query).rowcount:
        raise NotFound("tenant", tenant.tenant)
    return _with_month(connection, named(connection, [tenant.tenant]))[0]


def every(connection: "Connection") -> list[pb.Tenant]:
    """Return all tenants in the order of their names, with what this month has cost them."""
    from sqlalchemy import true

    return _with_month(connection, _selected(connection, true()))


def named(connection: "Connection", names: Sequence[str]) -> list[pb.Tenant]:
    """Return those of the tenants that were set up, in the order of their names, without what the month has cost."""
    from gateway.store.tables import TENANT

    return _selected(connection, TENANT.c.tenant.in_(names))


def require(connection: "Connection", name: str) -> None:
    """Make sure of a tenant.

    Raises:
        NotFound: there is none of that name.
    """
    if not named(connection, [name]):
        raise NotFound("tenant", name)


def _selected(connection: "Connection", condition: "ColumnElement[bool]") -> list[pb.Tenant]:
    from sqlalchemy import select

    from gateway.store.tables import TENANT

    found = [_tenant_of(row) for row in connection.execute(select(TENANT).where(condition))]
    return sorted(found, key=lambda tenant: tenant.tenant)  # databases sort "-" and "_" each in its own way


def _tenant_of(row: "Row[Any]") -> pb.Tenant:
    tenant = pb.Tenant.FromString(row.limits)
    tenant.tenant = row.tenant
    tenant.created_at.CopyFrom(timestamp_at(row.created_at))
    return tenant


def _limits(tenant: pb.Tenant) -> dict[str, object]:
    stored = pb.Tenant()
    stored.CopyFrom(tenant)
    for name in _OF_SERVER:
        stored.ClearField(name)  # type: ignore[arg-type] # the names are fields; a test walks over them
    return {"limits": stored.SerializeToString(), "max_running_surveys": tenant.max_running_surveys}


def _difference(known: pb.Tenant, tenant: pb.Tenant) -> str:
    """Return the names of the limits in which two tenants of one name differ; their moments of creation always do."""
    names = [field.name for field in pb.Tenant.DESCRIPTOR.fields if field.name not in _OF_SERVER]
    different = [name for name in names if getattr(known, name) != getattr(tenant, name)]
    return ", ".join(different) or "created_at"


def _with_month(connection: "Connection", found: list[pb.Tenant]) -> list[pb.Tenant]:
    """Fill in what the surveys of this month have cost and what is reserved for calls under way."""
    from sqlalchemy import select

    from gateway.store.tables import TENANT_MONTH

    query = select(TENANT_MONTH).where(TENANT_MONTH.c.month == month_now(connection))
    months = {row.tenant: row for row in connection.execute(query)}
    for tenant in found:
        if row := months.get(tenant.tenant):
            tenant.month_spent_nano_usd = row.spent_nano_usd
            tenant.month_reserved_nano_usd = row.reserved_nano_usd
    return found
