"""All roles in one process on one loopback port, calling each other through real channels."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from pydantic_settings import BaseSettings

from gateway.roles import ROLES
from services.common.role import configure_logging, listen_of
from services.common.server import RoleServer
from services.common.settings import SharedSettings, load
from services.common.telemetry import configure


@contextlib.asynccontextmanager
async def embedded(listen: str | None = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serve every role and yield the address; all are stopped at the end.

    Args:
        listen: "host:port"; port 0 picks a free one, None takes the gateway's setting.

    Raises:
        SettingsError: the environment or the address cannot be used.
    """
    shared = load(SharedSettings)
    settings = {role: load(entry.settings()) for role, entry in ROLES.items()}
    configure_logging(shared.log_level)
    address = listen_of(settings["gateway"]) if listen is None else listen
    host = RoleServer(address, allow_insecure_listen=shared.allow_insecure_listen)
    flush = configure("embedded", shared.otlp_endpoint)
    for role, entry in ROLES.items():
        entry.mount()(host, _embedded_settings(settings[role], host.address), shared)
    await host.start()
    try:
        yield host.address
    finally:
        await host.stop(drain_s=1)
        flush()


def _embedded_settings(settings: BaseSettings, address: str) -> Any:
    """Return a role's settings with every service it calls in this process.

    Two surveys at once on a laptop may not both open the local vector store; the second keeps its vectors in memory.
    """
    changed: dict[str, object] = {name: address for name in ROLES if name in type(settings).model_fields}
    if "memory_when_locked" in type(settings).model_fields:
        changed["memory_when_locked"] = True
    return settings.model_copy(update=changed)
