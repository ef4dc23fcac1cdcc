"""One client of a provider for the life of the process; a new key brings a new client."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Client = TypeVar("Client")

KEEP_ALIVE_S = 15.0
"""How long a connection waits for its next call; gateways in between commonly close theirs after 60 s."""
CONNECT_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Lease(Generic[Client]):
    client: Client
    key: str
    user_count: int = 0
    is_retired: bool = False


class KeyedClients(Generic[Client]):
    """Opens a client when the first call needs it, and lends it to all.

    When the key has changed, the next call opens another client; the old one is closed once its calls have ended. No
    client is dropped without being closed: connections of other clients could go deaf.
    """

    def __init__(
        self,
        key: Callable[[], str],
        open_client: Callable[[str], Awaitable[Client]],
        close_client: Callable[[Client], Awaitable[None]],
    ) -> None:
        """Say how clients are made.

        Args:
            key: returns the key as it is now; raises NotReady.
            open_client: makes a client for a key.
            close_client: closes one.
        """
        self._key = key
        self._open = open_client
        self._close = close_client
        self._opening = asyncio.Lock()
        self._current: _Lease[Client] | None = None

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[tuple[Client, str]]:
        """Lend the client of the current key, and tell the key.

        Raises:
            NotReady: the key is missing.
        """
        lease = await self._lease()
        lease.user_count += 1
        try:
            yield lease.client, lease.key
        finally:
            lease.user_count -= 1
            await self._close_if_done(lease)

    async def close(self) -> None:
        """Close the client, if one was opened, once its calls have ended."""
        async with self._opening:
            lease, self._current = self._current, None
            await self._retire(lease)

    async def _lease(self) -> _Lease[Client]:
        key = self._key()
        if self._current and self._current.key == key:
            return self._current
        async with self._opening:
            if self._current is None or self._current.key != key:
                client = await self._open(key)
                old, self._current = self._current, _Lease(client, key)
                await self._retire(old)
            return self._current

    async def _retire(self, lease: _Lease[Client] | None) -> None:
        if lease:
            lease.is_retired = True
            await self._close_if_done(lease)

    async def _close_if_done(self, lease: _Lease[Client]) -> None:
        if lease.is_retired and not lease.user_count:
            await self._close(lease.client)


def quieten(libraries: Sequence[str]) -> None:
    """Keep what libraries log below warnings out of our log: they write whole prompts when it is set to "debug"."""
    for name in libraries:
        logging.getLogger(name).setLevel(logging.WARNING)
