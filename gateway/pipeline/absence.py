"""Services that are away for a moment: one that is started again, or whose only worker died, is back in seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from services.common.errors import reason_in

Answer = TypeVar("Answer")

PAUSE_S = 0.3
"""Between two calls, each of which the channel tries a few times by itself."""
SERVED_S = 5.0
"""A call that failed only after so long had reached its service: an absence begins with it."""


async def despite_absence(ask: Callable[[], Awaitable[Answer]], most_s: float) -> Answer:
    """Return what a call to a service brings, made again while nobody answers there.

    What the service recorded before it went is not paid for again. An answer that broke off begins anew.

    Args:
        ask: makes the call; TimeoutError says that no time is left for it.
        most_s: longest absence that is waited for.

    Raises:
        grpc.aio.AioRpcError: the call failed otherwise, or the service stays away.
    """
    loop = asyncio.get_running_loop()
    away_since: float | None = None
    while True:
        asked_at = loop.time()
        try:
            return await ask()
        except grpc.aio.AioRpcError as failure:
            if not _is_absence(failure):
                raise
            now = loop.time()
            if away_since is None or now - asked_at > SERVED_S:
                away_since = now
            if now - away_since >= most_s:
                raise
        await asyncio.sleep(PAUSE_S)


def _is_absence(failure: grpc.aio.AioRpcError) -> bool:
    """Return whether the failure is grpc's own: a service that is there gives a reason."""
    unavailable = grpc.StatusCode.UNAVAILABLE
    return failure.code() is unavailable and reason_in(failure) == unavailable.name
