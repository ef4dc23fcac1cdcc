"""Gemini: content and embeddings."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from services.common.providers.clients import KEEP_ALIVE_S, KeyedClients, quieten
from services.common.providers.exchange import Exchange, Said, asked_in, kind_of_status, public_address
from services.common.providers.headers import duration_s
from services.common.providers.settings import ProviderKey, ProviderSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp
    from google import genai
    from google.genai.models import AsyncModels

NAME = "gemini"
KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
BASE_URL = "https://generativelanguage.googleapis.com/"

_LEVEL, _BUDGET = "thinking_config.thinking_level", "thinking_config.thinking_budget"


def _budgets(least: int) -> Capabilities:
    return Capabilities(sampling=True, seed=True, off={_BUDGET: least}, low={_BUDGET: 1_024})


def _levels(least: str, *, sampling: bool) -> Capabilities:
    return Capabilities(sampling=sampling, seed=sampling, off={_LEVEL: least}, low={_LEVEL: "low"})


TABLE: Table = [
    (r"gemini-(1|2\.0).*", Capabilities(sampling=True, seed=True)),
    (r"gemini-2\.5-pro.*", _budgets(128)),
    (r"gemini-2\.5.*", _budgets(0)),
    (r"gemini-3(\.\d)?-pro.*", _levels("low", sampling=True)),
    (r"gemini-3(\.1)?-.*|gemini-3\.5-flash", _levels("minimal", sampling=True)),
    (r"gemini-3\.\d-.*", _levels("minimal", sampling=False)),
    (r"gemini-4.*", _levels("low", sampling=False)),
]
"""What Gemini's models take. Source: lists of models in google-genai 3.4 and catalogues of November 2026."""

_FINISHES = {
    "STOP": Finish.STOP,
    "MAX_TOKENS": Finish.LENGTH,
    "CONTINUATION": Finish.LENGTH,  # more would be another request, which the caller has to ask and pay for
    "SAFETY": Finish.REFUSED,
    "RECITATION": Finish.REFUSED,
    "LANGUAGE": Finish.REFUSED,
    "BLOCKLIST": Finish.REFUSED,
    "PROHIBITED_CONTENT": Finish.REFUSED,
    "SPII": Finish.REFUSED,
    "MODEL_ARMOR": Finish.REFUSED,
    "ESCALATION": Finish.REFUSED,
}
_SCHEMA = "response_json_schema"


def make(name: str, settings: ProviderSettings, key: ProviderKey) -> "GeminiProvider":
    """Return the provider."""
    return GeminiProvider(name, settings, key)


