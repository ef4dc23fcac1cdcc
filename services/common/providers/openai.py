"""OpenAI, and every server that speaks its protocol (Ollama, vLLM and the like): chat completions and embeddings."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel

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
from services.common.providers.exchange import Exchange, Said, asked_in, kind_of_status, public_address
from services.common.providers.headers import rate_state_of
from services.common.providers.settings import ProviderKey, ProviderSettings
from services.common.providers.thoughts import Thoughts

if TYPE_CHECKING:
    import openai

NAME = "openai"
KEY_VARIABLES = ("OPENAI_API_KEY",)
BASE_URL = "https://api.openai.com/v1"

_TOKENS = "max_completion_tokens"
_NO_REASONING = {"reasoning_effort": "none"}
_LOW_REASONING = {"reasoning_effort": "low"}


def _reasons(off: dict[str, Any]) -> Capabilities:
    return Capabilities(token_parameter=_TOKENS, off=off, low=_LOW_REASONING)


def _samples(json_mode: JsonMode) -> Capabilities:
    return Capabilities(token_parameter=_TOKENS, sampling=True, seed=True, json_mode=json_mode)


TABLE: Table = [
    (r"gpt-4o-2024-05-13|gpt-4-turbo.*|gpt-4-(0125|1106).*|gpt-3\.5-turbo.*", _samples(JsonMode.OBJECT)),
    (r"gpt-4(-32k)?(-0\d{3})?", _samples(JsonMode.NONE)),
    (r"(chat)?gpt-4o.*|gpt-4\.1.*", _samples(JsonMode.SCHEMA)),
    (r"gpt-5(-mini|-nano)?(-\d{4}.*)?", _reasons({"reasoning_effort": "minimal"})),
    (
        r"gpt-5\.\d-pro.*|gpt-6(\.\d)?-astra.*|gpt-6\.\d-(sol|terra).*|o[134](-mini)?(-\d{4}.*)?",
        _reasons(_LOW_REASONING),
    ),
    (r"gpt-5\.\d.*|gpt-6-.*", _reasons(_NO_REASONING)),
    (r".*", Capabilities(token_parameter=_TOKENS)),
]
"""What OpenAI's models take. Source: lists of models in openai 3.54 and catalogues of November 2026."""
COMPATIBLE_TABLE: Table = [(".*", Capabilities(shows_schema=True))]
"""What is sent to other servers: nothing that one of them may not know."""

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "content_filter": Finish.REFUSED}
_KINDS = {
    "insufficient_quota": FaultKind.QUOTA,
    "billing_hard_limit_reached": FaultKind.QUOTA,
    "rate_limit_exceeded": FaultKind.RATE_LIMIT,
    "invalid_api_key": FaultKind.KEY_REFUSED,
    "model_not_found": FaultKind.NO_SUCH_MODEL,
    "context_length_exceeded": FaultKind.TOO_LONG,
    "string_above_max_length": FaultKind.TOO_LONG,
}
"""By the code or the type of an error; its status decides about all others."""
_REFUSALS = {"content_filter", "content_policy_violation", "invalid_prompt"}
"""Codes of errors that are the model's refusals."""
_SCHEMA = "response_format"


def make(name: str, settings: ProviderSettings, key: ProviderKey) -> "OpenAiProvider":
    """Return the provider: OpenAI itself, or a compatible server by another name."""
    return OpenAiProvider(name, settings, key, TABLE if name == NAME else COMPATIBLE_TABLE)


