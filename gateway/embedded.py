"""All roles in one process on one port, calling each other through real channels."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from gateway.access.access import protection_of
from gateway.console.mounting import console_url
from gateway.roles import ROLES
from services.common.role import listen_of
from services.common.server import RoleServer
from services.common.settings import SharedSettings, load
from services.common.telemetry.export import configure
from services.common.telemetry.logs import configure_logging


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """Where all roles are served."""

    address: str
    """"host:port" of the public services."""
    console: str
    """Address for browsers; empty without a console."""


@contextlib.asynccontextmanager
async def embedded(
    listen: str | None = "127.0.0.1:0", *, can_recover: bool = False, console: str = ""
) -> AsyncIterator[Serving]:
    """Serve every role and yield where; all are stopped at the end.

    The services behind the gateway share its port, so they always want a service token: that of the settings, else one
    that nobody outside of the process knows.

    Args:
        listen: "host:port"; port 0 picks a free one, and nothing is encrypted: it is for this machine, for as long as
            its caller asks. None takes the gateway's settings for both, and serves like a gateway.
        can_recover: whether what is for this machine takes up surveys that were interrupted before.
        console: "host:port" for browsers where the settings name none; empty for nowhere.

    Raises:
        SettingsError: the environment or the address cannot be used.
    """
    shared = load(SharedSettings)
    shared = shared.model_copy(update={"service_token": shared.service_token or SecretStr(secrets.token_urlsafe(32))})
    settings: dict[str, Any] = {role: load(entry.settings()) for role, entry in ROLES.items()}
    if listen is not None:  # what others asked for is left to those who serve them
        own = {"take_over": can_recover, "own_only": True, "auth": "off", "console_listen": ""}
    else:
        own = {"console_listen": settings["gateway"].console_listen or console}
    settings["gateway"] = settings["gateway"].model_copy(update=own)
    configure_logging(shared)
    end_export = configure("embedded", shared)
    try:
        host = _host(settings["gateway"], shared, listen)
        inner = host.inner_address()
        for role, entry in ROLES.items():
            entry.mount()(host, _embedded_settings(settings[role], inner), shared)
        await host.start()
        try:
            yield Serving(address=host.address, console=console_url(host))
        finally:
            await host.stop(drain_s=1)
    finally:
        await asyncio.to_thread(end_export)


def _host(gateway: Any, shared: SharedSettings, listen: str | None) -> RoleServer:  # Any: the settings of the gateway
    if listen is None:
        return RoleServer(listen_of(gateway), protection_of(gateway, shared))
    unencrypted = gateway.model_copy(update=dict.fromkeys(("tls_cert", "tls_key", "tls_client_ca")))
    return RoleServer(listen, protection_of(unencrypted, shared))


def _embedded_settings(settings: BaseSettings, address: str) -> Any:
    """Return a role's settings with every service it calls in this process.

    Two surveys at once on a laptop may not both open the local vector store; the second keeps its vectors in memory.
    """
    changed: dict[str, object] = {name: address for name in ROLES if name in type(settings).model_fields}
    if "memory_when_locked" in type(settings).model_fields:
        changed["memory_when_locked"] = True
    return settings.model_copy(update=changed)
