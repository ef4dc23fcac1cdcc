"""Model calls as the services make them, to a stand-in over real HTTP, with all that telemetry says of them.

async with modelled(folder) as world:
    await world.ask("openai")
    assert world.span().attributes["paperroute.outcome"] == "ok"
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from ledgers import a_caller
from opentelemetry.sdk.trace import ReadableSpan
from providing import providers_at, request_to
from scripted_models import Sink
from standins.provider_server import ProviderStandIn
from telemetered import Telemetry, telemetered

from services.common.paid.caller import Caller, Scope
from services.common.paid.calls import PaidCalls
from services.common.paid.governor import Governors
from services.common.paid.ledger import Ledger
from services.common.paid.ledger_schema import ledger_database
from services.common.paid.ledger_values import CallState, ListedCall
from services.common.paid.prices import PriceBook
from services.common.providers.chat import Provider
from services.common.providers.registry import Providers
from services.common.settings import SharedSettings
from services.embedding.remote_encoder import RemoteEncoder
from services.generation.llm.chat_model import ChatModel

PROMPT_ID = "section.v1@00000000"
DIMENSION = 3_072
PRICES = (
    '{"openai:*": {"input_mtok": 0.137, "output_mtok": 1.91}, "gemini:*": {"input_mtok": 0.071, "output_mtok": 0.83},'
    ' "anthropic:*": {"input_mtok": 2.9, "cached_input_mtok": 0.3, "output_mtok": 14.7}}'
)
"""Odd ones, so that nothing is a round number; none of "ollama"."""


class World:
    """The calls, their ledger, and what telemetry received."""

    def __init__(self, server: ProviderStandIn, calls: PaidCalls, providers: Providers, seen: Telemetry) -> None:
        self.server, self.calls, self.seen = server, calls, seen
        self._providers = providers

    async def ask(self, provider: str, *, caller: Caller | None = None, is_stream: bool = True, **parts: Any) -> str:
        """Return what a model says; `parts` are those of the request."""
        request = request_to(provider, **parts)
        model = ChatModel(self._provider(provider), request.model, self.calls)
        sink = Sink() if is_stream else None
        who = caller or a_caller()
        return (await model.ask(request, who, scope=Scope.TENANT, prompt_id=PROMPT_ID, sink=sink)).text

    async def embed(self, provider: str, model: str, texts: Sequence[str], caller: Caller | None = None) -> None:
        encoder = RemoteEncoder(self._provider(provider), model, DIMENSION, self.calls)
        await encoder.encode([], texts, caller or a_caller(stage="embed", item=""))

    def spans(self) -> Sequence[ReadableSpan]:
        """Return the spans of model calls that have ended."""
        return [span for span in self.seen.spans if span.name.startswith(("chat ", "embeddings "))]

    def span(self) -> ReadableSpan:
        """Return the only one."""
        (span,) = self.spans()
        return span

    async def ended(self, count: int = 1) -> Sequence[ReadableSpan]:
        """Return the spans of model calls as soon as there are so many."""
        async with asyncio.timeout(20):
            while len(self.spans()) < count:
                await asyncio.sleep(0.01)
        return self.spans()

    async def listed(self, survey_id: str = "survey-1") -> Sequence[ListedCall]:
        """Return a survey's recorded calls once none is in flight."""
        async with asyncio.timeout(20):
            while True:
                calls = (await self.calls.list_calls("tenant-a", survey_id)).calls
                if all(call.state is not CallState.IN_FLIGHT for call in calls):
                    return calls
                await asyncio.sleep(0.01)

    def _provider(self, name: str) -> Provider:
        found = self._providers.find(name)
        assert found
        return found


@contextlib.asynccontextmanager
async def modelled(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """Open one; `settings` are those of the providers."""
    database = ledger_database(SharedSettings(data_dir=folder), "generation")
    ledger = Ledger(database, "generation", retention_days=90, max_answer_bytes=10**9)
    async with ProviderStandIn() as server:
        providers = providers_at(server, **settings)
        calls = PaidCalls(ledger, PriceBook(PRICES), Governors(providers.limits_of, None, replicas=1, chance=_none))
        with telemetered() as seen:
            try:
                yield World(server, calls, providers, seen)
            finally:
                await calls.close()
                await providers.close()


def _none() -> float:
    """Wait no longer than has to be."""
    return 0.0
