"""One request to a provider and its answer as far as it came; whatever goes wrong becomes a ProviderFault."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from services.common.paid.calls import TextSink
from services.common.paid.faults import FaultKind, ProviderFault
from services.common.paid.usage import TokenUsage
from services.common.providers.chat import ChatRequest
from services.common.providers.headers import rate_state_of, reset_after_of, retry_after_of
from services.common.providers.tokens import estimated_tokens

T = TypeVar("T")

MAX_PROBLEM_CHARACTERS = 300
_KEYS = re.compile(r"\b(?:sk|pk|rk|gsk|xai)-[\w*-]{6,}|\bAIza[\w-]{10,}|\bBearer\s+\S+")
"""What looks like a key: a provider may show a part of the one it refuses, or another one."""
_TAG = re.compile(r"<[^<>]*>")
_TOO_LONG = re.compile(
    r"context[ _]length|context window|prompt is too long|input is too long|request too large|too many (input )?tokens"
    r"|input token count|exceeds? .{0,40}\btokens|maximum .{0,30}tokens",
    re.IGNORECASE,
)
_STATUSES = {
    401: FaultKind.KEY_REFUSED,
    402: FaultKind.QUOTA,
    403: FaultKind.KEY_REFUSED,
    404: FaultKind.NO_SUCH_MODEL,
    408: FaultKind.TIMEOUT,
    409: FaultKind.OVERLOADED,
    413: FaultKind.TOO_LONG,
    425: FaultKind.OVERLOADED,
    429: FaultKind.RATE_LIMIT,
}
_OUTLINES = {
    FaultKind.UNREACHABLE: "no connection",
    FaultKind.TRUNCATED: "it broke off",
    FaultKind.MALFORMED: "it cannot be read",
}
_PAID_FOR = {FaultKind.TRUNCATED, FaultKind.MALFORMED}
"""Faults of answers that were given, and so will be billed."""
_SERVER_ERRORS = 500
_CLIENT_ERRORS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a provider said was wrong, as its library tells it."""

    kind: FaultKind
    problem: str
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    """Where the body says it rather than a header."""


Explain = Callable[[Exception], Said | None]
"""Reads the exceptions of one library; None for those that are not its own."""


