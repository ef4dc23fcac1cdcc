"""Keeps a worker in step with the others that use the same model, for as long as it uses it."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import replace

from services.common.errors import PaperRouteError
from services.common.paid.shared_limits import Shared, SharedLimits, Told

logger = logging.getLogger(__name__)

EXCHANGE_S = 0.5
"""Time between two exchanges while the model is in use."""
IDLE_S = 5.0
"""After so long without calls the exchange rests."""
AWAY_S = 1.0
"""With no call for so long and none that waits, this worker leaves its part of the limits to the others."""
GREETING_S = 0.1
"""Workers that begin at the same moment see each other after this time."""
MAX_JOIN_S = 2.0
"""Longest the first call waits to hear of the other workers."""
NEWS_S = 0.1
"""A pause is told at once when it ends so much later than the one that was told last: refusals come in crowds."""


class Team:
    """The exchange of one model's limits. When the database fails, this worker goes on alone until it answers again."""

    def __init__(
        self,
        model: str,
        shared: SharedLimits,
        *,
        told: Callable[[], Told],
        heard: Callable[[Shared], None],
        is_used: Callable[[], bool],
        has_queue: Callable[[], bool],
    ) -> None:
        """Make it; nothing is exchanged yet.

        Args:
            model: "provider:model".
            shared: where to.
            told: returns the limits the others should know.
            heard: takes what the others know.
            is_used: returns whether calls wait or are in flight.
            has_queue: returns whether calls wait.
        """
        self._model = model
        self._shared = shared
        self._told = told
        self._heard = heard
        self._is_used = is_used
        self._has_queue = has_queue
        self._is_away = False
        self._task: asyncio.Task[None] | None = None
        self._has_joined = asyncio.Event()
        self._news = asyncio.Event()
        self._joined_at = -math.inf
        self._pause_until = self._told_until = -math.inf
        self._is_cut_off = False

    async def join(self) -> None:
        """Return once this worker knows of the others: at once, but for the first call and the first after a rest."""
        self._joined_at = asyncio.get_running_loop().time()
        if self._task is None or self._task.done():
            self._has_joined.clear()
            self._task = asyncio.create_task(self._keep_in_step())
        elif self._is_away:
            self._news.set()
        if not self._has_joined.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MAX_JOIN_S):
                    await self._has_joined.wait()
            self._has_joined.set()  # the database hangs: one call waited for it, the next ones need not

    def tell_pause(self, until: float) -> None:
        """Let nobody call the model before that moment of the loop's clock."""
        self._pause_until = max(self._pause_until, until)
        if self._pause_until > self._told_until + NEWS_S:
            self._news.set()

    async def close(self) -> None:
        """End the exchange."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep_in_step(self) -> None:
        try:
            await self._exchange()
            await asyncio.sleep(GREETING_S)
            await self._exchange()
        finally:
            self._has_joined.set()
        loop = asyncio.get_running_loop()
        while self._is_used() or loop.time() < self._joined_at + IDLE_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXCHANGE_S):
                    await self._news.wait()
            await self._exchange()

    async def _exchange(self) -> None:
        self._news.clear()
        until = self._pause_until
        now = asyncio.get_running_loop().time()
        left_s = until - now if until > self._told_until else 0.0
        self._is_away = not self._has_queue() and now > self._joined_at + AWAY_S
        told = replace(self._told(), cooldown_s=max(0.0, left_s), is_active=not self._is_away)
        try:
            shared = await self._shared.exchange(self._model, told)
        except PaperRouteError as error:
            if not self._is_cut_off:
                logger.warning("%s: its limits are not shared with other workers: %s", self._model, error.message)
            self._is_cut_off = True
            return
        self._is_cut_off = False
        self._told_until = until
        self._heard(shared)