class GeminiProvider:
    """A `Provider` over Google's library, by its aiohttp transport."""

    def __init__(self, name: str, settings: ProviderSettings, key: ProviderKey) -> None:
        """Open nothing yet."""
        self._settings = settings
        self.name = name
        self.key_variable = key.variable
        self.endpoint = public_address(settings.base_url or BASE_URL)
        self._overrides = overrides_in(settings.capabilities)
        self._timeout_s = settings.timeout_s
        self._refused = RefusedParameters(self.endpoint, required=("max_output_tokens",))
        self._clients = KeyedClients(key.current, self._open, _closed)

    async def chat(self, request: ChatRequest, sink: TextSink | None = None) -> ChatReply:
        """Ask once; see `Provider`."""
        model = capabilities_of(request.model, TABLE, self._overrides)
        parameters = _parameters(request, model)

        async def send(kept: Parameters) -> ChatReply:
            is_shown = request.schema is not None and (model.shows_schema or _SCHEMA not in kept)
            return await self._ask(request, kept, sink, shows_schema=is_shown)

        return await self._refused.send(request.model, parameters, send)

    async def embed(self, model: str, texts: tuple[str, ...], dimension: int) -> EmbeddingReply:
        """Return a vector for each text; see `Provider`. Those that are shortened are not of length 1."""
        async with self._clients.use() as (client, key):
            exchange = Exchange(f"{self.name}:{model}", key, self._timeout_s, _explained, asked="\n".join(texts))
            async with exchange.within_time():
                from google.genai import types

                reply = await client.models.embed_content(
                    model=model,
                    # Each text in a content of its own: texts in a list would be parts of one, with one vector.
                    contents=[types.Content(parts=[types.Part(text=text)]) for text in texts],
                    config=types.EmbedContentConfig(output_dimensionality=dimension, task_type="CLUSTERING"),
                )
                made: Any = reply.embeddings
                # How many tokens they have is told on Google's cloud platform only.
                return EmbeddingReply(vectors=tuple(tuple(each.values) for each in made), tokens=exchange.estimated())

    async def close(self) -> None:
        """Close the client."""
        await self._clients.close()

    async def _open(self, key: str) -> "_Client":
        import aiohttp

        connector = aiohttp.TCPConnector(limit=self._settings.max_in_flight, keepalive_timeout=KEEP_ALIVE_S)
        session = aiohttp.ClientSession(connector=connector, trust_env=True)
        try:
            # In a thread: the library takes a second to import.
            client = await asyncio.to_thread(_client, key, self._settings.base_url or BASE_URL, session)
        except BaseException:
            await session.close()
            raise
        return _Client(client.aio.models, client, session)

    async def _ask(
        self, request: ChatRequest, parameters: Parameters, sink: TextSink | None, *, shows_schema: bool
    ) -> ChatReply:
        async with self._clients.use() as (client, key):
            exchange = Exchange(
                f"{self.name}:{request.model}", key, self._timeout_s, _explained, asked=asked_in(request)
            )
            answer = _Answer(exchange, parameters)
            async with exchange.within_time():
                call: Any = {
                    "model": request.model,
                    "contents": _contents(request, shows_schema=shows_schema),
                    "config": _config(request, parameters),
                }
                if sink is not None:
                    events = await client.models.generate_content_stream(**call)
                else:
                    exchange.add(answer.take(await client.models.generate_content(**call)))
            if sink is not None:
                await exchange.stream(events, answer.take, sink)
            with exchange.told():
                return answer.reply()


@dataclass(slots=True)
class _Answer:
    """What Gemini answered, in one piece or as a stream."""

    exchange: Exchange
    parameters: Parameters
    reason: str = ""
    block: str = ""
    usage: Any = None
    response_id: str = ""
    model: str = ""

    def take(self, response: Any) -> str:
        """Note what an answer, or an event of a stream, says, and return its text."""
        self.response_id = response.response_id or self.response_id
        self.model = response.model_version or self.model
        self.usage = response.usage_metadata or self.usage
        if response.prompt_feedback and response.prompt_feedback.block_reason:
            self.block = response.prompt_feedback.block_reason.value
        if not response.candidates:
            return ""
        candidate = response.candidates[0]
        if candidate.finish_reason:
            self.reason = candidate.finish_reason.value
        parts = (candidate.content.parts if candidate.content else None) or []
        return "".join(part.text for part in parts if part.text and not part.thought)

    def reply(self) -> ChatReply:
        """Return the reply.

        Raises:
            ProviderFault: no reason why it ended was given, or one that text has not.
        """
        if not self.reason and not self.block:
            raise self.exchange.ended_without_reason()
        finish = Finish.REFUSED if self.block else _FINISHES.get(self.reason)
        if finish is None:
            raise self.exchange.fault(FaultKind.MALFORMED, f"it ended for {self.reason!r}")
        return ChatReply(
            text=self.exchange.text,
            finish=finish,
            refusal=(self.block or self.reason) if finish is Finish.REFUSED else "",
            tokens=_tokens(self.usage, self.exchange),
            response_id=self.response_id,
            model=self.model,
            parameters={name: value for name, value in self.parameters.items() if name != _SCHEMA},
        )


