"""Anthropic: messages. It has no embeddings."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.common.errors import NotReady
from services.common.paid.calls import TextSink
from services.common.paid.faults import FaultKind
from services.common.paid.usage import TokenUsage
from services.common.providers.capabilities import (
    Capabilities,
    JsonMode,
    Parameters,
    RefusedParameters,
    Table,
    capabilities_of,
    common_parameters,
    described_schema,
    nested,
    overrides_in,
)
from services.common.providers.chat import ChatReply, ChatRequest, EmbeddingReply, Finish
from services.common.providers.clients import CONNECT_TIMEOUT_S, KEEP_ALIVE_S, KeyedClients, quieten
from services.common.providers.exchange import (
    Exchange,
    Said,
    asked_in,
    is_too_long,
    kind_of_status,
    public_address,
)
from services.common.providers.headers import rate_state_of
from services.common.providers.settings import ProviderKey, ProviderSettings

if TYPE_CHECKING:
    import anthropic

NAME = "anthropic"
KEY_VARIABLES = ("ANTHROPIC_API_KEY",)
BASE_URL = "https://api.anthropic.com"

_EFFORT, _SCHEMA = "output_config.effort", "output_config.format"
_DISABLED = {"thinking": {"type": "disabled"}}

TABLE: Table = [
    (r"claude-(3|2|instant).*|claude-(opus|sonnet)-4-(0|2025).*", Capabilities(sampling=True, json_mode=JsonMode.NONE)),
    (r"claude-(haiku|sonnet|opus)-4-[1-6].*", Capabilities(sampling=True)),
    (r"claude-opus-4-7.*", Capabilities(off={_EFFORT: "low"}, low={_EFFORT: "low"})),
    (r"claude-(opus|sonnet|haiku|fable|mythos)-.*", Capabilities(off=_DISABLED, low={_EFFORT: "low"})),
]
"""What Anthropic's models take. Source: lists of models in anthropic 2.12 and catalogues of November 2026."""

_FINISHES = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "refusal": Finish.REFUSED,
}
_KINDS = {
    "authentication_error": FaultKind.KEY_REFUSED,
    "permission_error": FaultKind.KEY_REFUSED,
    "billing_error": FaultKind.QUOTA,
    "not_found_error": FaultKind.NO_SUCH_MODEL,
    "request_too_large": FaultKind.TOO_LONG,
    "rate_limit_error": FaultKind.RATE_LIMIT,
    "timeout_error": FaultKind.OVERLOADED,
    "api_error": FaultKind.OVERLOADED,
    "overloaded_error": FaultKind.OVERLOADED,
    "conflict_error": FaultKind.OVERLOADED,
}
"""By the type of an error, not by its status: an error in a stream has status 200."""


def make(name: str, settings: ProviderSettings, key: ProviderKey) -> "AnthropicProvider":
    """Return the provider."""
    return AnthropicProvider(name, settings, key)


class AnthropicProvider:
    """A `Provider` over messages."""

    def __init__(self, name: str, settings: ProviderSettings, key: ProviderKey) -> None:
        """Open nothing yet."""
        self._settings = settings
        self.name = name
        self.key_variable = key.variable
        self.endpoint = public_address(settings.base_url or BASE_URL)
        self._overrides = overrides_in(settings.capabilities)
        self._timeout_s = settings.timeout_s
        self._refused = RefusedParameters(self.endpoint, required=("max_tokens",))
        self._clients = KeyedClients(key.current, self._open, _closed)

    async def chat(self, request: ChatRequest, sink: TextSink | None = None) -> ChatReply:
        """Ask once; see `Provider`."""
        model = capabilities_of(request.model, TABLE, self._overrides)
        parameters = _parameters(request, model)

        async def send(kept: Parameters) -> ChatReply:
            is_shown = request.schema is not None and (model.shows_schema or _SCHEMA not in kept)
            return await self._ask(request, kept, sink, shows_schema=is_shown)

        return await self._refused.send(request.model, parameters, send)

    async def embed(self, model: str, texts: tuple[str, ...], dimension: int) -> EmbeddingReply:  # noqa: ARG002
        """Refuse: Anthropic has no embeddings."""
        raise NotReady(f"{self.name}:{model}", "this provider has no embeddings; choose another encoder")

    async def close(self) -> None:
        """Close the client."""
        await self._clients.close()

    async def _open(self, key: str) -> "anthropic.AsyncAnthropic":
        # In a thread: the library takes more than a second to import.
        return await asyncio.to_thread(_client, key, self._settings)

    async def _ask(
        self, request: ChatRequest, parameters: Parameters, sink: TextSink | None, *, shows_schema: bool
    ) -> ChatReply:
        async with self._clients.use() as (client, key):
            exchange = Exchange(
                f"{self.name}:{request.model}", key, self._timeout_s, _explained, asked=asked_in(request)
            )
            answer = _Answer(exchange, parameters)
            body = {"model": request.model, **nested(parameters)}
            call: Any = {
                "model": "",  # the real one is in the body: of an old one the library would warn with each call
                "max_tokens": body["max_tokens"],
                "messages": _messages(request, shows_schema=shows_schema),
                "extra_body": body,
                **({"system": request.system} if request.system else {}),
            }
            create = client.messages.with_raw_response.create
            async with exchange.within_time():
                raw = await create(**call, stream=True) if sink is not None else await create(**call)
                parsed: Any = await raw.parse()
            answer.headers = raw.headers
            if sink is not None:
                exchange.began()
                async with parsed as events:
                    await exchange.stream(events, answer.take, sink)
            with exchange.told():
                if sink is None:
                    answer.read(parsed)
                return answer.reply()


