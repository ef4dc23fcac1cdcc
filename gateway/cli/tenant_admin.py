"""What `paperroute tenants ...` does: it asks a gateway's AdminService and prints the answer."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import admin_service_pb2 as pb
from rich.table import Table

from gateway.cli import report
from gateway.cli.arguments import nano_usd
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_DONE
from gateway.client import RequestFailed
from services.common.markdown import plain
from services.common.paid.money import shown
from services.common.papers import timestamp_of

if TYPE_CHECKING:
    from paperroute.v1 import admin_service_pb2_grpc as pb_grpc

PAGE_SIZE = 1_000
_CENT_PLACES = 2
_OPTIONS = {
    "tenant": "TENANT",
    "max_running_surveys": "--max-running",
    "max_queued_surveys": "--max-queued",
    "max_month_cost_nano_usd": "--max-month-cost",
    "allowed_models": "--models",
    "max_requests_per_s": "--max-requests-per-s",
    "expires_at": "--expires",
    "grace_s": "--grace-s",
    "token_id": "TOKEN_ID",
    "name": "--name",
}
"""What a field of a request is called on the command line."""

Stub: TypeAlias = "pb_grpc.AdminServiceAsyncStub"  # quoted: only the types know the stub by this name


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits as they were given; None was not given."""

    max_running: int | None
    max_queued: int | None
    max_month_cost: str | None
    models: str | None
    max_requests_per_s: float | None

    def set_in(self, tenant: pb.Tenant) -> None:
        """Change those limits of a tenant that were given."""
        if self.max_running is not None:
            tenant.max_running_surveys = self.max_running
        if self.max_queued is not None:
            tenant.max_queued_surveys = self.max_queued
        if self.max_requests_per_s is not None:
            tenant.max_requests_per_s = self.max_requests_per_s
        if self.models is not None:
            tenant.allowed_models[:] = [each.strip() for each in self.models.split(",") if each.strip()]
        if self.max_month_cost:
            tenant.max_month_cost_nano_usd = nano_usd(self.max_month_cost)
        elif self.max_month_cost is not None:
            tenant.ClearField("max_month_cost_nano_usd")


async def list_tenants(gateway: str, *, is_json: bool) -> int:
    """Print all tenants; return the exit status."""

    async def work(stub: Stub) -> int:
        answer = await stub.ListTenants(pb.ListTenantsRequest())
        _show(answer, answer.tenants, _tenant_table, is_json=is_json)
        return EXIT_DONE

    return await _asked(gateway, work)


async def create_tenant(gateway: str, name: str, limits: Limits, *, is_json: bool) -> int:
    """Set up a tenant and print it; return the exit status."""

    async def work(stub: Stub) -> int:
        tenant = pb.Tenant(tenant=name)
        limits.set_in(tenant)
        answer = await stub.CreateTenant(pb.CreateTenantRequest(tenant=tenant))
        _show(answer, [answer.tenant], _tenant_table, is_json=is_json)
        return EXIT_DONE

    return await _asked(gateway, work)


async def update_tenant(gateway: str, name: str, limits: Limits, *, is_json: bool) -> int:
    """Change limits of a tenant and print it; return the exit status."""

    async def work(stub: Stub) -> int:
        known = await stub.ListTenants(pb.ListTenantsRequest())
        tenant = next((each for each in known.tenants if each.tenant == name), pb.Tenant(tenant=name))
        limits.set_in(tenant)
        answer = await stub.UpdateTenant(pb.UpdateTenantRequest(tenant=tenant))
        _show(answer, [answer.tenant], _tenant_table, is_json=is_json)
        return EXIT_DONE

    return await _asked(gateway, work)


async def list_tokens(gateway: str, tenant: str, *, is_json: bool) -> int:
    """Print tokens; return the exit status."""

    async def work(stub: Stub) -> int:
        answer = await stub.ListTokens(pb.ListTokensRequest(tenant=tenant))
        _show(answer, answer.tokens, _token_table, is_json=is_json)
        return EXIT_DONE

    return await _asked(gateway, work)


async def create_token(
    gateway: str, tenant: str, scope: str, name: str, expires: datetime | None, *, is_json: bool
) -> int:
    """Make a token and print its secret; return the exit status."""

    async def work(stub: Stub) -> int:
        request = pb.CreateTokenRequest(
            tenant=tenant, name=name, scope=pb.TokenScope.Value(f"TOKEN_SCOPE_{scope.upper()}")
        )
        if expires:
            request.expires_at.CopyFrom(timestamp_of(expires.replace(tzinfo=UTC)))
        _show_secret(await stub.CreateToken(request), is_json=is_json)
        return EXIT_DONE

    return await _asked(gateway, work)


async def rotate_token(gateway: str, token_id: str, grace_s: int, *, is_json: bool) -> int:
    """Give a token a new secret and print it; return the exit status."""

    async def work(stub: Stub) -> int:
        request = pb.RotateTokenRequest(token_id=token_id, grace_s=grace_s)
        _show_secret(await stub.RotateToken(request), is_json=is_json)
        return EXIT_DONE

    return await _asked(gateway, work)