def _parameters(request: ChatRequest, model: Capabilities) -> dict[str, object]:
    parameters = {"max_output_tokens": request.max_output_tokens, **common_parameters(request, model)}
    if request.schema and model.json_mode is not JsonMode.NONE:
        parameters["response_mime_type"] = "application/json"
    if request.schema and model.json_mode is JsonMode.SCHEMA:
        parameters[_SCHEMA] = request.schema.model_json_schema()
    return parameters


def _config(request: ChatRequest, parameters: Parameters) -> Any:
    from google.genai import types

    return types.GenerateContentConfig(
        **nested(parameters),
        system_instruction=request.system or None,
        automatic_continuation=False,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )


def _contents(request: ChatRequest, *, shows_schema: bool) -> Any:
    from google.genai import types

    def content(role: str, *texts: str) -> types.Content:
        return types.Content(role=role, parts=[types.Part(text=text) for text in texts if text])

    form = described_schema(request) if shows_schema else ""
    contents = [content("user", request.shared, request.prompt, form)]
    for turn in request.turns:
        contents += [content("model", turn.answer), content("user", turn.correction)]
    return contents


def _tokens(usage: Any, exchange: Exchange) -> TokenUsage:
    """Return what Gemini counted; what it thought is not among the candidates' tokens, but is paid for like them."""
    if usage is None or not usage.prompt_token_count:
        return exchange.estimated()
    thoughts = usage.thoughts_token_count or 0
    return TokenUsage(
        input_tokens=usage.prompt_token_count,
        cached_input_tokens=usage.cached_content_token_count or 0,
        output_tokens=(usage.candidates_token_count or 0) + thoughts,
        reasoning_tokens=thoughts,
    )


def _explained(error: Exception) -> Said | None:
    from google.genai import errors

    if not isinstance(error, errors.APIError):
        return None
    words = str(error.message or error.status or "")
    headers: Mapping[str, str] = getattr(error.response, "headers", None) or {}
    details = _details_in(error.details)
    retry_after_s = next(filter(None, (duration_s(str(each.get("retryDelay", ""))) for each in details)), None)
    kind = kind_of_status(error.code, words)
    if any(each.get("reason") == "API_KEY_INVALID" for each in details):
        kind = FaultKind.KEY_REFUSED
    elif kind is FaultKind.RATE_LIMIT and _is_spent(details, retry_after_s):
        kind = FaultKind.QUOTA
    return Said(kind=kind, problem=words, headers=headers, retry_after_s=retry_after_s)


def _details_in(body: Any) -> list[dict[str, Any]]:
    """Return the google.rpc details of an error's body."""
    error = body.get("error", body) if isinstance(body, dict) else {}
    details = error.get("details") if isinstance(error, dict) else None
    return [each for each in details or [] if isinstance(each, dict)]


def _is_spent(details: list[dict[str, Any]], retry_after_s: float | None) -> bool:
    """Return whether a quota is spent that waiting does not bring back: one of a day, or one without a delay."""
    violations = [
        violation for each in details for violation in each.get("violations") or [] if isinstance(violation, dict)
    ]
    is_of_a_day = any("PerDay" in str(violation.get("quotaId", "")) for violation in violations)
    return bool(violations) and (is_of_a_day or retry_after_s is None)


@dataclass(frozen=True, slots=True)
class _Client:
    models: "AsyncModels"
    client: "genai.Client"
    session: "aiohttp.ClientSession"


def _client(key: str, base_url: str, session: "aiohttp.ClientSession") -> "genai.Client":
    from google import genai
    from google.genai import types

    quieten(["google_genai", "httpx2"])
    options = types.HttpOptions(
        base_url=base_url,
        aiohttp_client=session,  # the library's own session is a class that aiohttp warns of
        # Without these the library itself waits and tries again when a connection breaks.
        retry_options=types.HttpRetryOptions(attempts=1),
    )
    return genai.Client(vertexai=False, api_key=key, http_options=options)


async def _closed(client: _Client) -> None:
    await client.client.aio.aclose()
    await asyncio.to_thread(client.client.close)
    await client.session.close()
