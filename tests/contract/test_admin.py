"""What AdminService promises: tenants, tokens, and the record of what was done."""

import math
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paperroute.v1 import admin_service_pb2 as pb
from paperroute.v1 import survey_service_pb2 as survey_pb
from replicas import ADMIN_TOKEN, Replica, replica
from survey_rows import Gateways

from gateway.access.tokens import ADMIN_TOKEN_ID
from gateway.api import convert_admin
from services.common.errors import InvalidRequest, reason_in, violations_in

READ, WRITE, ADMIN = pb.TOKEN_SCOPE_READ, pb.TOKEN_SCOPE_WRITE, pb.TOKEN_SCOPE_ADMIN
NO_TOKEN = "tk_0000000000000000"


@pytest.fixture
async def served(gateways: Gateways) -> AsyncIterator[Replica]:
    async with replica(gateways.database, max_requests_per_s=1_000) as made:
        yield made


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return failure.value


async def broken_fields(call: Any) -> list[str]:
    failure = await failure_of(call)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    return [violation.field for violation in violations_in(failure)]


async def is_good(served: Replica, secret: str) -> bool:
    code = await served.surveys(secret).GetSurvey(survey_pb.GetSurveyRequest(), timeout=10).code()
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED}
    return code is grpc.StatusCode.OK


def create(served: Replica, **fields: Any) -> Any:
    return served.admin().CreateTenant(pb.CreateTenantRequest(tenant=pb.Tenant(**fields)), timeout=10)


def update(served: Replica, **fields: Any) -> Any:
    return served.admin().UpdateTenant(pb.UpdateTenantRequest(tenant=pb.Tenant(**fields)), timeout=10)


def rotate(served: Replica, token: str, **fields: Any) -> Any:
    return served.admin(token).RotateToken(pb.RotateTokenRequest(**fields), timeout=10)


def revoke(served: Replica, token_id: str) -> Any:
    return served.admin().RevokeToken(pb.RevokeTokenRequest(token_id=token_id), timeout=10)


async def audit(served: Replica, **fields: Any) -> list[pb.AuditEvent]:
    answer = await served.admin().ListAuditEvents(pb.ListAuditEventsRequest(**fields), timeout=10)
    return list(answer.events)


# Tenants


