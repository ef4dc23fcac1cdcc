"""What the tenants may take: their own limits, with the gateway's where they have none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paperroute.v1 import admin_service_pb2 as pb

from gateway.access.recent import Recent
from gateway.settings import GatewaySettings
from gateway.store import tenants
from services.common.database import Database

MAX_AGE_S = 4.0
"""How old a tenant's limits may be: a change is in force everywhere within 5 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of a tenant, complete."""

    max_running: int
    """Surveys under way at one time, on all replicas."""
    max_queued: int
    """Surveys that may wait for their turn."""
    max_month_cost_nano_usd: int | None
    """Most its surveys may cost in a calendar month, UTC; None is no limit."""
    allowed_models: str
    """Patterns separated by commas."""
    max_requests_per_s: float
    """Of each of its tokens, on each replica."""


class TenantLimits:
    """The limits of tenants as they were at most 5 s ago."""

    def __init__(self, database: Database, settings: GatewaySettings) -> None:
        self._database = database
        self._settings = settings
        self._recent = Recent(self._read, max_age_s=MAX_AGE_S, unknown_age_s=MAX_AGE_S)

    async def of(self, tenant: str) -> Limits:
        """Return the limits of a tenant; one that nobody set up has the gateway's.

        Raises:
            NotReady: the database cannot be opened.
            UpstreamFailed: it does not answer.
        """
        return await self._recent.get(tenant) or self._limits_of(pb.Tenant())

    def forget(self) -> None:
        """Read them again: some were changed here."""
        self._recent.forget()

    async def close(self) -> None:
        """End what is under way."""
        await self._recent.close()

    async def _read(self, names: Sequence[str]) -> Mapping[str, Limits]:
        found = await self._database.read(lambda connection: tenants.named(connection, names))
        return {tenant.tenant: self._limits_of(tenant) for tenant in found}

    def _limits_of(self, tenant: pb.Tenant) -> Limits:
        own = self._settings
        has_month = tenant.HasField("max_month_cost_nano_usd")
        return Limits(
            max_running=tenant.max_running_surveys or own.max_running_surveys_per_tenant,
            max_queued=tenant.max_queued_surveys or own.max_queued_surveys_per_tenant,
            max_month_cost_nano_usd=tenant.max_month_cost_nano_usd if has_month else None,
            allowed_models=",".join(tenant.allowed_models) or own.allowed_models,
            max_requests_per_s=tenant.max_requests_per_s or own.max_requests_per_s,
        )
