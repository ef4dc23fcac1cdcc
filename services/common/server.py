"""The server every role runs on: health, reflection, errors, traces, draining."""

import asyncio
import logging
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import SecretStr

from services.common.addresses import is_loopback
from services.common.channel import MAX_MESSAGE_BYTES
from services.common.error_interceptor import ErrorInterceptor
from services.common.guards import Guard, Guards, service_guard
from services.common.settings import PREFIX, SettingsError
from services.common.telemetry.propagation import ServerTracing
from services.common.tls import ServerTls

logger = logging.getLogger(__name__)
T = TypeVar("T")

CONNECTION_AGE_S = 60
"""After this long a client is asked to reconnect, so that it looks its addresses up again and finds new workers."""
CONNECTION_GRACE_S = 3_600
"""Longest a call may go on after that: longer than the longest survey that is watched."""
MAX_PENDING_REQUESTS = 100_000
"""Requests that wait for their handler to begin; a survey of 500 papers sends 500 at once."""
DRAIN_S = 10
"""Longest a stopping server waits for the calls under way."""


_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Protection:
    """What keeps strangers from the services of a server."""

    service_token: SecretStr | None = None
    """What callers of the services without a guard of their own must show; None lets everybody call them."""
    tls: ServerTls | None = None
    """Certificates of the port; None encrypts nothing."""
    missing: tuple[str, ...] = (f"{PREFIX}SERVICE_TOKEN",)
    """Settings without which strangers should not reach the server, so that it listens on loopback only."""
    allow_insecure_listen: bool = False
    """Whether it may listen elsewhere all the same."""


UNPROTECTED = Protection()


class RoleServer:
    """A gRPC server that services are mounted on; bound at once, serving after `start`."""

    def __init__(self, listen: str, protection: Protection = UNPROTECTED) -> None:
        """Bind to `listen`, "host:port"; port 0 picks a free one.

        Raises:
            SettingsError: the address is taken, malformed, or beyond loopback without what protects it there; or the
                certificates cannot be used.
        """
        if protection.missing and not (protection.allow_insecure_listen or is_loopback(listen)):
            raise SettingsError(
                [
                    f"{listen}: refusing to listen beyond loopback without {', '.join(protection.missing)}; "
                    f"set {PREFIX}ALLOW_INSECURE_LISTEN=true only where the network itself is protected"
                ]
            )
        self._guards = Guards(service_guard(protection.service_token) if protection.service_token else None)
        self._guards.put(_HEALTH, None)
        self.server = grpc.aio.server(
            interceptors=[ServerTracing(), ErrorInterceptor(), self._guards],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_S * 1_000),
                ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_S * 1_000),
                # Beyond 1,000 waiting requests grpc drops new ones at random; ours are bounded by who sends them.
                ("grpc.server.max_pending_requests", MAX_PENDING_REQUESTS),
                ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_REQUESTS),
                ("grpc.so_reuseport", 0),  # two servers on one port would each get half of the calls
            ],
        )
        self._is_encrypted = protection.tls is not None
        try:
            if protection.tls:
                self.port = self.server.add_secure_port(listen, protection.tls.credentials())
            else:
                self.port = self.server.add_insecure_port(listen)
        except RuntimeError as error:
            raise SettingsError([f"{listen}: cannot listen there; is it in use?"]) from error
        self.address = f"{listen.rpartition(':')[0]}:{self.port}"
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self._openers: list[Callable[[], Awaitable[None]]] = []
        self._drainers: list[Callable[[], Awaitable[None]]] = []
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._shared: dict[str, Any] = {}

    def mounted(
        self, service_name: str, close: Callable[[], Awaitable[None]] | None = None, guard: Guard | None = None
    ) -> None:
        """Announce a service that was added to `server`.

        Args:
            service_name: "paperroute.v1.OrderingService".
            close: awaited once its calls have ended; what was announced last is closed first.
            guard: says who may call it, and reflection too; None leaves it to other services, which show the service
                token where there is one.
        """
        self._names.append(service_name)
        if close:
            self._closers.append(close)
        if guard:
            self._guards.put(service_name, guard)
            self._guards.put(reflection.SERVICE_NAME, guard)

    def opening(self, step: Callable[[], Awaitable[None]]) -> None:
        """Await `step` in the loop that serves, before anybody is served; it may add services and announce them."""
        self._openers.append(step)

    def draining(self, step: Callable[[], Awaitable[None]]) -> None:
        """Await `step` when the server stops, before it waits for calls under way: it sends long ones away."""
        self._drainers.append(step)

    def inner_address(self) -> str:
        """Return where the roles on this server reach each other; to be asked before `start`.

        It is `address`, unless that is encrypted: the certificate names the public host, and clients may need one of
        their own. Then it is a socket in a folder that only this user can enter.
        """
        if not self._is_encrypted:
            return self.address

        def make() -> str:
            folder = tempfile.mkdtemp(prefix="paperroute-")  # mode 0700
            self.server.add_insecure_port(f"unix:{folder}/inner")
            return folder

        async def remove(folder: str) -> None:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

        return f"unix:{self.once('inner socket', make, remove)}/inner"

    def once(self, name: str, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> T:
        """Return what roles on this server share: made by the first that asks, closed with `close` at the end."""
        if name not in self._shared:
            made = self._shared[name] = make()
            self._closers.append(lambda: close(made))
        found: T = self._shared[name]
        return found

    def shared(self, name: str) -> Any:
        """Return what `once` has made under a name; None where nobody has asked for it."""
        return self._shared.get(name)

    async def start(self) -> None:
        """Begin to serve; from then on health says SERVING. What could not be opened leaves nothing open."""
        openers, self._openers = self._openers, []  # they hold this server, and it would hold them
        try:
            for step in openers:
                await step()
        except BaseException:
            await self.stop(drain_s=0)
            raise
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection((*self._names, _HEALTH, reflection.SERVICE_NAME), self.server)
        await self.server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Take no new calls, let those under way end for at most `drain_s`, then close what was opened."""
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self.server.stop(drain_s))
        for step in self._drainers:
            await step()
        await stopping
        for close in reversed(self._closers):
            await close()

    async def serve_until_signal(self, label: str) -> None:
        """Serve until SIGINT or SIGTERM, then drain."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await self.start()
        logger.info("%s listens on %s", label, self.address)
        try:
            await stop.wait()
        finally:
            logger.info("%s is stopping", label)
            await self.stop()
