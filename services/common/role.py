"""What `paperroute serve ROLE` does for every role: settings, logs, telemetry, a server, and an orderly end."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pydantic_settings import BaseSettings

from services.common.server import UNPROTECTED, Protection, RoleServer
from services.common.settings import SharedSettings, load
from services.common.telemetry.export import configure
from services.common.telemetry.logs import configure_logging

Settings = TypeVar("Settings", bound=BaseSettings)
Mount = Callable[[RoleServer, Settings, SharedSettings], None]
"""Makes a service's objects and adds them to a server that is bound but not started."""
ProtectionOf = Callable[[Settings, SharedSettings], Protection]
"""Returns what keeps strangers from a role's services."""


def service_protection(_settings: BaseSettings, shared: SharedSettings) -> Protection:
    """Return the protection of a role that only other services call: the token that all of them share.

    It keeps strangers out, but encrypts nothing: between services that is the network's part.
    """
    token = shared.service_token
    missing = () if token else UNPROTECTED.missing
    return Protection(service_token=token, missing=missing, allow_insecure_listen=shared.allow_insecure_listen)


async def serve_role(
    role: str, kind: type[Settings], mount: Mount[Settings], protection_of: ProtectionOf[Settings] = service_protection
) -> None:
    """Serve one role until a signal.

    Raises:
        SettingsError: the environment or the listen address cannot be used.
    """
    shared = load(SharedSettings)
    settings = load(kind)
    configure_logging(shared)
    end_export = configure(role, shared)
    try:
        host = RoleServer(listen_of(settings), protection_of(settings, shared))
        mount(host, settings, shared)
        await host.serve_until_signal(role)
    finally:
        await asyncio.to_thread(end_export)


def listen_of(settings: BaseSettings) -> str:
    """Return the address a role's settings name; every role has one."""
    listen: str = settings.listen  # type: ignore[attr-defined] # each role's class declares it, with its own port
    return listen