async def test_tenants_are_set_up_listed_and_changed(served: Replica):
    made = (await create(served, tenant="vision", max_running_surveys=3, max_month_cost_nano_usd=7)).tenant
    await create(served, tenant="audio")
    changed = (await update(served, tenant="vision", max_queued_surveys=4)).tenant

    listed = (await served.admin().ListTenants(pb.ListTenantsRequest(), timeout=10)).tenants
    assert [tenant.tenant for tenant in listed] == ["audio", "vision"]
    assert listed[1] == changed
    assert (made.max_running_surveys, changed.max_running_surveys, changed.max_queued_surveys) == (3, 0, 4)
    assert made.HasField("max_month_cost_nano_usd")
    assert not changed.HasField("max_month_cost_nano_usd")
    assert made.created_at == changed.created_at
    assert abs(made.created_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_tenant_of_that_name_already_exists(served: Replica):
    await create(served, tenant="vision")

    failure = await failure_of(create(served, tenant="vision", max_running_surveys=1))

    assert failure.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_in(failure) == "ALREADY_EXISTS"


async def test_a_tenant_that_is_not_there_cannot_be_changed(served: Replica):
    assert (await failure_of(update(served, tenant="vision"))).code() is grpc.StatusCode.NOT_FOUND
    token = served.admin().CreateToken(pb.CreateTokenRequest(tenant="vision", scope=READ), timeout=10)
    assert (await failure_of(token)).code() is grpc.StatusCode.NOT_FOUND


async def test_all_broken_limits_are_named_at_once(served: Replica):
    limits: dict[str, Any] = {
        "tenant": "No Such Name",
        "max_running_surveys": 10_001,
        "max_queued_surveys": 100_001,
        "max_month_cost_nano_usd": -1,
        "allowed_models": ["openai:*", "two words", "", "a,b", "x" * 201, "\x00"],
        "max_requests_per_s": math.inf,
    }
    for call in (create(served, **limits), update(served, **limits)):
        assert await broken_fields(call) == [
            "tenant.tenant",
            "tenant.max_running_surveys",
            "tenant.max_queued_surveys",
            "tenant.max_month_cost_nano_usd",
            *[f"tenant.allowed_models[{position}]" for position in range(1, 6)],
            "tenant.max_requests_per_s",
        ]
    many = create(served, tenant="a", allowed_models=["a:b"] * 101, max_requests_per_s=math.nan)
    assert await broken_fields(many) == ["tenant.allowed_models", "tenant.max_requests_per_s"]


@pytest.mark.parametrize("name", ["", "-a", ".a", "A", "a b", "a/b", "ä", "a\n", "a" * 64, "a\x00"])
def test_names_that_no_tenant_may_have(name: str):
    with pytest.raises(InvalidRequest):
        convert_admin.check_tenant(pb.Tenant(tenant=name))


@pytest.mark.parametrize("name", ["a", "0", "a-b_c.d", "a" * 63])
def test_names_that_a_tenant_may_have(name: str):
    convert_admin.check_tenant(pb.Tenant(tenant=name))


async def test_the_highest_limits_are_kept(served: Replica):
    highest = {
        "max_running_surveys": 10_000,
        "max_queued_surveys": 100_000,
        "max_month_cost_nano_usd": 2**63 - 1,
        "allowed_models": [f"openai:{'x' * 193}"] * 100,
        "max_requests_per_s": 100_000.0,
    }
    made = (await create(served, tenant="a" * 63, **highest)).tenant

    assert {name: getattr(made, name) for name in highest} == highest


async def test_a_new_rate_is_in_force_at_once(served: Replica):
    await create(served, tenant="vision", max_requests_per_s=1_000)
    secret = (await served.token("vision")).secret
    assert await is_good(served, secret)

    await update(served, tenant="vision", max_requests_per_s=0.001)

    assert await is_good(served, secret)
    failure = await failure_of(served.surveys(secret).GetSurvey(survey_pb.GetSurveyRequest(), timeout=10))
    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Tokens


async def test_a_token_is_made_listed_and_used(served: Replica):
    await create(served, tenant="vision")
    expires = Timestamp(seconds=int(datetime.now(UTC).timestamp()) + 3_600)
    made = await served.token("vision", WRITE, name="ci", expires_at=expires)

    assert re.fullmatch(r"pr_[A-Za-z0-9_-]{43}", made.secret)
    assert re.fullmatch(r"tk_[A-Za-z0-9]{16}", made.token.token_id)
    assert (made.token.tenant, made.token.name, made.token.scope) == ("vision", "ci", WRITE)
    assert made.token.expires_at == expires
    assert not made.token.HasField("revoked_at")
    assert not made.token.HasField("last_used_at")
    assert await is_good(served, made.secret)

    (listed,) = (await served.admin().ListTokens(pb.ListTokensRequest(), timeout=10)).tokens
    assert listed == made.token
    assert made.secret not in str(listed)


async def test_tokens_are_listed_newest_first_and_by_tenant(served: Replica):
    for tenant in ("a", "b"):
        await create(served, tenant=tenant)
    made = [(await served.token(tenant)).token.token_id for tenant in ("a", "b", "a")]

    async def listed(tenant: str) -> list[str]:
        answer = await served.admin().ListTokens(pb.ListTokensRequest(tenant=tenant), timeout=10)
        return [token.token_id for token in answer.tokens]

    assert await listed("") == made[::-1]
    assert await listed("a") == [made[2], made[0]]
    assert await listed("c") == []


async def test_the_last_use_is_told_to_the_minute(served: Replica, gateways: Gateways):
    await create(served, tenant="vision")
    made = await served.token("vision")
    assert await is_good(served, made.secret)
    await served.access.tokens._write()

    (listed,) = (await served.admin().ListTokens(pb.ListTokensRequest(), timeout=10)).tokens
    assert listed.last_used_at.seconds % 60 == 0
    assert timedelta() <= datetime.now(UTC) - listed.last_used_at.ToDatetime(tzinfo=UTC) < timedelta(minutes=2)


async def test_all_broken_fields_of_a_new_token_are_named_at_once(served: Replica):
    past = Timestamp(seconds=1_000)
    request = pb.CreateTokenRequest(tenant="", name="x" * 101, expires_at=past)
    assert await broken_fields(served.admin().CreateToken(request, timeout=10)) == [
        "tenant",
        "name",
        "scope",
        "expires_at",
    ]
    request = pb.CreateTokenRequest(tenant="a", name="\x00", scope=9, expires_at=Timestamp(seconds=2**62))
    assert await broken_fields(served.admin().CreateToken(request, timeout=10)) == ["name", "scope", "expires_at"]


async def test_the_end_of_all_time_is_a_moment_too(served: Replica):
    await create(served, tenant="vision")
    last = Timestamp(seconds=253_402_300_799, nanos=999_999_999)

    made = await served.token("vision", expires_at=last)

    assert made.token.expires_at.ToDatetime().year == 9999


@pytest.mark.parametrize("scope", [READ, WRITE, ADMIN])
async def test_a_token_may_rotate_itself_with_any_scope(served: Replica, scope: pb.TokenScope.ValueType):
    await create(served, tenant="vision")
    made = await served.token("vision", scope)

    rotated = await rotate(served, made.secret)
    again = await rotate(served, rotated.secret, token_id=made.token.token_id)

    assert rotated.token.token_id == again.token.token_id == made.token.token_id
    assert len({made.secret, rotated.secret, again.secret}) == 3
    assert [await is_good(served, secret) for secret in (made.secret, rotated.secret, again.secret)] == [
        False,
        False,
        True,
    ]


async def test_the_old_secret_is_good_for_the_grace_time(served: Replica, gateways: Gateways):
    await create(served, tenant="vision")
    made = await served.token("vision")
    rotated = await rotate(served, ADMIN_TOKEN, token_id=made.token.token_id, grace_s=604_800)

    assert await is_good(served, made.secret)
    assert await is_good(served, rotated.secret)
    await gateways.sql("UPDATE token SET old_until = old_until - 604801")
    served.access.tokens.forget()
    assert not await is_good(served, made.secret)
    assert await is_good(served, rotated.secret)


async def test_an_old_secret_cannot_make_itself_a_new_one(served: Replica):
    """Else who found an old secret within its grace time would have the token for good."""
    await create(served, tenant="vision")
    made = await served.token("vision", WRITE)
    rotated = await rotate(served, made.secret, grace_s=1_000)

    failure = await failure_of(rotate(served, made.secret))

    assert failure.code() is grpc.StatusCode.PERMISSION_DENIED
    assert await is_good(served, rotated.secret)


@pytest.mark.parametrize("scope", [READ, WRITE])
async def test_another_token_is_rotated_by_an_admin_only(served: Replica, scope: pb.TokenScope.ValueType):
    """And who may not learns nothing of whether it is there."""
    await create(served, tenant="vision")
    mine, other = await served.token("vision", scope), await served.token("vision")

    for token_id in (other.token.token_id, NO_TOKEN, "nonsense"):
        failure = await failure_of(rotate(served, mine.secret, token_id=token_id))
        assert failure.code() is grpc.StatusCode.PERMISSION_DENIED
    admin = await served.token("vision", ADMIN)
    rotated = await rotate(served, admin.secret, token_id=other.token.token_id)
    assert await is_good(served, rotated.secret)


async def test_a_rotation_that_makes_no_sense_is_refused(served: Replica):
    assert await broken_fields(rotate(served, ADMIN_TOKEN, grace_s=604_801)) == ["grace_s", "token_id"]
    assert await broken_fields(rotate(served, ADMIN_TOKEN, token_id=ADMIN_TOKEN_ID)) == ["token_id"]
    await create(served, tenant="vision")
    made = await served.token("vision")
    await revoke(served, made.token.token_id)
    for token_id in (made.token.token_id, NO_TOKEN, "tk_\x00", "x" * 10_000):
        failure = await failure_of(rotate(served, ADMIN_TOKEN, token_id=token_id))
        assert failure.code() is grpc.StatusCode.NOT_FOUND


async def test_a_revoked_token_ends_at_once_and_for_good(served: Replica):
    await create(served, tenant="vision")
    made = await served.token("vision")
    assert await is_good(served, made.secret)

    ended = (await revoke(served, made.token.token_id)).token
    again = (await revoke(served, made.token.token_id)).token

    assert not await is_good(served, made.secret)
    assert ended.HasField("revoked_at")
    assert again.revoked_at == ended.revoked_at
    for token_id in (NO_TOKEN, "", "tk_\x00"):
        assert (await failure_of(revoke(served, token_id))).code() is grpc.StatusCode.NOT_FOUND


async def test_the_first_admin_sets_up_the_others(served: Replica):
    """With the token of the settings alone, everything else can be made."""
    await create(served, tenant="platform")
    admin = await served.token("platform", ADMIN)
    request = pb.CreateTenantRequest(tenant=pb.Tenant(tenant="vision"))

    await served.admin(admin.secret).CreateTenant(request, timeout=10)

    assert [(event.tenant, event.token_id) for event in await audit(served)] == [
        ("platform", admin.token.token_id),
        ("default", ADMIN_TOKEN_ID),
        ("default", ADMIN_TOKEN_ID),
    ]


async def test_tokens_can_be_made_before_they_are_asked_for(gateways: Gateways):
    """So that a gateway can be closed to strangers without a moment in which nobody can use it."""
    async with replica(gateways.database, auth="off", admin_token=None) as opened:
        await opened.admin("").CreateTenant(pb.CreateTenantRequest(tenant=pb.Tenant(tenant="vision")), timeout=10)
        request = pb.CreateTokenRequest(tenant="vision", scope=READ)
        secret = (await opened.admin("").CreateToken(request, timeout=10)).secret
        assert await broken_fields(opened.admin("").RotateToken(pb.RotateTokenRequest(), timeout=10)) == ["token_id"]
    async with replica(gateways.database, admin_token=None) as closed:
        assert await is_good(closed, secret)


# The record


async def test_every_change_is_recorded_once(served: Replica):
    await create(served, tenant="vision")
    await update(served, tenant="vision")
    made = await served.token("vision")
    token_id = made.token.token_id
    await rotate(served, made.secret)
    await revoke(served, token_id)
    await revoke(served, token_id)
    for refused in (create(served, tenant="vision"), update(served, tenant="x"), revoke(served, NO_TOKEN)):
        await failure_of(refused)

    events = await audit(served)
    assert [(event.action, event.subject, event.tenant, event.token_id) for event in events[::-1]] == [
        (pb.AUDIT_ACTION_CREATE_TENANT, "vision", "default", ADMIN_TOKEN_ID),
        (pb.AUDIT_ACTION_UPDATE_TENANT, "vision", "default", ADMIN_TOKEN_ID),
        (pb.AUDIT_ACTION_CREATE_TOKEN, token_id, "default", ADMIN_TOKEN_ID),
        (pb.AUDIT_ACTION_ROTATE_TOKEN, token_id, "vision", token_id),
        (pb.AUDIT_ACTION_REVOKE_TOKEN, token_id, "default", ADMIN_TOKEN_ID),
    ]
    assert [event.subject for event in await audit(served, tenant="vision")] == [token_id]
    assert all(event.happened_at.seconds > 0 for event in events)


async def test_the_record_comes_in_pages_without_gap_and_repeat(served: Replica):
    names = [f"t{number}" for number in range(7)]
    for name in names:
        await create(served, tenant=name)
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListAuditEventsRequest(page_size=3, page_token=token)
        page = await served.admin().ListAuditEvents(request, timeout=10)
        found += [event.subject for event in page.events]
        token = page.next_page_token
        if not token:
            break
        await create(served, tenant=f"later-{len(found)}")  # what is new does not move the pages

    assert found == names[::-1]


async def test_a_page_is_of_100_events_unless_told_otherwise(served: Replica, gateways: Gateways):
    await gateways.sql(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1001) "
        "INSERT INTO audit (happened_at, tenant, token_id, action, subject) SELECT n, 'a', '', 1, 's' FROM numbers"
    )

    assert len(await audit(served)) == 100
    assert len(await audit(served, page_size=1_000)) == 1_000


