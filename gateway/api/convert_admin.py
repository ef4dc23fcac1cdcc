"""Requests of AdminService: every field rule, and the messages of tokens."""

import re
from datetime import datetime

from paperroute.v1 import admin_service_pb2 as pb

from gateway.access.principal import Principal
from gateway.access.tokens import ADMIN_TOKEN_ID
from gateway.store.moments import seconds_of, timestamp_at
from gateway.store.tokens import StoredToken
from services.common.errors import NotFound
from services.common.fields import FieldChecks
from services.common.papers import check_moment, moment_of

MAX_RUNNING = 10_000
MAX_QUEUED = 100_000
MAX_REQUESTS_PER_S = 100_000
MAX_PATTERNS = 100
MAX_NAME = 100
MAX_GRACE_S = 604_800
MAX_PAGE_SIZE = 1_000
DEFAULT_PAGE_SIZE = 100
LAST_MOMENT_S = 253_402_300_799.0
"""The last second of the year 9999: a later one, or this one rounded up, is no moment any more."""
_TENANT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_PATTERN = re.compile(r"[^\s,\x00-\x1f]{1,200}")
_TOKEN_ID = re.compile(r"tk_[0-9a-f]{16}")
_PAGE_TOKEN = re.compile(r"[1-9][0-9]{0,17}")


def check_tenant(tenant: pb.Tenant) -> None:
    """Check a Tenant that is to be set up or changed; what the server sets is not looked at.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    _check_name(checks, "tenant.tenant", tenant.tenant)
    checks.number("tenant.max_running_surveys", tenant.max_running_surveys, 1, MAX_RUNNING)
    checks.number("tenant.max_queued_surveys", tenant.max_queued_surveys, 1, MAX_QUEUED)
    cost = tenant.max_month_cost_nano_usd
    checks.require(cost >= 0, "tenant.max_month_cost_nano_usd", f"0 or more, not {cost:,}")
    checks.count("tenant.allowed_models", len(tenant.allowed_models), 0, MAX_PATTERNS)
    for position, pattern in enumerate(tenant.allowed_models[:MAX_PATTERNS]):
        is_pattern = _PATTERN.fullmatch(pattern) is not None
        field = f"tenant.allowed_models[{position}]"
        checks.require(
            is_pattern, field, 'a pattern such as "openai:*", of 1 to 200 characters without blanks and commas'
        )
    rate = tenant.max_requests_per_s
    checks.require(  # what is not a number is not in the range either
        0 <= rate <= MAX_REQUESTS_PER_S, "tenant.max_requests_per_s", f"0 to {MAX_REQUESTS_PER_S:,}, not {rate:g}"
    )
    checks.finish()


def check_create_token(request: pb.CreateTokenRequest, now: datetime) -> None:
    """Check a CreateTokenRequest.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    _check_name(checks, "tenant", request.tenant)
    checks.length("name", request.name, 0, MAX_NAME)
    if checks.require(request.scope != pb.TOKEN_SCOPE_UNSPECIFIED, "scope", "read, write or admin; it is required"):
        checks.enum("scope", request.scope, pb.TokenScope)
    if request.HasField("expires_at") and check_moment(checks, "expires_at", request.expires_at):
        checks.require(moment_of(request.expires_at) > now, "expires_at", "a moment in the future")
    checks.finish()


def check_list_tokens(request: pb.ListTokensRequest) -> None:
    """Check a ListTokensRequest.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    if request.tenant:
        _check_name(checks, "tenant", request.tenant)
    checks.finish()


def check_list_audit(request: pb.ListAuditEventsRequest) -> int | None:
    """Check a ListAuditEventsRequest and return the number its page begins before; None is the first page.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    if request.tenant:
        _check_name(checks, "tenant", request.tenant)
    checks.number("page_size", request.page_size, 1, MAX_PAGE_SIZE)
    is_token = not request.page_token or _PAGE_TOKEN.fullmatch(request.page_token) is not None
    checks.require(is_token, "page_token", "next_page_token of the page before, or nothing")
    checks.finish()
    return int(request.page_token) if request.page_token else None


def check_rotate(request: pb.RotateTokenRequest, caller: Principal) -> str:
    """Check a RotateTokenRequest and return which token it means.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    checks.require(
        request.grace_s <= MAX_GRACE_S, "grace_s", f"at most {MAX_GRACE_S:,} seconds, not {request.grace_s:,}"
    )
    token_id = request.token_id or caller.token_id
    checks.require(bool(token_id), "token_id", "required where requests are made without a token")
    checks.require(
        token_id != ADMIN_TOKEN_ID, "token_id", "this token is a setting; change PAPERROUTE_GATEWAY__ADMIN_TOKEN"
    )
    checks.finish()
    return token_id


def require_token_id(token_id: str) -> None:
    """Refuse what cannot be the id of a token, before a database is asked that may not even take its characters.

    Raises:
        NotFound: there is no such token.
    """
    if not _TOKEN_ID.fullmatch(token_id):
        raise NotFound("token", token_id)


def expiry_of(request: pb.CreateTokenRequest) -> float | None:
    """Return when a token is to expire, in seconds since 1970; None is never."""
    return min(seconds_of(request.expires_at), LAST_MOMENT_S) if request.HasField("expires_at") else None


def token_message(token: StoredToken) -> pb.Token:
    """Return the message of a token; it holds no secret and no hash."""
    message = pb.Token(
        token_id=token.token_id,
        tenant=token.tenant,
        name=token.name,
        scope=token.scope,
        created_at=timestamp_at(token.created_at),
    )
    for name in ("expires_at", "revoked_at", "last_used_at"):
        moment: float | None = getattr(token, name)
        if moment is not None:
            getattr(message, name).CopyFrom(timestamp_at(moment))
    return message


def _check_name(checks: FieldChecks, field: str, tenant: str) -> None:
    rule = 'a-z, 0-9, "-", "_", "."; 1 to 63 characters, the first a letter or a digit'
    checks.require(_TENANT.fullmatch(tenant) is not None, field, f"{rule}; not {tenant[:40]!r}")
