"""How the command line reaches a gateway: a running one, or all roles in this process."""

import contextlib
from collections.abc import AsyncIterator

from gateway.client import AsyncPaperRouteClient
from services.common.channel import open_channel


@contextlib.asynccontextmanager
async def reached(address: str, *, can_recover: bool = False) -> AsyncIterator[AsyncPaperRouteClient]:
    """Yield a client of a gateway, with the token and the certificates of the environment, and close it at the end.

    Args:
        address: "host:port"; empty serves all roles in this process, on the data folder of this machine.
        can_recover: whether the roles in this process take up surveys that were interrupted.

    Raises:
        SettingsError: the environment cannot be used, or would send a token where others can read it.
    """
    if address:
        async with AsyncPaperRouteClient(address) as client:
            yield client
        return
    from gateway.embedded import embedded

    async with embedded(can_recover=can_recover) as own, open_channel(own.address) as channel:
        yield AsyncPaperRouteClient(own.address, channel=channel)  # which is ours: no token, no certificates