class OpenAiProvider:
    """A `Provider` over chat completions."""

    def __init__(self, name: str, settings: ProviderSettings, key: ProviderKey, table: Table) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._base_url = settings.base_url or BASE_URL
        self.name = name
        self.key_variable = key.variable
        self.endpoint = public_address(self._base_url)
        self._is_openai = name == NAME
        self._is_at_openai = f".{urlsplit(self._base_url).hostname}".endswith(".api.openai.com")
        self._table = table
        self._overrides = overrides_in(settings.capabilities)
        self._timeout_s = settings.timeout_s
        self._refused = RefusedParameters(self.endpoint, required=("max_tokens", _TOKENS))
        self._clients = KeyedClients(key.current, self._open, _closed)

    async def chat(self, request: ChatRequest, sink: TextSink | None = None) -> ChatReply:
        """Ask once; see `Provider`."""
        model = capabilities_of(request.model, self._table, self._overrides)
        parameters = self._parameters(request, model, is_stream=sink is not None)

        async def send(kept: Parameters) -> ChatReply:
            is_shown = request.schema is not None and (model.shows_schema or _keeps_no_schema(kept))
            return await self._ask(request, _messages(request, shows_schema=is_shown), kept, sink)

        return await self._refused.send(request.model, parameters, send)

    async def embed(self, model: str, texts: tuple[str, ...], dimension: int) -> EmbeddingReply:
        """Return a vector for each text; see `Provider`."""
        # Other servers may know one length only, and floats only; OpenAI's library asks for packed ones by itself.
        options: dict[str, Any] = {"dimensions": dimension} if self._is_openai else {"encoding_format": "float"}
        async with self._clients.use() as (client, key):
            exchange = Exchange(f"{self.name}:{model}", key, self._timeout_s, _explained, asked="\n".join(texts))
            async with exchange.within_time():
                raw = await client.embeddings.with_raw_response.create(model=model, input=[*texts], **options)
                reply = raw.parse()
                by_place = sorted(reply.data, key=lambda each: each.index)
                return EmbeddingReply(
                    vectors=tuple(tuple(each.embedding) for each in by_place),
                    tokens=_tokens(reply.usage, exchange),
                    response_id=raw.headers.get("x-request-id", ""),
                    model=reply.model or "",
                    rate=rate_state_of(raw.headers),
                )

    async def close(self) -> None:
        """Close the client."""
        await self._clients.close()

    async def _open(self, key: str) -> "openai.AsyncOpenAI":
        # In a thread: the library takes a second to import.
        return await asyncio.to_thread(_client, key, self._base_url, self._settings, is_openai=self._is_openai)

    def _parameters(self, request: ChatRequest, model: Capabilities, *, is_stream: bool) -> dict[str, object]:
        parameters = {model.token_parameter: request.max_output_tokens, **common_parameters(request, model)}
        if request.schema and model.json_mode is JsonMode.SCHEMA:
            form = {"name": request.schema.__name__, "strict": True, "schema": strict_schema(request.schema)}
            parameters[_SCHEMA] = {"type": "json_schema", "json_schema": form}
        elif request.schema and model.json_mode is JsonMode.OBJECT:
            parameters[_SCHEMA] = {"type": "json_object"}
        if self._is_at_openai and request.cache_key:
            parameters["prompt_cache_key"] = hashlib.sha256(request.cache_key.encode()).hexdigest()[:32]
        if is_stream:
            padding = {"include_obfuscation": False} if self._is_at_openai else {}
            parameters["stream_options"] = {"include_usage": True, **padding}
        return parameters

    async def _ask(
        self, request: ChatRequest, messages: Any, parameters: Parameters, sink: TextSink | None
    ) -> ChatReply:
        name = f"{self.name}:{request.model}"
        async with self._clients.use() as (client, key):
            exchange = Exchange(name, key, self._timeout_s, _explained, asked=asked_in(request))
            answer = _Answer(exchange, parameters)
            create = client.chat.completions.with_raw_response.create
            # The messages too go into the body as they are: the library would look up the type of every part of them.
            body = {"messages": messages, **nested(parameters)}
            call: Any = {"model": request.model, "messages": [], "extra_body": body}
            async with exchange.within_time():
                try:
                    raw = await create(**call, stream=True) if sink is not None else await create(**call)
                except Exception as error:
                    declined = _declined(error, answer)
                    if declined is None:
                        raise
                    return declined
                parsed = raw.parse()
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
    """What a server answered, in one piece or as a stream."""

    exchange: Exchange
    parameters: Parameters
    headers: Mapping[str, str] | None = None
    refusal: str = ""
    reason: str | None = None
    usage: Any = None
    response_id: str = ""
    model: str = ""
    thoughts: Thoughts = field(default_factory=Thoughts)

    def take(self, chunk: Any) -> str:
        """Note what an event of a stream says and return its text."""
        self.response_id = chunk.id or self.response_id
        self.model = chunk.model or self.model
        self.usage = chunk.usage or self.usage
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self.reason = choice.finish_reason or self.reason
        self.refusal += choice.delta.refusal or ""
        return self.thoughts.without(choice.delta.content or "")

    def read(self, completion: Any) -> None:
        """Note an answer in one piece."""
        choice = completion.choices[0]
        self.response_id, self.model = completion.id or "", completion.model or ""
        self.usage = completion.usage
        self.reason = choice.finish_reason
        self.refusal = choice.message.refusal or ""
        self.exchange.add(self.thoughts.without(choice.message.content or ""))

    def reply(self) -> ChatReply:
        """Return the reply.

        Raises:
            ProviderFault: no reason why it ended was given, or one that text has not.
        """
        if not self.reason:
            raise self.exchange.ended_without_reason()
        finish = Finish.REFUSED if self.refusal else _FINISHES.get(self.reason)
        if finish is None:
            raise self.exchange.fault(FaultKind.MALFORMED, f"it ended for {self.reason!r}")
        return ChatReply(
            text=self.exchange.text,
            finish=finish,
            refusal=self.refusal or (self.reason if finish is Finish.REFUSED else ""),
            tokens=_tokens(self.usage, self.exchange),
            response_id=self.response_id,
            model=self.model,
            rate=rate_state_of(self.headers or {}),
            parameters={name: value for name, value in self.parameters.items() if name != _SCHEMA},
        )


