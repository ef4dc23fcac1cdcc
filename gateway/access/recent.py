"""A memory of what a database was asked of late: never older than it may be, and one question at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

V = TypeVar("V")

MAX_ENTRIES = 10_000
MAX_BATCH = 500
"""Keys in one reading."""
SPACING_S = 0.05
"""From the beginning of one reading to that of the next, whatever is asked for: 20 a second at most."""


class Recent(Generic[V]):
    """Values by key. What is asked for at the same time is read together; what is in use is read again ahead of time.

    Strangers cannot load the database: keys it does not know share readings that are `SPACING_S` apart, are remembered
    too, and never push out those it knows.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]],
        *,
        max_age_s: float,
        unknown_age_s: float,
    ) -> None:
        """Say how to read.

        Args:
            read: returns the values of keys, without those there are none for.
            max_age_s: how old a value may be when it is returned.
            unknown_age_s: how long a key stays one that there is no value for.
        """
        self._read = read
        self._max_age_s = max_age_s
        self._unknown_age_s = unknown_age_s
        self._known: dict[str, tuple[float, V]] = {}  # with when its reading began
        self._unknown: dict[str, float] = {}
        self._forgotten_at = 0.0
        self._next_at = 0.0
        self._waiting: dict[str, asyncio.Future[V | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, key: str) -> V | None:
        """Return the value of a key; None when there is none.

        Raises:
            PaperRouteError: what `read` raised.
        """
        now = time.monotonic()
        if known := self._known.get(key):
            age_s = now - known[0]
            if age_s > self._max_age_s / 2:
                asked = self._ask(key)
                if age_s >= self._max_age_s:
                    return await asyncio.shield(asked)
            return known[1]
        if key in self._unknown and now - self._unknown[key] < self._unknown_age_s:
            return None
        return await asyncio.shield(self._ask(key))

    def forget(self) -> None:
        """Read everything again from now on."""
        self._known.clear()
        self._unknown.clear()
        self._forgotten_at = time.monotonic()

    async def close(self) -> None:
        """End the reading under way; who waits for it is cancelled."""
        if self._reading:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        for future in self._waiting.values():
            future.cancel()

    def _ask(self, key: str) -> "asyncio.Future[V | None]":
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read_waiting())
        return future

    async def _read_waiting(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._next_at - time.monotonic())
            began = time.monotonic()
            self._next_at = began + SPACING_S
            batch = {key: self._waiting.pop(key) for key in list(islice(self._waiting, MAX_BATCH))}
            try:
                found = await self._read(list(batch))
                for key, future in batch.items():
                    self._keep(key, began, found.get(key))
                    future.set_result(found.get(key))
            except Exception as error:  # noqa: BLE001 - raised again by all who wait
                for future in batch.values():
                    future.set_exception(error)
                    future.exception()  # a value read ahead of time has nobody who waits
            finally:
                for future in batch.values():
                    future.cancel()  # those that were answered stay so

    def _keep(self, key: str, began: float, value: V | None) -> None:
        self._known.pop(key, None)
        self._unknown.pop(key, None)
        if began <= self._forgotten_at:
            return
        if value is None:
            self._unknown[key] = began
        else:
            self._known[key] = (began, value)
        for entries in (self._known, self._unknown):
            if len(entries) > MAX_ENTRIES:
                del entries[next(iter(entries))]  # the one read longest ago
