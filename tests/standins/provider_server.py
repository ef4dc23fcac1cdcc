"""A stand-in for the model providers: real HTTP on loopback in the words of OpenAI, Anthropic and Gemini.

    async with ProviderStandIn() as provider:
        provider.script([rate_limited(retry_after=1), None, cut_stream(after=3)])  # None answers properly
        ...                                       # point SDKs at provider.openai_url, .anthropic_url, .gemini_url
        assert [each.status for each in provider.requests] == [429, 200, 200]

It counts tokens by one rule, keeps to rate limits where it is told to, caches beginnings of prompts as the providers do
and refuses what their models refuse. It runs in the event loop of the test, so a client that blocks belongs into a
thread; `provider_process.py` runs it in a process of its own.
"""

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from aiohttp import web
from standins.provider_anthropic import AnthropicDialect
from standins.provider_cache import Beginning, PromptCache, beginnings_of
from standins.provider_faults import (
    Fault,
    bad_body,
    bad_parameter,
    bad_stream_line,
    cut_stream,
    drop_connection,
    empty_length,
    html_502,
    length,
    overloaded,
    quota_spent,
    rate_limited,
    refusal,
    refused_key,
    server_error,
    silent_end,
    stall,
    stream_error,
    too_long,
    unknown_model,
)
from standins.provider_gemini import GeminiDialect
from standins.provider_limits import Limit, Limits, LimitState
from standins.provider_openai import OpenAiDialect
from standins.provider_wire import (
    Asked,
    Counted,
    Dialect,
    Finish,
    Made,
    Problem,
    RequestRefused,
    Trouble,
    compact,
    cut_to,
    pieces_of,
    tokens_in,
)
from standins.provider_writers import plain_answer

__all__ = [
    "Asked",
    "Fault",
    "Limit",
    "ProviderStandIn",
    "Received",
    "bad_body",
    "bad_parameter",
    "bad_stream_line",
    "cut_stream",
    "drop_connection",
    "empty_length",
    "html_502",
    "length",
    "overloaded",
    "quota_spent",
    "rate_limited",
    "refusal",
    "refused_key",
    "server_error",
    "silent_end",
    "stall",
    "stream_error",
    "tokens_in",
    "too_long",
    "unknown_model",
]

BACKLOG = 4_096
MAX_BODY_BYTES = 64 * 2**20
REQUESTS_PATH = "/requests"
"""Answers what was asked so far; with ?model=a&asked=3&answered=2 as soon as that model was asked three times and has
answered two of them."""
HOLD_PATH = "/hold"
"""With ?model=a&after=3 that model answers three requests more and holds the others back, without `after` none."""
_NEVER_ANSWERED = Counted(input=0)


@dataclass(kw_only=True, slots=True)
class Received:
    """One request as it arrived, and what became of it."""

    provider: str
    model: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    started_at: float
    """`time.monotonic()` of its arrival."""
    status: int = 0
    """Of the answer; 0 while there is none and where the connection was dropped without one."""
    asked: Asked | None = None
    """What it asked for; None for embeddings and for what cannot be read."""
    counted: Counted = _NEVER_ANSWERED
    """Tokens of the answer, as it says them."""
    answer_id: str = ""
    """What the answer is known by, without what the provider puts before it."""

    def summary(self) -> dict[str, Any]:
        """Return the short of it; `digest` is the same for requests that ask the same."""
        names = ("provider", "model", "path", "started_at", "status", "answer_id")
        digest = hashlib.sha256(json.dumps([self.path, self.body], sort_keys=True).encode()).hexdigest()
        return {name: getattr(self, name) for name in names} | asdict(self.counted) | {"digest": digest}


Writer = Callable[[Asked], str]


