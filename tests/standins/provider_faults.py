"""What can go wrong with a provider, each in the form that the asked provider really gives it.

Faults of streams act on streams; on an answer in one piece they act as its nearest kin, which each names.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from aiohttp import web
from standins.provider_wire import Counted, Finish, Made, Problem, Trouble, tokens_in

FOREVER_S = 600
_HTML = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body>"
)


class Exchange(Protocol):
    """One request and the ways to answer it."""

    @property
    def is_stream(self) -> bool:
        """Whether a stream was asked for."""
        ...

    def made(self) -> Made:
        """Return the proper answer, made now."""
        ...

    async def send(self, made: Made) -> web.StreamResponse:
        """Send an answer in the form asked for."""
        ...

    async def send_problem(self, problem: Problem) -> web.StreamResponse:
        """Turn the request down."""
        ...

    async def send_body(self, status: int, body: bytes, content_type: str) -> web.StreamResponse:
        """Send a body as it is."""
        ...

    async def begin_stream(self, made: Made, piece_count: int) -> web.StreamResponse:
        """Begin a stream and send its first pieces."""
        ...

    async def begin_body(self, body: bytes, length: int) -> web.StreamResponse:
        """Announce a body of a length and send the beginning of it."""
        ...

    def body(self, made: Made) -> bytes:
        """Return an answer in one piece, as it would be sent."""
        ...

    def stream_error(self) -> bytes:
        """Return the event that reports trouble in the middle of a stream."""
        ...

    def bad_line(self) -> bytes:
        """Return an event that is no JSON."""
        ...

    def stream_tail(self, made: Made) -> bytes:
        """Return what a complete stream ends with."""
        ...

    def hang_up(self) -> None:
        """End the connection at once."""
        ...


@dataclass(frozen=True)
class Fault:
    """Answers a request in its own way."""

    name: str
    answer: Callable[[Exchange], Awaitable[web.StreamResponse]] = field(repr=False, compare=False)


def rate_limited(retry_after: float | None = None, form: str = "seconds") -> Fault:
    """Answer 429.

    Args:
        retry_after: seconds to wait; None says nothing of it.
        form: "seconds" and "date" in Retry-After, "ms" in retry-after-ms, "retry_info" in the details (Gemini; the
            others have seconds instead), "reset_header" in the limit's own headers (Gemini has none: details).
    """
    problem = Problem(trouble=Trouble.RATE_LIMIT, retry_after_s=retry_after, retry_form=form)
    return _turned_down("rate_limited", problem)


def quota_spent() -> Fault:
    """Say that the account's money or quota is spent: 429 insufficient_quota, 402, 429 with a QuotaFailure."""
    return _turned_down("quota_spent", Problem(trouble=Trouble.QUOTA))


def overloaded() -> Fault:
    """Answer 503, or 529 as Anthropic does."""
    return _turned_down("overloaded", Problem(trouble=Trouble.OVERLOADED))


def server_error() -> Fault:
    """Answer 500."""
    return _turned_down("server_error", Problem(trouble=Trouble.SERVER))


def refused_key() -> Fault:
    """Say that the key is wrong: 401, or 400 API_KEY_INVALID as Gemini does."""
    return _turned_down("refused_key", Problem(trouble=Trouble.KEY))


def unknown_model() -> Fault:
    """Answer 404 for the model."""
    return _turned_down("unknown_model", Problem(trouble=Trouble.MODEL))


def bad_parameter(name: str) -> Fault:
    """Answer 400 and name a parameter."""
    return _turned_down(f"bad_parameter_{name}", Problem(trouble=Trouble.PARAMETER, parameter=name))


def too_long() -> Fault:
    """Say that the prompt is longer than the model's context."""
    return _turned_down("too_long", Problem(trouble=Trouble.TOO_LONG))


