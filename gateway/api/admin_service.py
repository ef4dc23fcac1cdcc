"""The servicer of AdminService: tenants, their tokens, and what was done."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from paperroute.v1 import admin_service_pb2 as pb
from paperroute.v1 import admin_service_pb2_grpc as pb_grpc

from gateway.access import audit
from gateway.access.access import Access
from gateway.access.principal import Principal, Scope, principal
from gateway.access.tokens import digest_of, new_secret, new_token_id
from gateway.api import convert_admin as convert
from gateway.store import audit as audit_rows
from gateway.store import tenants, tokens
from gateway.store.tokens import NewToken, StoredToken
from services.common.database import Database
from services.common.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

Context = grpc.aio.ServicerContext[Any, Any]


class AdminService(pb_grpc.AdminServiceServicer):
    """Serves AdminService; the guard has asked for the scope, here only who rotates a token is looked at."""

    def __init__(self, database: Database, access: Access) -> None:
        self._database = database
        self._access = access

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Context) -> pb.CreateTenantResponse:
        """Set up a tenant."""
        convert.check_tenant(request.tenant)
        return pb.CreateTenantResponse(
            tenant=await self._set_up(request.tenant, tenants.create, pb.AUDIT_ACTION_CREATE_TENANT)
        )

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Context) -> pb.ListTenantsResponse:
        """Return all tenants."""
        return pb.ListTenantsResponse(tenants=await self._database.read(tenants.every))

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: Context) -> pb.UpdateTenantResponse:
        """Replace the limits of a tenant."""
        convert.check_tenant(request.tenant)
        return pb.UpdateTenantResponse(
            tenant=await self._set_up(request.tenant, tenants.replace, pb.AUDIT_ACTION_UPDATE_TENANT)
        )

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """Make a token and return its secret, this once."""
        convert.check_create_token(request, datetime.now(UTC))
        who, secret = principal(), new_secret()
        new = NewToken(
            token_id=new_token_id(),
            tenant=request.tenant,
            name=request.name,
            scope=request.scope,
            hash=digest_of(secret),
            expires_at=convert.expiry_of(request),
        )

        def work(connection: "Connection") -> StoredToken:
            tenants.require(connection, new.tenant)
            audit.record(connection, who, pb.AUDIT_ACTION_CREATE_TOKEN, new.token_id)
            return tokens.create(connection, new)

        token = await self._database.run(work)
        return pb.CreateTokenResponse(token=convert.token_message(token), secret=secret)

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        """Return tokens without their secrets."""
        convert.check_list_tokens(request)
        found = await self._database.read(lambda connection: tokens.every(connection, request.tenant))
        return pb.ListTokensResponse(tokens=map(convert.token_message, found))

    async def RotateToken(self, request: pb.RotateTokenRequest, context: Context) -> pb.RotateTokenResponse:
        """Give a token a new secret and return it, this once."""
        who, secret = principal(), new_secret()
        token_id = convert.check_rotate(request, who)
        _require_own(who, token_id)
        convert.require_token_id(token_id)

        def work(connection: "Connection") -> StoredToken:
            audit.record(connection, who, pb.AUDIT_ACTION_ROTATE_TOKEN, token_id)
            return tokens.rotate(connection, token_id, digest_of(secret), request.grace_s)

        token = await self._database.run(work)
        self._access.tokens.forget()
        return pb.RotateTokenResponse(token=convert.token_message(token), secret=secret)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        """End a token."""
        who = principal()
        convert.require_token_id(request.token_id)

        def work(connection: "Connection") -> StoredToken:
            token, is_new = tokens.revoke(connection, request.token_id)
            if is_new:
                audit.record(connection, who, pb.AUDIT_ACTION_REVOKE_TOKEN, token.token_id)
            return token

        token = await self._database.run(work)
        self._access.tokens.forget()
        return pb.RevokeTokenResponse(token=convert.token_message(token))

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Context) -> pb.ListAuditEventsResponse:
        """Return a page of what was done, newest first."""
        before = convert.check_list_audit(request)
        size = request.page_size or convert.DEFAULT_PAGE_SIZE
        events, rest = await self._database.read(
            lambda connection: audit_rows.page(connection, request.tenant, size, before)
        )
        return pb.ListAuditEventsResponse(events=events, next_page_token=str(rest) if rest else "")

    async def _set_up(
        self,
        tenant: pb.Tenant,
        change: "Callable[[Connection, pb.Tenant], pb.Tenant]",
        action: pb.AuditAction.ValueType,
    ) -> pb.Tenant:
        who = principal()

        def work(connection: "Connection") -> pb.Tenant:
            changed = change(connection, tenant)
            audit.record(connection, who, action, tenant.tenant)
            return changed

        changed = await self._database.run(work)
        self._access.limits.forget()
        return changed


def _require_own(who: Principal, token_id: str) -> None:
    """Refuse who rotates another token than its own without the scope for it.

    So is the secret before the last rotation: it is good for a while, and may not buy itself more time.

    Raises:
        Forbidden: the scope admin is needed.
    """
    if who.scope < Scope.ADMIN and (who.token_id != token_id or who.is_old_secret):
        raise Forbidden("admin")