async def revoke_token(gateway: str, token_id: str, *, is_json: bool) -> int:
    """End a token and print it; return the exit status."""

    async def work(stub: Stub) -> int:
        answer = await stub.RevokeToken(pb.RevokeTokenRequest(token_id=token_id))
        _show(answer, [answer.token], _token_table, is_json=is_json)
        return EXIT_DONE

    return await _asked(gateway, work)


async def show_audit(gateway: str, tenant: str, limit: int, *, is_json: bool) -> int:
    """Print what was done; return the exit status."""

    async def work(stub: Stub) -> int:
        found = pb.ListAuditEventsResponse()
        while True:
            request = pb.ListAuditEventsRequest(
                tenant=tenant,
                page_size=min(PAGE_SIZE, limit - len(found.events)),
                page_token=found.next_page_token,
            )
            page = await stub.ListAuditEvents(request)
            found.events.extend(page.events)
            found.next_page_token = page.next_page_token
            if not page.next_page_token or len(found.events) >= limit:
                break
        _show(found, found.events, _audit_table, is_json=is_json)
        return EXIT_DONE

    return await _asked(gateway, work)


async def _asked(gateway: str, work: Callable[[Stub], Awaitable[int]]) -> int:
    """Do `work` with a gateway; say what it refuses, and return the exit status.

    Raises:
        SettingsError: the variables that say how to reach a gateway cannot be used.
    """
    async with reached(gateway) as client:
        try:
            return await work(client.admin)
        except RequestFailed as failure:
            return report.refused(failure, _line_of)


def _line_of(field: str, description: str) -> str:
    name = field.removeprefix("tenant.").partition("[")[0]
    return f"{_OPTIONS.get(name, name)}: {description}"


def _show(answer: Message, items: Sequence[Any], table_of: Callable[[Sequence[Any]], Table], *, is_json: bool) -> None:
    if is_json:
        click.echo(MessageToJson(answer, ensure_ascii=False, always_print_fields_with_no_presence=True))
        return
    report.show_table(table_of(items))


def _show_secret(answer: pb.CreateTokenResponse | pb.RotateTokenResponse, *, is_json: bool) -> None:
    """Print a secret, once: alone on standard output, so that a shell can take it from there."""
    if is_json:
        click.echo(MessageToJson(answer, ensure_ascii=False, always_print_fields_with_no_presence=True))
        return
    token = answer.token
    ends = f"ends {_moment(token.expires_at)} UTC" if token.HasField("expires_at") else "does not expire"
    report.tell(f"Token {token.token_id} of {plain(token.tenant)}, scope {_scope(token)}, {ends}.")
    report.tell("Its secret cannot be shown again:")
    click.echo(f"export PAPERROUTE_TOKEN={answer.secret}")


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _tenant_table(tenants: Sequence[pb.Tenant]) -> Table:
    table = _table("tenant", "running", "queued", "requests/s", "month", "reserved", "of at most", "models", "created")
    for tenant in tenants:
        has_limit = tenant.HasField("max_month_cost_nano_usd")
        table.add_row(
            plain(tenant.tenant),
            _number(tenant.max_running_surveys),
            _number(tenant.max_queued_surveys),
            _number(tenant.max_requests_per_s),
            f"${shown(tenant.month_spent_nano_usd, _CENT_PLACES)}",
            f"${shown(tenant.month_reserved_nano_usd, _CENT_PLACES)}",
            f"${shown(tenant.max_month_cost_nano_usd, _CENT_PLACES)}" if has_limit else "no limit",
            plain(", ".join(tenant.allowed_models)) or "default",
            _moment(tenant.created_at),
        )
    return table


def _token_table(tokens: Sequence[pb.Token]) -> Table:
    table = _table("token", "tenant", "name", "scope", "state", "created", "expires", "last used")
    for token in tokens:
        table.add_row(
            token.token_id,
            plain(token.tenant),
            plain(token.name),
            _scope(token),
            _state(token),
            _moment(token.created_at),
            _moment(token.expires_at) if token.HasField("expires_at") else "never",
            _moment(token.last_used_at) if token.HasField("last_used_at") else "never",
        )
    return table


def _audit_table(events: Sequence[pb.AuditEvent]) -> Table:
    table = _table("when", "tenant", "token", "what", "to")
    for event in events:
        what = pb.AuditAction.Name(event.action).removeprefix("AUDIT_ACTION_").lower().replace("_", " ")
        table.add_row(_moment(event.happened_at), plain(event.tenant), event.token_id, what, plain(event.subject))
    return table


def _state(token: pb.Token) -> str:
    if token.HasField("revoked_at"):
        return "revoked"
    has_expired = token.HasField("expires_at") and token.expires_at.ToDatetime(tzinfo=UTC) <= datetime.now(UTC)
    return "expired" if has_expired else "good"


def _scope(token: pb.Token) -> str:
    return pb.TokenScope.Name(token.scope).removeprefix("TOKEN_SCOPE_").lower()


def _moment(timestamp: Timestamp) -> str:
    return f"{timestamp.ToDatetime(tzinfo=UTC):%Y-%m-%d %H:%M}"


def _number(value: float) -> str:
    return f"{value:,g}" if value else "default"