class Exchange:
    """One request and its answer."""

    def __init__(self, model: str, key: str, timeout_s: float, explain: Explain, *, asked: str = "") -> None:
        """Begin.

        Args:
            model: "provider:model".
            key: kept out of every message.
            timeout_s: longest wait for the answer or its next piece.
            explain: reads the library's exceptions.
            asked: all of the prompt, to estimate its tokens where the provider does not say.
        """
        self.model = model
        self._key = key
        self._timeout_s = timeout_s
        self._explain = explain
        self._asked = asked
        self.counted: TokenUsage | None = None
        """What the provider has counted of the prompt, where it says so ahead of the text."""
        self._pieces: list[str] = []
        self._is_stream = False
        self._has_begun = False

    @property
    def text(self) -> str:
        """What came of the answer so far."""
        return "".join(self._pieces)

    def add(self, piece: str) -> None:
        """Note a piece of the answer."""
        self._pieces.append(piece)

    def began(self) -> None:
        """Note that the answer to a stream has begun: from now on it is paid for."""
        self._is_stream = self._has_begun = True

    def estimated(self) -> TokenUsage:
        """Return the tokens of the prompt and of what came so far, counted by us."""
        prompt = self.counted or TokenUsage(input_tokens=estimated_tokens(self._asked))
        return replace(prompt, output_tokens=estimated_tokens(self.text), is_estimated=True)

    @contextlib.asynccontextmanager
    async def within_time(self) -> AsyncIterator[None]:
        """Give one step its time, and turn whatever goes wrong in it into a fault.

        Raises:
            ProviderFault: it took too long or failed.
        """
        with self.told():
            async with asyncio.timeout(self._timeout_s):
                yield

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Turn whatever goes wrong into a fault.

        Raises:
            ProviderFault: it failed.
        """
        try:
            yield
        except ProviderFault:
            raise
        except Exception as error:  # noqa: BLE001 # what four libraries and their parsers raise shares no other class
            # Not chained: the libraries' exceptions hold the request with its key, and texts that may show it.
            raise self._fault_of(error) from None

    async def stream(self, events: AsyncIterable[T], take: Callable[[T], str], sink: TextSink) -> None:
        """Take all events of a stream and hand their texts on.

        Args:
            events: as the library gives them.
            take: notes what an event says and returns its text.
            sink: takes the texts; what it raises passes through.

        Raises:
            ProviderFault: the stream broke, stalled or cannot be read.
        """
        self._is_stream = True
        iterator = aiter(events)
        while True:
            async with self.within_time():
                try:
                    event = await anext(iterator)
                except StopAsyncIteration:
                    return
                self._has_begun = True
                piece = take(event)
            if piece:
                self.add(piece)
                sink.text(piece)

    def fault(self, kind: FaultKind, problem: str) -> ProviderFault:
        """Return a fault that we found ourselves."""
        return self._made(Said(kind=kind, problem=problem))

    def ended_without_reason(self) -> ProviderFault:
        """Return the fault of an answer that does not say why it ends: nobody knows whether it is whole."""
        return self.fault(FaultKind.TRUNCATED if self._is_stream else FaultKind.MALFORMED, "it ended without a reason")

    def _fault_of(self, error: Exception) -> ProviderFault:
        said = self._explain(error)
        if said is None:
            kind = _transport_kind(error, is_stream=self._is_stream, has_begun=self._has_begun)
            is_silence = kind is FaultKind.TIMEOUT
            said = Said(kind=kind, problem=f"silent for {self._timeout_s:g} s" if is_silence else _outline(error, kind))
        return self._made(said)

    def _made(self, said: Said) -> ProviderFault:
        rate = rate_state_of(said.headers)
        is_paid_for = self._has_begun or said.kind in _PAID_FOR
        retry_after_s = said.retry_after_s
        if retry_after_s is None:
            retry_after_s = retry_after_of(said.headers)
        if retry_after_s is None and said.kind is FaultKind.RATE_LIMIT:
            retry_after_s = reset_after_of(rate)
        return ProviderFault(
            said.kind,
            self.model,
            without_keys(said.problem, self._key),
            retry_after_s=retry_after_s,
            rate=rate,
            tokens=self.estimated() if is_paid_for else None,
        )


def asked_in(request: ChatRequest) -> str:
    """Return all that a request asks, as one text."""
    turns = [text for turn in request.turns for text in (turn.answer, turn.correction)]
    return "\n".join([request.system, request.shared, request.prompt, *turns])


def kind_of_status(status: int, problem: str) -> FaultKind:
    """Return the class of an answer with an HTTP status of 400 or more, where nothing else in it tells more."""
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= _SERVER_ERRORS:
        return FaultKind.OVERLOADED
    if status < _CLIENT_ERRORS:
        return FaultKind.MALFORMED
    return FaultKind.TOO_LONG if is_too_long(problem) else FaultKind.BAD_REQUEST


def is_too_long(problem: str) -> bool:
    """Return whether a provider's words say that the prompt is too long."""
    return _TOO_LONG.search(problem) is not None


def without_keys(problem: str, key: str) -> str:
    """Return a provider's words in one line of at most 300 characters, without tags and anything like a key."""
    cleaned = problem.replace(key, "***") if key else problem
    return " ".join(_TAG.sub(" ", _KEYS.sub("***", cleaned)).split())[:MAX_PROBLEM_CHARACTERS]


def public_address(base_url: str) -> str:
    """Return an address without a name and a password in it."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def _transport_kind(error: Exception, *, is_stream: bool, has_begun: bool) -> FaultKind:
    """Return the class of an exception of the network; the libraries hide what really happened behind several others.

    What cannot be read, a JSON parser's complaint for example, is MALFORMED.
    """
    import aiohttp
    import httpx2

    cut = FaultKind.TRUNCATED if is_stream else FaultKind.MALFORMED
    gone = FaultKind.TRUNCATED if has_begun else FaultKind.UNREACHABLE
    kinds: list[tuple[tuple[type[BaseException], ...], FaultKind]] = [
        ((aiohttp.ConnectionTimeoutError,), FaultKind.UNREACHABLE),
        ((TimeoutError,), FaultKind.TIMEOUT),  # those of aiohttp while reading, and our own
        ((aiohttp.ClientPayloadError,), cut),
        ((aiohttp.ClientConnectionError, OSError), gone),  # before httpx2's, which calls a lost connection a timeout
        ((httpx2.TimeoutException,), FaultKind.TIMEOUT),
        ((httpx2.ReadError, httpx2.RemoteProtocolError), cut),
        ((httpx2.TransportError, aiohttp.ClientError), gone),
    ]
    causes = list(_causes(error))
    found = (kind for types, kind in kinds if any(isinstance(each, types) for each in causes))
    return next(found, FaultKind.MALFORMED)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _outline(error: Exception, kind: FaultKind) -> str:
    """Return what happened, without the words of parsers, which quote what they read: an answer or a prompt."""
    deepest = list(_causes(error))[-1]
    words = f": {deepest}" if isinstance(deepest, OSError) else ""
    return f"{_OUTLINES[kind]} ({type(deepest).__name__}{words})"
