"""One request at a time, and a pause between them: how this process keeps to arXiv's terms of use."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class RequestGate:
    """Runs blocking requests in a thread, one after the other, their starts at least `spacing_s` apart."""

    def __init__(self, spacing_s: float) -> None:
        self._spacing_s = spacing_s
        self._turn = asyncio.Lock()
        self._last_start = float("-inf")

    async def run(self, request: Callable[[], T]) -> T:
        """Wait for a turn, run the request and return what it returns.

        A caller that is cancelled waits no longer; a request that has begun keeps its turn to its end, so that the
        next one does not start beside it.
        """
        await self._turn.acquire()
        try:
            await asyncio.sleep(self._last_start + self._spacing_s - time.monotonic())
            work = asyncio.ensure_future(asyncio.to_thread(self._timed, request))
        except BaseException:
            self._turn.release()
            raise
        work.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(work)

    def _timed(self, request: Callable[[], T]) -> T:
        # The start is taken in the thread: when all threads are busy it may come well after the turn.
        self._last_start = time.monotonic()
        return request()
