"""Tenants, their limits, and what was done."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from paperroute.v1 import admin_service_pb2 as pb
from survey_rows import Gateways

from gateway.access import audit
from gateway.access.limits import Limits, TenantLimits
from gateway.access.principal import LOCAL, Principal, Scope
from gateway.settings import GatewaySettings
from gateway.store import audit as audit_rows
from gateway.store import tenants
from services.common.errors import AlreadyExists, NotFound

FULL = pb.Tenant(
    tenant="team",
    max_running_surveys=3,
    max_queued_surveys=4,
    max_month_cost_nano_usd=0,
    allowed_models=["openai:*", "extractive:builtin"],
    max_requests_per_s=0.5,
)


async def create(gateways: Gateways, tenant: pb.Tenant) -> pb.Tenant:
    return await gateways.database.run(lambda connection: tenants.create(connection, tenant))


def limits_of(tenant: pb.Tenant) -> pb.Tenant:
    """Return a tenant without what the server sets."""
    own = pb.Tenant()
    own.CopyFrom(tenant)
    for name in ("created_at", "month_spent_nano_usd", "month_reserved_nano_usd"):
        own.ClearField(name)
    return own


async def test_a_tenant_comes_back_as_it_was_set_up(gateways: Gateways):
    asked = pb.Tenant()
    asked.CopyFrom(FULL)
    asked.month_spent_nano_usd = 5  # set by the server: what a client says of it counts for nothing
    asked.created_at.GetCurrentTime()

    made = await create(gateways, asked)

    (listed,) = await gateways.database.read(tenants.every)
    assert limits_of(made) == FULL
    assert made.month_spent_nano_usd == 0
    assert listed == made
    assert listed.HasField("max_month_cost_nano_usd")


async def test_a_name_is_taken_once_even_at_the_same_time(gateways: Gateways):
    others = [pb.Tenant(tenant="team", max_running_surveys=number) for number in range(1, 6)]

    ends = await asyncio.gather(*(create(gateways, each) for each in others), return_exceptions=True)

    assert sorted(type(end).__name__ for end in ends) == ["AlreadyExists"] * 4 + ["Tenant"]
    with pytest.raises(AlreadyExists, match="max_queued_surveys"):
        await create(gateways, pb.Tenant(tenant="team", max_queued_surveys=9))


async def test_tenants_are_in_the_order_of_their_names(gateways: Gateways):
    for name in ("b", "a_b", "a-b", "a.b", "a", "0"):
        await create(gateways, pb.Tenant(tenant=name))

    names = [tenant.tenant for tenant in await gateways.database.read(tenants.every)]
    assert names == sorted(names)
    assert len(names) == 6


async def test_all_limits_are_replaced(gateways: Gateways):
    made = await create(gateways, FULL)

    changed = await gateways.database.run(
        lambda connection: tenants.replace(connection, pb.Tenant(tenant="team", max_queued_surveys=7))
    )

    assert limits_of(changed) == pb.Tenant(tenant="team", max_queued_surveys=7)
    assert changed.created_at == made.created_at
    assert (await gateways.sql("SELECT max_running_surveys FROM tenant"))[0]["max_running_surveys"] == 0


async def test_a_tenant_that_is_not_there_is_named(gateways: Gateways):
    with pytest.raises(NotFound, match="'team'"):
        await gateways.database.run(lambda connection: tenants.replace(connection, FULL))
    with pytest.raises(NotFound, match="'team'"):
        await gateways.database.read(lambda connection: tenants.require(connection, "team"))


async def test_what_this_month_costs_is_told(gateways: Gateways):
    await create(gateways, FULL)
    await create(gateways, pb.Tenant(tenant="other"))
    month = datetime.now(UTC).strftime("%Y-%m")
    for tenant, when, spent, reserved in (
        ("team", month, 70, 11),
        ("team", "2001-01", 900, 100),
        ("other", "2001-01", 800, 200),
    ):
        await gateways.sql(
            "INSERT INTO tenant_month (tenant, month, spent_nano_usd, reserved_nano_usd) VALUES (:t, :m, :s, :r)",
            t=tenant,
            m=when,
            s=spent,
            r=reserved,
        )

    other, team = await gateways.database.read(tenants.every)
    assert (team.month_spent_nano_usd, team.month_reserved_nano_usd) == (70, 11)
    assert (other.month_spent_nano_usd, other.month_reserved_nano_usd) == (0, 0)


DEFAULTS = GatewaySettings(
    max_running_surveys_per_tenant=11,
    max_queued_surveys_per_tenant=12,
    allowed_models="gemini:*",
    max_requests_per_s=13,
)


def known(gateways: Gateways) -> TenantLimits:
    return gateways.closing(TenantLimits(gateways.database, DEFAULTS))


async def test_a_tenants_own_limits_stand_over_the_gateways(gateways: Gateways):
    await create(gateways, FULL)

    assert await known(gateways).of("team") == Limits(
        max_running=3,
        max_queued=4,
        max_month_cost_nano_usd=0,
        allowed_models="openai:*,extractive:builtin",
        max_requests_per_s=0.5,
    )


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_tenant_without_limits_has_those_of_the_gateway(gateways: Gateways, is_there: bool):
    if is_there:
        await create(gateways, pb.Tenant(tenant="team"))

    assert await known(gateways).of("team") == Limits(
        max_running=11,
        max_queued=12,
        max_month_cost_nano_usd=None,
        allowed_models="gemini:*",
        max_requests_per_s=13,
    )


async def test_changed_limits_are_seen_once_the_old_ones_are_forgotten(file_gateways: Gateways):
    mine = known(file_gateways)
    assert (await mine.of("team")).max_running == 11
    await create(file_gateways, FULL)
    mine.forget()

    assert (await mine.of("team")).max_running == 3


async def recorded(gateways: Gateways, who: Principal, action: int, subject: str) -> None:
    await gateways.database.run(lambda connection: audit.record(connection, who, action, subject))


async def test_what_was_done_is_told_page_by_page_newest_first(gateways: Gateways):
    for number in range(7):
        who = Principal("team", f"tk_{number}", Scope.WRITE) if number % 2 else LOCAL
        await recorded(gateways, who, pb.AUDIT_ACTION_CREATE_SURVEY, f"s{number}")

    async def pages(tenant: str, size: int) -> list[list[str]]:
        found, before = [], None
        while True:
            events, before = await gateways.database.read(
                lambda connection, before=before: audit_rows.page(connection, tenant, size, before)
            )
            found.append([event.subject for event in events])
            if before is None:
                return found

    assert await pages("", 3) == [["s6", "s5", "s4"], ["s3", "s2", "s1"], ["s0"]]
    assert await pages("", 7) == [["s6", "s5", "s4", "s3", "s2", "s1", "s0"]]
    assert await pages("team", 2) == [["s5", "s3"], ["s1"]]
    assert await pages("nobody", 2) == [[]]


async def test_a_record_says_who_did_what_when(gateways: Gateways):
    await recorded(gateways, Principal("team", "tk_1", Scope.WRITE), pb.AUDIT_ACTION_DELETE_SURVEY, "s1")

    (event,), _ = await gateways.database.read(lambda connection: audit_rows.page(connection, "", 10, None))
    age_s = datetime.now(UTC).timestamp() - event.happened_at.ToMicroseconds() / 1e6
    assert -5 < age_s < 60
    assert (event.tenant, event.token_id, event.action, event.subject) == (
        "team",
        "tk_1",
        pb.AUDIT_ACTION_DELETE_SURVEY,
        "s1",
    )


async def test_a_deed_that_fails_leaves_no_record(gateways: Gateways):
    def work(connection: Any) -> None:
        audit.record(connection, LOCAL, pb.AUDIT_ACTION_UPDATE_TENANT, "team")
        tenants.replace(connection, FULL)

    with pytest.raises(NotFound):
        await gateways.database.run(work)

    assert await gateways.sql("SELECT * FROM audit") == []
