"""The public services of a gateway behind its real guard: AdminService itself, and stand-ins that say who called."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import admin_service_pb2_grpc as admin_grpc
from paperroute.v1 import survey_service_pb2 as survey_pb
from paperroute.v1 import survey_service_pb2_grpc as survey_grpc
from paperroute.v1 import usage_service_pb2 as usage_pb
from paperroute.v1 import usage_service_pb2_grpc as usage_grpc
from pydantic import SecretStr

from gateway.access.access import Access
from gateway.access.guard import AccessGuard
from gateway.access.limits import TenantLimits
from gateway.access.principal import Principal, principal
from gateway.access.tokens import Tokens
from gateway.api.admin_service import AdminService
from gateway.settings import GatewaySettings
from services.common.channel import open_channel
from services.common.database import Database
from services.common.server import UNPROTECTED, Protection, RoleServer
from services.common.settings import ClientSettings

ADMIN_TOKEN = "an-admin-token-of-the-settings"
PUBLIC: Sequence[ServiceDescriptor] = (
    survey_pb.DESCRIPTOR.services_by_name["SurveyService"],
    usage_pb.DESCRIPTOR.services_by_name["UsageService"],
    admin_pb.DESCRIPTOR.services_by_name["AdminService"],
)


def public_methods() -> Iterator[MethodDescriptor]:
    """Yield every method of every public service."""
    for service in PUBLIC:
        yield from service.methods


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


class Callers:
    """Who called the stand-ins; a stream sends one event and goes on until it is let go."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Principal]] = []
        self.let_go = asyncio.Event()
        self.left = asyncio.Event()

    def servicer(self, base: type, service: ServiceDescriptor) -> Any:
        methods = {method.name: self._behaviour(method) for method in service.methods}
        return type(f"Fake{service.name}", (base,), methods)()

    def _behaviour(self, method: MethodDescriptor) -> Any:
        answer = GetMessageClass(method.output_type)

        async def unary(_self: Any, request: Any, context: Any) -> Any:
            self.seen.append((method.name, principal()))
            return answer()

        async def stream(_self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
            self.seen.append((method.name, principal()))
            try:
                yield answer()
                await self.let_go.wait()
                yield answer()
            finally:
                self.left.set()

        return stream if method.server_streaming else unary


class Replica:
    """A gateway's public side, served."""

    def __init__(self, host: RoleServer, access: Access, callers: Callers) -> None:
        self.host, self.access, self.callers = host, access, callers
        self._channels: list[grpc.aio.Channel] = []

    def channel(self, token: str = "") -> grpc.aio.Channel:
        """Return a channel that sends a token, as a client does."""
        client = ClientSettings(token=SecretStr(token)) if token else None
        made = open_channel(self.host.address, client=client)
        self._channels.append(made)
        return made

    def admin(self, token: str = ADMIN_TOKEN) -> Any:
        return admin_grpc.AdminServiceStub(self.channel(token))

    def surveys(self, token: str = "") -> Any:
        return survey_grpc.SurveyServiceStub(self.channel(token))

    async def tenant(self, name: str, **limits: Any) -> str:
        request = admin_pb.CreateTenantRequest(tenant=admin_pb.Tenant(tenant=name, **limits))
        return (await self.admin().CreateTenant(request, timeout=10)).tenant.tenant

    async def token(
        self, tenant: str, scope: admin_pb.TokenScope.ValueType = admin_pb.TOKEN_SCOPE_READ, **fields: Any
    ) -> admin_pb.CreateTokenResponse:
        request = admin_pb.CreateTokenRequest(tenant=tenant, scope=scope, **fields)
        return await self.admin().CreateToken(request, timeout=10)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        await self.host.stop(0)


async def called(channel: grpc.aio.Channel, method: MethodDescriptor, metadata: Any = None) -> None:
    """Call a method with an empty request; of a stream one message is read."""
    types: Any = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    request = GetMessageClass(method.input_type)()
    if method.server_streaming:
        call = channel.unary_stream(path_of(method), **types)(request, timeout=10, metadata=metadata)
        await call.read()
        call.cancel()
    else:
        await channel.unary_unary(path_of(method), **types)(request, timeout=10, metadata=metadata)


@contextlib.asynccontextmanager
async def replica(
    database: Database,
    *,
    protection: Protection = UNPROTECTED,
    max_age_s: float = 0.3,
    patrol_s: float = 0.1,
    **settings: Any,
) -> AsyncIterator[Replica]:
    """Serve the public side of a gateway on a free port.

    Args:
        database: of the gateway, which stays open.
        protection: of the server.
        max_age_s: how old the knowledge of a token may be; short, so that no test waits long for a change.
        patrol_s: from one look at the tokens of streams to the next.
        **settings: other than that tokens are needed and that there is an admin.
    """
    given = GatewaySettings(**{"auth": "tokens", "admin_token": SecretStr(ADMIN_TOKEN), **settings})
    tokens = Tokens(database, given.admin_token, max_age_s=max_age_s)
    limits = TenantLimits(database, given)
    guard = AccessGuard(tokens, limits, needs_tokens=given.auth == "tokens", patrol_s=patrol_s)
    access, callers = Access(tokens=tokens, limits=limits, guard=guard), Callers()
    host = RoleServer("127.0.0.1:0", protection)
    survey, usage, admin = PUBLIC
    survey_grpc.add_SurveyServiceServicer_to_server(
        callers.servicer(survey_grpc.SurveyServiceServicer, survey), host.server
    )
    usage_grpc.add_UsageServiceServicer_to_server(callers.servicer(usage_grpc.UsageServiceServicer, usage), host.server)
    admin_grpc.add_AdminServiceServicer_to_server(AdminService(database, access), host.server)
    host.mounted(admin.full_name, access.close, guard=guard)
    host.mounted(survey.full_name, guard=guard)
    host.mounted(usage.full_name, guard=guard)
    await host.start()
    made = Replica(host, access, callers)
    try:
        yield made
    finally:
        await made.close()
