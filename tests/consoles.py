"""A console under test: the real pages in front of a gateway under test."""

import contextlib
from collections.abc import AsyncIterator

from gateways import Gateway

from gateway.console import visitor
from gateway.console.app import console_app
from gateway.console.limits import Places
from gateway.console.serving import ConsoleServer
from services.common.channel import open_channel


@contextlib.asynccontextmanager
async def console_at(
    gateway: Gateway, *, needs_tokens: bool = False, listen: str = "127.0.0.1:0", places: Places | None = None
) -> AsyncIterator[str]:
    """Serve the console of a gateway and yield its address."""
    async with open_channel(gateway.address) as channel:
        behind = visitor.Gateway(channel=channel, needs_tokens=needs_tokens, is_encrypted=False)
        places = places or Places()
        server = ConsoleServer(console_app(behind, ["127.0.0.1"], places), listen)
        await server.start()
        try:
            yield server.url
        finally:
            places.closing.set()
            await server.stop()
