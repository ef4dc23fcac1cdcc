"""What the stand-in's three dialects share: a request as it was meant, an answer before it is written, and problems."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from standins.provider_limits import LimitState

_CJK = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]+")
LATIN_UNITS, CJK_UNITS, UNITS_PER_TOKEN = 3, 10, 12
"""A Latin character is a quarter of a token, a Chinese or Japanese one 1 / 1.2: in twelfths, so that sums are exact."""
PIECE_CHARACTERS = 6
"""Length of a stream's pieces: short enough to cut a key in two."""


def units_in(text: str) -> Iterator[tuple[int, int]]:
    """Yield runs of characters of the same weight, each as its length and the weight of one character."""
    end = 0
    for run in _CJK.finditer(text):
        if run.start() > end:
            yield run.start() - end, LATIN_UNITS
        yield run.end() - run.start(), CJK_UNITS
        end = run.end()
    if end < len(text):
        yield len(text) - end, LATIN_UNITS


def tokens_in(text: str) -> int:
    """Return how many tokens a text has here: 4 characters one in Latin script, 1.2 in Chinese and Japanese."""
    return -(-sum(length * weight for length, weight in units_in(text)) // UNITS_PER_TOKEN)


def cut_to(text: str, token_count: int) -> str:
    """Return the longest beginning of a text with at most so many tokens."""
    left, end = token_count * UNITS_PER_TOKEN, 0
    for length, weight in units_in(text):
        fitting = min(length, left // weight)
        end, left = end + fitting, left - fitting * weight
        if fitting < length:
            break
    return text[:end]


def pieces_of(text: str) -> list[str]:
    return [text[at : at + PIECE_CHARACTERS] for at in range(0, len(text), PIECE_CHARACTERS)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A part of the prompt in the order of the wire."""

    text: str
    is_marked: bool = False
    """Whether the client asks to cache everything up to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request for text as it was meant, the same for all providers."""

    provider: str
    model: str
    system: str
    messages: tuple[tuple[str, str], ...]
    """Role ("user" or "assistant") and text of each."""
    schema: dict[str, Any] | None = None
    """JSON schema the answer is to follow."""
    is_json: bool = False
    """Whether JSON was asked for, with a schema or without."""
    max_output_tokens: int | None = None
    is_stream: bool = False
    includes_usage: bool = True
    """Whether a stream ends with its usage."""
    blocks: tuple[Block, ...] = ()

    @property
    def text(self) -> str:
        """All of it."""
        return "\n\n".join([self.system, *(text for _, text in self.messages)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Tokens of one answer."""

    input: int
    """All of them: read from the cache and written to it included."""
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    """All of them: reasoning included."""
    reasoning: int = 0


class Finish(Enum):
    """Why an answer ends."""

    STOP = "stop"
    LENGTH = "length"
    REFUSAL = "refusal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """An answer before it is written in a provider's way."""

    answer_id: str
    model: str
    text: str
    finish: Finish
    counted: Counted
    refusal: str = ""
    includes_usage: bool = True


class Trouble(Enum):
    """What a provider answers instead of what was asked for."""

    RATE_LIMIT = "rate limit"
    QUOTA = "quota"
    OVERLOADED = "overloaded"
    SERVER = "server"
    KEY = "key"
    NO_KEY = "no key"
    MODEL = "model"
    PARAMETER = "parameter"
    TOO_LONG = "too long"
    INVALID = "invalid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A trouble with what its answer has to name."""

    trouble: Trouble
    model: str = ""
    parameter: str = ""
    message: str = ""
    """Instead of the provider's usual words."""
    code: str | None = None
    retry_after_s: float | None = None
    retry_form: str = "seconds"
    """Where the answer says how long to wait: "seconds", "ms", "date", "retry_info" or "reset_header"."""


class RequestRefused(Exception):
    """A request that the provider would not take."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A problem as it is sent."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


class Dialect(Protocol):
    """How one provider says things."""

    name: str
    is_cached_by_mark: bool
    """Whether only what the client marks is cached."""
    uncached_models: re.Pattern[str]
    """Models without a cache."""

    def key_problem(self, headers: Mapping[str, str], accepted_key: str | None) -> Problem | None:
        """Return what is wrong with the key or the version; `accepted_key` None takes any key."""
        ...

    def asked(self, model: str, body: dict[str, Any], *, is_stream: bool) -> Asked:
        """Return what a request asks for.

        Raises:
            RequestRefused: the request is not one the provider would take.
        """
        ...

    def parameter_problem(self, model: str, body: dict[str, Any]) -> Problem | None:
        """Return the first parameter that the model does not take."""
        ...

    def answer(self, made: Made) -> dict[str, Any]:
        """Return the body of an answer in one piece."""
        ...

    def stream_head(self, made: Made) -> bytes:
        """Return what a stream begins with."""
        ...

    def stream_piece(self, made: Made, text: str) -> bytes:
        """Return the event that brings a piece of the text."""
        ...

    def stream_tail(self, made: Made) -> bytes:
        """Return what a complete stream ends with."""
        ...

    def stream_error(self) -> bytes:
        """Return the event that reports trouble in the middle of a stream."""
        ...

    def bad_line(self) -> bytes:
        """Return an event that is no JSON."""
        ...

    def refusal(self, problem: Problem) -> Refusal:
        """Return the answer to a request that is turned down."""
        ...

    def headers(self, state: LimitState) -> dict[str, str]:
        """Return the headers of every answer."""
        ...


def compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def text_of(content: object) -> str:
    """Return the text of a content that is a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
