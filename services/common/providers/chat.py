"""The chat interface: one request, one reply, the same for all providers."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pydantic import BaseModel

from services.common.paid.calls import TextSink
from services.common.paid.faults import RateState
from services.common.paid.usage import TokenUsage


class Thinking(Enum):
    """How much a model may reason before it answers; sent as far as the model knows it."""

    OFF = "off"
    """None, or as little as the model can."""
    LOW = "low"
    DEFAULT = "default"
    """As the provider has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """An answer of the model, and what it is told about it."""

    answer: str
    correction: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """What to ask. The parts stand in the order system, shared, prompt, turns, so that equal beginnings are cached."""

    model: str
    """Without its provider."""
    system: str
    shared: str = ""
    """Beginning of the prompt that is the same for many calls of a survey; providers with explicit caching mark its
    end."""
    prompt: str
    turns: tuple[Turn, ...] = ()
    schema: type[BaseModel] | None = None
    """Asks for JSON of this form; the reply's text is not validated against it."""
    max_output_tokens: int
    """Reasoning included, so leave room for it."""
    thinking: Thinking = Thinking.OFF
    seed: int | None = None
    """Sent where the provider knows seeds."""
    cache_key: str = ""
    """Calls with the same one share a beginning; a hint for the provider, not part of what is asked."""


class Finish(Enum):
    """Why a model stopped. A stream that ends without a reason is no reply but a fault, TRUNCATED."""

    STOP = "stop"
    LENGTH = "length"
    """The limit on output tokens was reached; the text may be empty where reasoning took all."""
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatReply:
    """What a model answered."""

    text: str
    finish: Finish
    refusal: str = ""
    """What the provider gives as the reason of a refusal."""
    tokens: TokenUsage
    response_id: str = ""
    model: str = ""
    """As the provider names it in its answer."""
    rate: RateState | None = None
    parameters: Mapping[str, object]
    """Those that were sent beside the prompt, after the ones the server refused were left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingReply:
    """Vectors of texts."""

    vectors: tuple[tuple[float, ...], ...]
    """One for each text, as the provider gave them: not of length 1 with all of them."""
    tokens: TokenUsage
    response_id: str = ""
    model: str = ""
    """As the provider names it in its answer."""
    rate: RateState | None = None


class Provider(Protocol):
    """One provider, or one server that speaks a provider's protocol, behind one client for the life of the process."""

    name: str
    """What stands before the colon in "provider:model"."""
    endpoint: str
    """Base address its calls go to."""
    key_variable: str
    """Where its key is set, for messages."""

    async def chat(self, request: ChatRequest, sink: TextSink | None = None) -> ChatReply:
        """Ask once, without retries; with a sink the text is streamed to it.

        Raises:
            ProviderFault: no answer, or one that cannot be read.
            NotReady: the key is missing.
        """
        ...

    async def embed(self, model: str, texts: tuple[str, ...], dimension: int) -> EmbeddingReply:
        """Return a vector for each text, asked for in one request, without retries.

        Raises:
            ProviderFault: no answer, or one that cannot be read.
            NotReady: the key is missing, or the provider has no embeddings.
        """
        ...

    async def close(self) -> None:
        """Close the client; without it connections of other clients can go deaf."""
        ...
