"""Running services in a test: the real server on a free loopback port and a real channel to it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from services.common.channel import open_channel
from services.common.role import Mount
from services.common.server import RoleServer
from services.common.settings import SharedSettings


@contextlib.asynccontextmanager
async def serving(mount: Mount[Any], settings: Any, data_dir: Path | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """Serve what `mount` mounts and yield a channel to it; both are closed at the end."""
    async with served(mount, settings, data_dir) as address, open_channel(address) as channel:
        yield channel


@contextlib.asynccontextmanager
async def served(mount: Mount[Any], settings: Any, data_dir: Path | None = None) -> AsyncIterator[str]:
    """Serve what `mount` mounts and yield its address; it is closed at the end."""
    host = RoleServer("127.0.0.1:0")
    shared = SharedSettings(data_dir=data_dir) if data_dir else SharedSettings()
    mount(host, settings, shared)
    await host.start()
    try:
        yield host.address
    finally:
        await host.stop(drain_s=0)
