"""What one visitor may take of the console: length and time of a form, pages that follow a survey."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.console.protection import SAFE_METHODS

MAX_FORM_BYTES = 128 * 1024
"""More than twice the longest question, each of its characters written as twelve."""
FORM_S = 20.0
"""Longest that a form may take to arrive."""
MAX_STREAMS = 400
"""Pages that follow a survey at one time; far fewer than connections, so that pages can be read beside them."""
MAX_STREAMS_EACH = 100
"""Of one visitor, as far as tokens tell visitors apart."""
UNBUFFERED = {"X-Accel-Buffering": "no"}
"""What nginx and its kin look at before they hold a stream back."""
FORM_TYPE = "application/x-www-form-urlencoded"


class FormLimit:
    """Reads forms whole before the application sees them, and refuses what is too long, too slow or no form."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        status, fault, body = 0, "", b""
        kind = Headers(scope=scope).get("content-type", FORM_TYPE)
        try:
            body = await asyncio.wait_for(_body(receive), FORM_S)
        except _TooLongError:
            status, fault = 413, f"A form may hold {MAX_FORM_BYTES} bytes.\n"
        except TimeoutError:
            status, fault = 408, "The form took too long to arrive.\n"
        except _GoneError:
            return
        if body and kind.partition(";")[0].strip().lower() != FORM_TYPE:
            status, fault = 415, "Forms are read as browsers send them by default.\n"
        if status:
            refusal = PlainTextResponse(fault, status_code=status, headers={"Connection": "close"})
            await refusal(scope, receive, send)
            return
        unread = [body]

        async def receive_again() -> Message:
            return {"type": "http.request", "body": unread.pop()} if unread else await receive()

        await self._app(scope, receive_again, send)


class _TooLongError(Exception):
    """More came than a form may hold."""


class _GoneError(Exception):
    """The visitor left before the end."""


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _GoneError
        body += message.get("body", b"")
        if len(body) > MAX_FORM_BYTES:
            raise _TooLongError
        if not message.get("more_body", False):
            return bytes(body)


class Places:
    """How many streams are open, in all and for each visitor."""

    def __init__(self, total: int = MAX_STREAMS, each: int = MAX_STREAMS_EACH) -> None:
        """Set the limits."""
        self._total, self._each = total, each
        self._taken: Counter[str] = Counter()
        self.closing = asyncio.Event()
        """Set when every stream is to end: its page asks again, where it then finds another gateway or this one."""

    def take(self, who: str) -> bool:
        """Return whether there is a place for a visitor, who then has it."""
        if self.closing.is_set() or self._taken.total() >= self._total or self._taken[who] >= self._each:
            return False
        self._taken[who] += 1
        return True

    def leave(self, who: str) -> None:
        """Give a place back."""
        self._taken[who] -= 1
        if not self._taken[who]:
            del self._taken[who]


class PlacedStream(StreamingResponse):
    """A stream of events that gives its place back however it ends."""

    def __init__(self, content: AsyncIterator[str], places: Places, who: str) -> None:
        """Send what a visitor took a place for.

        Args:
            content: of the stream.
            places: where the place was taken.
            who: by whom.
        """
        super().__init__(content, media_type="text/event-stream", headers=UNBUFFERED)
        self._places, self._who = places, who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.leave(self._who)