def strict_schema(form: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a form as OpenAI takes it: no further properties anywhere, all of them required.

    Keywords that it does not know are left out; the answer is checked against the form anyway.
    """
    schema: dict[str, Any] = _strict(form.model_json_schema())
    return schema


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}  # beside it nothing else may stand
    kept = {name: value for name, value in schema.items() if name not in {"default", "minLength", "maxLength"}}
    for name in ("properties", "$defs"):
        if name in kept:  # names of ours, which may be those of keywords
            kept[name] = {each: _strict(value) for each, value in kept[name].items()}
    for name in ("items", "anyOf", "allOf", "prefixItems"):
        if name in kept:
            kept[name] = _strict(kept[name])
    if "properties" in kept:
        kept |= {"additionalProperties": False, "required": list(kept["properties"])}
    return kept


def _messages(request: ChatRequest, *, shows_schema: bool) -> list[dict[str, str]]:
    form = described_schema(request) if shows_schema else ""
    prompt = "\n\n".join(filter(None, [request.shared, request.prompt, form]))
    messages = [{"role": "system", "content": request.system}] if request.system else []
    messages.append({"role": "user", "content": prompt})
    for turn in request.turns:
        messages.append({"role": "assistant", "content": turn.answer})
        messages.append({"role": "user", "content": turn.correction})
    return messages


def _keeps_no_schema(parameters: Parameters) -> bool:
    form = parameters.get(_SCHEMA)
    return not (isinstance(form, dict) and form["type"] == "json_schema")


def _tokens(usage: Any, exchange: Exchange) -> TokenUsage:
    """Return what a server counted; our own estimate where it did not."""
    if usage is None or not usage.prompt_tokens:
        return exchange.estimated()
    read = getattr(usage, "prompt_tokens_details", None)
    written = getattr(usage, "completion_tokens_details", None)
    return TokenUsage(
        input_tokens=usage.prompt_tokens,
        cached_input_tokens=getattr(read, "cached_tokens", 0) or 0,
        cache_write_tokens=getattr(read, "cache_write_tokens", 0) or 0,
        output_tokens=getattr(usage, "completion_tokens", 0) or 0,
        reasoning_tokens=getattr(written, "reasoning_tokens", 0) or 0,
    )


def _explained(error: Exception) -> Said | None:
    import openai

    if not isinstance(error, openai.APIError) or isinstance(error, openai.APIConnectionError):
        return None
    body = error.body if isinstance(error.body, dict) else {}
    words = str(body.get("message") or error.message)
    if error.param and error.param not in words:
        words = f"{error.param}: {words}"
    if isinstance(error, openai.APIStatusError):
        kind = _KINDS.get(error.code or "") or _KINDS.get(error.type or "") or kind_of_status(error.status_code, words)
        if kind is FaultKind.RATE_LIMIT and "Request too large" in words:
            kind = FaultKind.TOO_LONG  # more at once than the limit of a minute: waiting does not help
        return Said(kind=kind, problem=words, headers=error.response.headers)
    if isinstance(error, openai.APIResponseValidationError):
        return Said(kind=FaultKind.MALFORMED, problem="its answer is not of the form it has", headers={})
    kind = _KINDS.get(error.code or "") or _KINDS.get(error.type or "") or FaultKind.OVERLOADED
    return Said(kind=kind, problem=words)  # an event of a stream


def _declined(error: Exception, answer: _Answer) -> ChatReply | None:
    """Return the reply of a model that declines by an error, as some do before they write anything."""
    import openai

    if not (isinstance(error, openai.BadRequestError) and error.code in _REFUSALS):
        return None
    answer.refusal, answer.reason = error.message, "content_filter"
    answer.usage, answer.headers = None, error.response.headers
    return answer.reply()


def _client(key: str, base_url: str, settings: ProviderSettings, *, is_openai: bool) -> "openai.AsyncOpenAI":
    import httpx2
    import openai

    quieten(["openai", "httpx2"])
    limits = httpx2.Limits(
        max_connections=settings.max_in_flight,
        max_keepalive_connections=settings.max_in_flight,
        keepalive_expiry=KEEP_ALIVE_S,
    )
    theirs: Any = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
    return openai.AsyncOpenAI(
        api_key=key or "none",  # the library insists on one; servers without keys do not look at it
        base_url=base_url,
        max_retries=0,
        timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),  # each exchange watches its own time
        default_headers=None if is_openai else theirs,
        http_client=openai.DefaultAioHttpClient(limits=limits),
    )


async def _closed(client: "openai.AsyncOpenAI") -> None:
    await client.close()
