"""How the command line reaches a gateway: a running one, or all roles in this process."""

import contextlib
from collections.abc import AsyncIterator

import grpc

from services.common.channel import open_channel


@contextlib.asynccontextmanager
async def reached(address: str, *, can_recover: bool = False) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel to a gateway, and close it at the end.

    Args:
        address: "host:port"; empty serves all roles in this process, on the data folder of this machine.
        can_recover: whether the roles in this process take up surveys that were interrupted.
    """
    async with contextlib.AsyncExitStack() as stack:
        if not address:
            from gateway.embedded import embedded

            address = await stack.enter_async_context(embedded(can_recover=can_recover))
        yield await stack.enter_async_context(open_channel(address))