def html_502() -> Fault:
    """Answer with the page of a gateway in between."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        return await exchange.send_body(502, _HTML, "text/html")

    return Fault("html_502", answer)


def refusal(reason: str = "I can't help with that.") -> Fault:
    """Have the model decline."""

    def declined(made: Made) -> Made:
        return replace(made, text="", finish=Finish.REFUSAL, refusal=reason, counted=_with_output(made, reason))

    return _changed("refusal", declined)


def length() -> Fault:
    """End the text at its half, as if the limit on output tokens were reached."""

    def halved(made: Made) -> Made:
        half = made.text[: len(made.text) // 2]
        return replace(made, text=half, finish=Finish.LENGTH, counted=_with_output(made, half))

    return _changed("length", halved)


def empty_length() -> Fault:
    """Spend the limit on output tokens on reasoning and write nothing."""

    def empty(made: Made) -> Made:
        counted = replace(made.counted, reasoning=made.counted.output)
        return replace(made, text="", finish=Finish.LENGTH, counted=counted)

    return _changed("empty_length", empty)


def cut_stream(after: int = 3) -> Fault:
    """Hang up after some pieces; in the middle of an answer in one piece."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        made = exchange.made()
        if exchange.is_stream:
            response = await exchange.begin_stream(made, after)
        else:
            body = exchange.body(made)
            response = await exchange.begin_body(body[: len(body) // 2], len(body))
        exchange.hang_up()
        return response

    return Fault(f"cut_stream_{after}", answer)


def silent_end(after: int = 3) -> Fault:
    """End the stream properly after some pieces, without a reason; an answer in one piece is half of one."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        made = exchange.made()
        if exchange.is_stream:
            return await exchange.begin_stream(made, after)
        body = exchange.body(made)
        return await exchange.send_body(200, body[: len(body) // 2], "application/json")

    return Fault(f"silent_end_{after}", answer)


def stream_error(after: int = 3) -> Fault:
    """Report trouble after some pieces; an answer in one piece is turned down as overloaded."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if not exchange.is_stream:
            return await exchange.send_problem(Problem(trouble=Trouble.OVERLOADED))
        response = await exchange.begin_stream(exchange.made(), after)
        await response.write(exchange.stream_error())
        return response

    return Fault(f"stream_error_{after}", answer)


def bad_stream_line(after: int = 3) -> Fault:
    """Send an event that is no JSON after some pieces; an answer in one piece is none either."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if not exchange.is_stream:
            return await exchange.send_body(200, b'{"broken', "application/json")
        made = exchange.made()
        response = await exchange.begin_stream(made, after)
        await response.write(exchange.bad_line() + exchange.stream_tail(made))
        return response

    return Fault(f"bad_stream_line_{after}", answer)


def bad_body() -> Fault:
    """Answer 200 with what is no JSON; a stream begins with it."""
    return Fault("bad_body", bad_stream_line(after=0).answer)


def stall(after: int = 3) -> Fault:
    """Fall silent after some pieces, until the client goes; an answer in one piece never begins."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        response = await exchange.begin_stream(exchange.made(), after) if exchange.is_stream else web.Response()
        await asyncio.sleep(FOREVER_S)
        return response

    return Fault(f"stall_{after}", answer)


def drop_connection() -> Fault:
    """Hang up without a word."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        exchange.hang_up()
        return web.Response(status=500)

    return Fault("drop_connection", answer)


def _turned_down(name: str, problem: Problem) -> Fault:
    async def answer(exchange: Exchange) -> web.StreamResponse:
        return await exchange.send_problem(problem)

    return Fault(name, answer)


def _changed(name: str, change: Callable[[Made], Made]) -> Fault:
    async def answer(exchange: Exchange) -> web.StreamResponse:
        return await exchange.send(change(exchange.made()))

    return Fault(name, answer)


def _with_output(made: Made, text: str) -> Counted:
    return replace(made.counted, output=made.counted.reasoning + tokens_in(text))
