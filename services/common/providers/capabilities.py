"""What models take: parameters, forms of JSON, ways to reason less; and the memory of what servers refused."""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from services.common.paid.faults import FaultKind, ProviderFault
from services.common.providers.chat import ChatRequest, Thinking

logger = logging.getLogger(__name__)
T = TypeVar("T")

Parameters = Mapping[str, object]
"""By the provider's names; "output_config.effort" is the field `effort` of `output_config`."""


class JsonMode(Enum):
    """How a model is held to JSON."""

    SCHEMA = "schema"
    """The server keeps to a schema."""
    OBJECT = "object"
    """The server keeps to JSON; the prompt describes the schema."""
    NONE = "none"
    """The prompt alone asks for it."""


class Capabilities(BaseModel):
    """What a model takes. The default is what may be sent to one that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampling: bool = False
    """Whether it takes a temperature."""
    temperature: float | None = None
    """What is sent to a model that takes one; None leaves it to the provider."""
    seed: bool = False
    """Whether it takes a seed."""
    token_parameter: str = "max_tokens"  # noqa: S105 # the name of a parameter
    """Name of the limit on output tokens, where the protocol has several."""
    json_mode: JsonMode = JsonMode.SCHEMA
    shows_schema: bool = False
    """Whether the prompt describes the schema even where the server keeps to it: small models then write better."""
    off: dict[str, Any] = {}
    """Parameters with which it reasons as little as it can."""
    low: dict[str, Any] = {}
    """Parameters with which it reasons little."""


Table = Sequence[tuple[str, Capabilities]]
"""What models take, by regular expressions of their whole names; the first that matches holds."""


def overrides_in(text: str) -> Sequence[tuple[str, Capabilities]]:
    """Return an operator's corrections; of each, the fields that were set count.

    Args:
        text: JSON, by regular expressions of names; empty for none.

    Raises:
        ValueError: it is no such JSON; the message says what is wrong.
    """
    if not text:
        return ()
    try:
        values = TypeAdapter(dict[str, Capabilities]).validate_json(text)
        for pattern in values:
            re.compile(pattern)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ValueError("; ".join(problems)) from error
    except re.error as error:
        raise ValueError(f"{error.pattern!r} is no regular expression: {error}") from error
    return [*values.items()]


def capabilities_of(model: str, table: Table, overrides: Table) -> Capabilities:
    """Return what a model takes: what the table says, with an operator's corrections."""
    found = next((each for pattern, each in table if re.fullmatch(pattern, model)), Capabilities())
    for pattern, each in overrides:
        if re.fullmatch(pattern, model):
            return found.model_copy(update={name: getattr(each, name) for name in each.model_fields_set})
    return found


def common_parameters(request: ChatRequest, model: Capabilities) -> dict[str, object]:
    """Return the parameters of a request that all providers call alike, and those that make the model reason less."""
    parameters: dict[str, object] = {}
    if model.sampling and model.temperature is not None:
        parameters["temperature"] = model.temperature
    if model.seed and request.seed is not None:
        parameters["seed"] = request.seed
    if request.thinking is not Thinking.DEFAULT:
        parameters |= model.off if request.thinking is Thinking.OFF else model.low
    return parameters


def described_schema(request: ChatRequest) -> str:
    """Return the words that ask for the request's form where the server does not keep to it."""
    schema = json.dumps(request.schema.model_json_schema(), ensure_ascii=False) if request.schema else ""
    return f"Answer with one JSON object and nothing else, without Markdown. It has to fit this JSON schema:\n{schema}"


def nested(parameters: Parameters) -> dict[str, Any]:
    """Return parameters as they are sent: "a.b" becomes the field b of a."""
    body: dict[str, Any] = {}
    for name, value in parameters.items():
        *outer, last = name.split(".")
        place = body
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return body


class RefusedParameters:
    """What a server refused to take for a model; it is left out from then on, for the life of the process."""

    def __init__(self, endpoint: str, required: Sequence[str] = ()) -> None:
        """Begin with nothing refused.

        Args:
            endpoint: the server, for the log.
            required: parameters without which nothing is sent, such as the limit on output tokens.
        """
        self._endpoint = endpoint
        self._required = frozenset(required)
        self._refused: set[tuple[str, str]] = set()

    async def send(self, model: str, parameters: Parameters, send: Callable[[Parameters], Awaitable[T]]) -> T:
        """Send a request; when the server names a parameter as wrong, leave it out and send it once more.

        Raises:
            ProviderFault: as `send`.
        """
        kept = {name: value for name, value in parameters.items() if (model, name) not in self._refused}
        while True:
            try:
                return await send(kept)
            except ProviderFault as fault:
                droppable = [name for name in kept if name not in self._required]
                name = named_in(fault.problem, droppable) if fault.kind is FaultKind.BAD_REQUEST else None
                if name is None:
                    raise
            if (model, name) not in self._refused:  # several calls at once may find out
                self._refused.add((model, name))
                logger.warning("%s refused %s for %s; it is left out from now on", self._endpoint, name, model)
            del kept[name]


def named_in(problem: str, names: Sequence[str]) -> str | None:
    """Return which of the parameters a problem names; the fullest name counts most, then the first in the text."""
    for part_of in (lambda name: name, _last, _first):
        places = {name: found.start() for name in names if (found := _as_written(part_of(name)).search(problem))}
        if places:
            return min(places, key=lambda name: places[name])
    return None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _first(name: str) -> str:
    return name.partition(".")[0]


def _as_written(name: str) -> re.Pattern[str]:
    """Return what finds "thinking_level", "thinkingLevel", "Thinking level"."""
    words = re.split(r"[_.]", name)
    return re.compile(r"(?<![A-Za-z])" + r"[_ .-]?".join(map(re.escape, words)) + r"(?![A-Za-z])", re.IGNORECASE)