async def test_a_page_that_cannot_be_asked_for_is_refused(served: Replica):
    for token in ("x", "0", "-1", "1.5", "9" * 19, "1 OR 1=1", "１"):
        request = pb.ListAuditEventsRequest(page_size=1_001, page_token=token, tenant="No")
        call = served.admin().ListAuditEvents(request, timeout=10)
        assert await broken_fields(call) == ["tenant", "page_size", "page_token"]
    call = served.admin().ListTokens(pb.ListTokensRequest(tenant="\x00"), timeout=10)
    assert await broken_fields(call) == ["tenant"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_text_in_any_field_is_a_bug(data: st.DataObject, served: Replica):
    """Neither database may choke on what a field holds: every answer is one that the contract names."""
    text = st.text(max_size=120) | st.sampled_from(["tk_" + "a" * 16, "a", "\x00", "'; DROP TABLE token; --"])
    number = st.integers(0, 2**32 - 1)
    requests = [
        ("CreateTenant", pb.CreateTenantRequest(tenant=pb.Tenant(tenant=data.draw(text)))),
        ("UpdateTenant", pb.UpdateTenantRequest(tenant=pb.Tenant(tenant="a", allowed_models=[data.draw(text)]))),
        ("CreateToken", pb.CreateTokenRequest(tenant="a", name=data.draw(text), scope=data.draw(st.integers(-1, 5)))),
        ("ListTokens", pb.ListTokensRequest(tenant=data.draw(text))),
        ("RotateToken", pb.RotateTokenRequest(token_id=data.draw(text), grace_s=data.draw(number))),
        ("RevokeToken", pb.RevokeTokenRequest(token_id=data.draw(text))),
        ("ListAuditEvents", pb.ListAuditEventsRequest(page_token=data.draw(text), page_size=data.draw(number))),
    ]
    allowed = {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
    }
    admin = served.admin()
    for method, request in requests:
        call = getattr(admin, method)(request, timeout=10)
        assert await call.code() in allowed, (method, request)