@dataclass(slots=True)
class _Answer:
    """What Anthropic answered, in one piece or as a stream."""

    exchange: Exchange
    parameters: Parameters
    headers: Mapping[str, str] | None = None
    reason: str | None = None
    refusal: str = ""
    tokens: TokenUsage | None = None
    response_id: str = ""
    model: str = ""

    def take(self, event: Any) -> str:
        """Note what an event of a stream says and return its text."""
        if event.type == "message_start":
            self.response_id, self.model = event.message.id, event.message.model or ""
            self.exchange.counted = self.tokens = _tokens(event.message.usage, None)
        elif event.type == "message_delta":
            self._end(event.delta)
            self.tokens = _tokens(event.usage, self.tokens)
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            piece: str = event.delta.text
            return piece
        return ""

    def read(self, message: Any) -> None:
        """Note an answer in one piece."""
        self.response_id, self.model = message.id, message.model or ""
        self._end(message)
        self.tokens = _tokens(message.usage, None)
        self.exchange.add("".join(block.text for block in message.content if block.type == "text"))

    def reply(self) -> ChatReply:
        """Return the reply.

        Raises:
            ProviderFault: no reason why it ended was given, or one that text has not.
        """
        if not self.reason:
            raise self.exchange.ended_without_reason()
        finish = _FINISHES.get(self.reason)
        if finish is None:
            raise self.exchange.fault(FaultKind.MALFORMED, f"it ended for {self.reason!r}")
        return ChatReply(
            text=self.exchange.text,
            finish=finish,
            refusal=(self.refusal or self.reason) if finish is Finish.REFUSED else "",
            tokens=self.tokens or self.exchange.estimated(),
            response_id=self.response_id,
            model=self.model,
            rate=rate_state_of(self.headers or {}),
            parameters={name: value for name, value in self.parameters.items() if name != _SCHEMA},
        )

    def _end(self, said: Any) -> None:
        self.reason = said.stop_reason or self.reason
        details = getattr(said, "stop_details", None)
        if details:
            self.refusal = ": ".join(filter(None, [details.category, details.explanation]))


def _parameters(request: ChatRequest, model: Capabilities) -> dict[str, object]:
    parameters = {"max_tokens": request.max_output_tokens, **common_parameters(request, model)}
    if request.schema and model.json_mode is JsonMode.SCHEMA:
        from anthropic import transform_schema

        parameters[_SCHEMA] = {"type": "json_schema", "schema": transform_schema(request.schema)}
    return parameters


def _messages(request: ChatRequest, *, shows_schema: bool) -> list[dict[str, Any]]:
    first: list[dict[str, Any]] = []
    if request.shared:
        first.append({"type": "text", "text": request.shared, "cache_control": {"type": "ephemeral"}})
    form = described_schema(request) if shows_schema else ""
    first.append({"type": "text", "text": "\n\n".join(filter(None, [request.prompt, form]))})
    messages: list[dict[str, Any]] = [{"role": "user", "content": first}]
    for turn in request.turns:
        messages.append({"role": "assistant", "content": turn.answer})
        messages.append({"role": "user", "content": turn.correction})
    return messages


def _tokens(usage: Any, before: TokenUsage | None) -> TokenUsage:
    """Return what Anthropic counted: its input leaves cached tokens out, and a stream's counts go on, not add up.

    Args:
        usage: of a message, or of the end of a stream, which may leave out what has not changed.
        before: what the stream said first.
    """
    cached, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    fresh = usage.input_tokens
    if before is not None:
        cached = before.cached_input_tokens if cached is None else cached
        written = before.cache_write_tokens if written is None else written
        known = before.input_tokens - before.cached_input_tokens - before.cache_write_tokens
        fresh = known if fresh is None else fresh
    details = getattr(usage, "output_tokens_details", None)
    return TokenUsage(
        input_tokens=(fresh or 0) + (cached or 0) + (written or 0),
        cached_input_tokens=cached or 0,
        cache_write_tokens=written or 0,
        output_tokens=usage.output_tokens or 0,
        reasoning_tokens=getattr(details, "thinking_tokens", 0) or 0,
    )


def _explained(error: Exception) -> Said | None:
    import anthropic

    if not isinstance(error, anthropic.APIError) or isinstance(error, anthropic.APIConnectionError):
        return None
    if not isinstance(error, anthropic.APIStatusError):
        return Said(kind=FaultKind.MALFORMED, problem="its answer is not of the form it has")
    words = str(error.api_message or error.message)
    kind = _KINDS.get(error.type or "") or kind_of_status(error.status_code, words)
    if error.type == "invalid_request_error":
        kind = FaultKind.TOO_LONG if is_too_long(words) else FaultKind.BAD_REQUEST
        if "credit balance" in words:
            kind = FaultKind.QUOTA
    return Said(kind=kind, problem=words, headers=error.response.headers)


def _client(key: str, settings: ProviderSettings) -> "anthropic.AsyncAnthropic":
    import anthropic
    import httpx2

    quieten(["anthropic", "httpx2"])
    limits = httpx2.Limits(
        max_connections=settings.max_in_flight,
        max_keepalive_connections=settings.max_in_flight,
        keepalive_expiry=KEEP_ALIVE_S,
    )
    return anthropic.AsyncAnthropic(
        api_key=key,
        base_url=settings.base_url or BASE_URL,
        max_retries=0,
        timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),  # each exchange watches its own time
        http_client=anthropic.DefaultAioHttpClient(limits=limits),
        open_telemetry=False,  # spans are our own, and a trace's context is nothing for a provider
    )


async def _closed(client: "anthropic.AsyncAnthropic") -> None:
    await client.close()
