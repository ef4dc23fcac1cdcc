"""The first of many calls with one beginning goes ahead, so that the provider's cache serves it to the rest.

A provider caches the beginning of a prompt once an answer to it has begun. Sections of a survey that are all sent at
once would each pay for the whole of what they share.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from services.common.paid.calls import TextSink
from services.common.providers.chat import ChatReply, ChatRequest, Provider
from services.common.providers.tokens import estimated_tokens

MIN_TOKENS = 1_024
"""Shortest beginning that is cached. Source: OpenAI's and Anthropic's pages on prompt caching."""
CACHED_S = 240.0
"""How long a beginning stays cached; providers say five minutes."""
MAX_WAIT_S = 3.0
"""Longest wait for the leader's first word; a model that thinks longer is not waited for."""
MAX_KEPT = 1_000


@dataclass(kw_only=True, slots=True)
class _Beginning:
    """A beginning that was sent."""

    sent_at_s: float = field(default_factory=time.monotonic)
    is_cached: asyncio.Event = field(default_factory=asyncio.Event)


class Leading:
    """Remembers the beginnings that were sent of late."""

    def __init__(self) -> None:
        self._sent: OrderedDict[bytes, _Beginning] = OrderedDict()

    async def chat(self, provider: Provider, request: ChatRequest, sink: TextSink | None) -> ChatReply:
        """Ask a provider as `Provider.chat` does, behind the first call with the same beginning."""
        if not request.shared or estimated_tokens(request.system + request.shared) < MIN_TOKENS:
            return await provider.chat(request, sink)
        beginning, is_leader = self._place(request)
        if is_leader:
            try:
                return await provider.chat(request, _Heard(sink, beginning.is_cached) if sink else None)
            finally:
                beginning.is_cached.set()
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await beginning.is_cached.wait()
        except TimeoutError:
            pass  # it is only dearer
        return await provider.chat(request, sink)

    def _place(self, request: ChatRequest) -> tuple[_Beginning, bool]:
        what = "\0".join((request.model, request.system, request.shared))
        key = hashlib.sha256(what.encode(errors="replace")).digest()
        known = self._sent.get(key)
        if known and time.monotonic() - known.sent_at_s < CACHED_S:
            return known, False
        self._sent[key] = made = _Beginning()
        self._sent.move_to_end(key)
        if len(self._sent) > MAX_KEPT:
            self._sent.popitem(last=False)
        return made, True


class _Heard:
    """A sink that notes the first word."""

    def __init__(self, sink: TextSink, event: asyncio.Event) -> None:
        self._sink, self._event = sink, event

    def text(self, piece: str) -> None:
        """Hand a piece on."""
        self._event.set()
        self._sink.text(piece)

    def restart(self, reason: str) -> None:
        """Hand it on."""
        self._sink.restart(reason)