@dataclass(kw_only=True)
class ProviderStandIn:
    """Serves all three providers for as long as its context is open."""

    accepted_key: str | None = None
    """The one key that is taken; None takes any."""
    models: Collection[str] | None = None
    """Names of all models there are; None takes any name."""
    writer: Writer = plain_answer
    """Makes the text of a proper answer."""
    latency_s: float = 0.0
    """Time to the first piece of an answer."""
    tokens_per_s: float | None = None
    """Speed of what follows; None sends all at once."""
    reasoning_tokens: int = 0
    """Spent on every answer before its text."""
    port: int = 0
    """0 picks a free one."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """How every request for a model is answered, by its name; the script goes before it."""
    requests: list[Received] = field(default_factory=list)
    most_at_once: int = 0
    """Most requests under way at the same time."""

    def __post_init__(self) -> None:
        self._script: list[Fault | None] = []
        self._limits = Limits(Limit(), time.monotonic)
        self._cache = PromptCache()
        self._under_way = 0
        self._numbers = itertools.count(1)
        self._url = ""
        self._change = asyncio.Event()
        self._held: dict[str, _Held] = {}

    @property
    def openai_url(self) -> str:
        return f"{self._url}/v1"

    @property
    def anthropic_url(self) -> str:
        return self._url

    @property
    def gemini_url(self) -> str:
        return self._url

    def script(self, answers: Sequence[Fault | None]) -> None:
        """Set how the next requests are answered, one each; None and all requests after them are answered properly."""
        self._script = list(answers)

    def limit(self, requests_per_s: float, burst: int, **others: Any) -> None:
        """Set what each model may be asked from now on; `others` are those of `Limit`."""
        self._limits = Limits(Limit(requests_per_s=requests_per_s, burst=burst, **others), time.monotonic)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._openai_chat)
        app.router.add_post("/v1/embeddings", self._openai_embeddings)
        app.router.add_post("/v1/messages", self._anthropic_messages)
        app.router.add_post("/v1/messages/count_tokens", self._anthropic_count)
        app.router.add_post("/{version:v1|v1beta}/models/{model}:{method}", self._gemini)
        app.router.add_get(REQUESTS_PATH, self._list_requests)
        app.router.add_post(HOLD_PATH, self._hold)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=BACKLOG).start()
        self._url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _openai_chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, _OPENAI, _chat(await _body(request)))

    async def _openai_embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        model = str(body.get("model", ""))
        return await self._answer(request, _OPENAI, _Job(model, body, lambda: _OPENAI.embedded(model, body)))

    async def _anthropic_messages(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, _ANTHROPIC, _chat(await _body(request)))

    async def _anthropic_count(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        return await self._answer(request, _ANTHROPIC, _count(_ANTHROPIC, str(body.get("model")), body, "input_tokens"))

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        body, model, method = await _body(request), request.match_info["model"], request.match_info["method"]
        if method in {"generateContent", "streamGenerateContent"}:
            return await self._answer(request, _GEMINI, _Job(model, body, is_stream=method.startswith("stream")))
        if method == "countTokens":
            return await self._answer(request, _GEMINI, _count(_GEMINI, model, body, "totalTokens"))
        if method in {"embedContent", "batchEmbedContents"}:
            return await self._answer(request, _GEMINI, _Job(model, body, lambda: _GEMINI.embedded(body)))
        raise web.HTTPNotFound

    async def _list_requests(self, request: web.Request) -> web.StreamResponse:
        model = request.query.get("model", "")
        asked, answered = (int(request.query.get(name, "0")) for name in ("asked", "answered"))
        while not self._has_been(model, asked=asked, answered=answered):
            self._change.clear()
            await self._change.wait()
        return web.json_response([each.summary() for each in self.requests])

    def _has_been(self, model: str, *, asked: int, answered: int) -> bool:
        statuses = [each.status for each in self.requests if each.model == model]
        return len(statuses) >= asked and statuses.count(200) >= answered

    async def _hold(self, request: web.Request) -> web.StreamResponse:
        model, after = request.query["model"], request.query.get("after")
        before = self._held.pop(model, None)
        if before:
            before.release.set()
        if after is not None:
            self._held[model] = _Held(left=int(after))
        return web.json_response({})

    async def _answer(self, request: web.Request, dialect: Dialect, job: "_Job") -> web.StreamResponse:
        received = Received(
            provider=dialect.name,
            model=job.model,
            path=request.path,
            headers=dict(request.headers),
            body=job.body,
            started_at=time.monotonic(),
        )
        self.requests.append(received)
        self._change.set()
        fault = self._script.pop(0) if self._script else self.faults.get(job.model)
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        exchange = _Exchange(self, request, dialect, job, received)
        try:
            await self._hold_back(job.model)
            response = await exchange.run(fault)
            received.status = 0 if exchange.is_dropped else response.status
            return response
        finally:
            self._under_way -= 1
            self._change.set()

    async def _hold_back(self, model: str) -> None:
        held = self._held.get(model)
        if held and held.left > 0:
            held.left -= 1
        elif held:
            await held.release.wait()

    def made(self, dialect: Dialect, asked: Asked, beginnings: Sequence[Beginning]) -> Made:
        """Return the proper answer; one that is longer than it may be is cut."""
        text = self.writer(asked)
        most = asked.max_output_tokens
        left = None if most is None else max(0, most - self.reasoning_tokens)
        is_cut = left is not None and tokens_in(text) > left
        if left is not None and is_cut:
            text = cut_to(text, left)
        cached, written = self._cache.split(dialect, asked, beginnings)
        counted = Counted(
            input=sum(tokens_in(block.text) for block in asked.blocks),
            cached=cached,
            cache_write=written,
            output=self.reasoning_tokens + tokens_in(text),
            reasoning=self.reasoning_tokens,
        )
        return Made(
            answer_id=f"{next(self._numbers):08d}",
            model=asked.model,
            text=text,
            finish=Finish.LENGTH if is_cut else Finish.STOP,
            counted=counted,
            includes_usage=asked.includes_usage,
        )

    def admit(self, dialect: Dialect, model: str, token_count: int) -> Problem | None:
        """Return the problem of a request that is over the limit."""
        wait_s = self._limits.admit(dialect.name, model, token_count)
        if wait_s <= 0:
            return None
        form = "retry_info" if dialect is _GEMINI else self._limits.limit.retry_form
        after_s = float(-(-wait_s // 1)) if form == "seconds" else wait_s
        return Problem(trouble=Trouble.RATE_LIMIT, model=model, retry_after_s=after_s, retry_form=form)

    def limits_of(self, dialect: Dialect, model: str) -> LimitState:
        return self._limits.state(dialect.name, model)

    def began(self, asked: Asked, beginnings: Sequence[Beginning]) -> None:
        self._cache.remember(asked, beginnings)


@dataclass
class _Held:
    """A model whose answers are held back."""

    left: int
    """Requests it still answers."""
    release: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _Job:
    """What a request wants: a text, or something that is worked out at once."""

    model: str
    body: dict[str, Any]
    work: Callable[[], tuple[dict[str, Any], int]] | None = None
    """Returns the body of the answer and its tokens; None for a text."""
    is_stream: bool = False


class _Exchange:
    """One request on its way."""

    def __init__(
        self, standin: ProviderStandIn, request: web.Request, dialect: Dialect, job: _Job, received: Received
    ) -> None:
        self._standin, self._request, self._dialect = standin, request, dialect
        self._job, self._received = job, received
        self._beginnings: list[Beginning] = []
        self._worked: bytes = b""
        self.is_dropped = False

    @property
    def is_stream(self) -> bool:
        return self._job.is_stream

    async def run(self, fault: Fault | None) -> web.StreamResponse:
        """Answer the request, with a fault or properly."""
        try:
            self._read()
            if fault is None:
                self._check()
        except RequestRefused as refused:
            return await self.send_problem(refused.problem)
        return await (fault.answer(self) if fault else self.send(self.made()))

    def _read(self) -> None:
        """Take in what is asked."""
        standin, job = self._standin, self._job
        problem = self._dialect.key_problem(self._request.headers, standin.accepted_key)
        if problem is None and standin.models is not None and job.model not in standin.models:
            problem = Problem(trouble=Trouble.MODEL)
        if problem:
            raise RequestRefused(problem)
        try:
            self._understand(job)
        except (KeyError, TypeError, ValueError) as error:
            message = f"the body is not one this method takes ({type(error).__name__} at {error})"
            raise RequestRefused(Problem(trouble=Trouble.INVALID, message=message)) from error

    def _understand(self, job: _Job) -> None:
        if job.work:
            answer, tokens = job.work()
            self._worked = compact(answer)
            self._received.counted = Counted(input=tokens)
            return
        asked = self._dialect.asked(job.model, job.body, is_stream=job.is_stream)
        self._received.asked = asked
        self._beginnings = beginnings_of(self._dialect, asked)

    def _check(self) -> None:
        """Refuse what the model does not take and what is over the limit."""
        problem = None if self._job.work else self._dialect.parameter_problem(self._job.model, self._job.body)
        asked = self._received.asked
        tokens = sum(tokens_in(block.text) for block in asked.blocks) if asked else self._received.counted.input
        problem = problem or self._standin.admit(self._dialect, self._job.model, tokens)
        if problem:
            raise RequestRefused(problem)

    def made(self) -> Made:
        asked = self._received.asked
        if asked is None:
            nothing = self._received.counted
            return Made(answer_id="", model=self._job.model, text="", finish=Finish.STOP, counted=nothing)
        return self._standin.made(self._dialect, asked, self._beginnings)

    def body(self, made: Made) -> bytes:
        return self._worked or compact(self._dialect.answer(made))

    async def send(self, made: Made) -> web.StreamResponse:
        if not self.is_stream:
            await self._wait(made.counted.output)
            self._begins(made)
            return await self.send_body(200, self.body(made), "application/json")
        response = await self.begin_stream(made, len(made.text))
        await response.write(self._dialect.stream_tail(made))
        return response

    async def send_problem(self, problem: Problem) -> web.StreamResponse:
        refusal = self._dialect.refusal(replace(problem, model=problem.model or self._job.model))
        return web.Response(
            status=refusal.status,
            body=compact(refusal.body),
            headers={**self._headers("application/json"), **refusal.headers},
        )

    async def send_body(self, status: int, body: bytes, content_type: str) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=self._headers(content_type))

    async def begin_stream(self, made: Made, piece_count: int) -> web.StreamResponse:
        await self._wait(0)
        self._begins(made)
        response = web.StreamResponse(headers=self._headers("text/event-stream"))
        await response.prepare(self._request)
        head, pieces = self._dialect.stream_head(made), pieces_of(made.text)[:piece_count]
        if self._standin.tokens_per_s is None:
            await response.write(head + b"".join(self._dialect.stream_piece(made, piece) for piece in pieces))
            return response
        began, sent = time.monotonic(), 0
        if head:
            await response.write(head)
        for piece in pieces:
            await response.write(self._dialect.stream_piece(made, piece))
            sent += len(piece)
            due = began + tokens_in(made.text[:sent]) / self._standin.tokens_per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return response

    async def begin_body(self, body: bytes, length: int) -> web.StreamResponse:
        headers = {**self._headers("application/json"), "Content-Length": str(length)}
        response = web.StreamResponse(headers=headers)
        await response.prepare(self._request)
        await response.write(body)
        return response

    def stream_error(self) -> bytes:
        return self._dialect.stream_error()

    def bad_line(self) -> bytes:
        return self._dialect.bad_line()

    def stream_tail(self, made: Made) -> bytes:
        return self._dialect.stream_tail(made)

    def hang_up(self) -> None:
        self.is_dropped = True
        if self._request.transport:
            self._request.transport.abort()

    async def _wait(self, output_tokens: int) -> None:
        """Wait for the first token and for as many further ones."""
        speed = self._standin.tokens_per_s
        seconds = self._standin.latency_s + (output_tokens / speed if speed else 0.0)
        if seconds:
            await asyncio.sleep(seconds)

    def _begins(self, made: Made) -> None:
        self._received.answer_id = made.answer_id
        if self._received.asked:  # what a vector took was counted when it was asked for, and it has no output
            self._received.counted = made.counted
            self._standin.began(self._received.asked, self._beginnings)

    def _headers(self, content_type: str) -> dict[str, str]:
        state = self._standin.limits_of(self._dialect, self._job.model)
        headers = self._dialect.headers(state)
        self._received.answer_id = self._received.answer_id or headers.get("x-request-id", "")
        return {"Content-Type": content_type, **headers}


def _chat(body: dict[str, Any]) -> _Job:
    return _Job(str(body.get("model", "")), body, is_stream=bool(body.get("stream")))


def _count(dialect: Dialect, model: str, body: dict[str, Any], name: str) -> _Job:
    def work() -> tuple[dict[str, Any], int]:
        asked = dialect.asked(model, body, is_stream=False)
        tokens = sum(tokens_in(block.text) for block in asked.blocks)
        return {name: tokens}, tokens

    return _Job(model, body, work)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise web.HTTPBadRequest(text="not JSON") from None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="not an object")
    return body


_OPENAI, _ANTHROPIC, _GEMINI = OpenAiDialect(), AnthropicDialect(), GeminiDialect()
