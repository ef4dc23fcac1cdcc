"""A call as its caller wants it, and the end of the caller's patience."""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from services.common.paid.caller import Caller
from services.common.telemetry.model_calls import ModelCall

if TYPE_CHECKING:
    import asyncio

    from services.common.paid.calls import Landed, PaidCall, Send, TextSink


class CallerLeft(Exception):
    """Nobody waits for the answer any more, and nothing was sent that would have to be awaited."""


class LiveText:
    """Passes text on as it is written, until its taker has left."""

    def __init__(self, sink: "TextSink") -> None:
        self.first_at_s: float | None = None
        """When the text began, on the monotonic clock; None while there is none."""
        self._sink: TextSink | None = sink
        self._has_text = False

    def text(self, piece: str) -> None:
        """Pass on the next piece."""
        if self.first_at_s is None:
            self.first_at_s = time.monotonic()
        if self._sink is not None:
            self._has_text = True
            self._sink.text(piece)

    def restart(self, reason: str) -> None:
        """Say that the text begins anew, unless none was passed on yet."""
        self.first_at_s = None
        if self._sink is not None and self._has_text:
            self._has_text = False
            self._sink.restart(reason)

    def close(self) -> None:
        """Pass on nothing more."""
        self._sink = None


class Wanted:
    """A call as its caller wants it, for as long as the caller waits."""

    def __init__(
        self, call: "PaidCall", caller: Caller, send: "Send", sink: "TextSink | None", observed: ModelCall
    ) -> None:
        """Describe it; the arguments are those of `PaidCalls.run`, and the call as telemetry has it."""
        self.call = call
        self.caller = caller
        self.send = send
        self.observed = observed
        self.live = LiveText(sink) if sink is not None else None
        self.task: asyncio.Task[Landed] | None = None
        """Looks for the answer, and makes the call."""
        self.has_left = False
        """Whether nobody waits for the answer any more."""
        self._may_cancel = False

    def leave(self) -> None:
        """Note that the caller has gone. What was sent goes on, since it is paid for; what waits is given up."""
        self.has_left = True
        if self.live is not None:
            self.live.close()
        if self._may_cancel and self.task is not None:
            self.task.cancel()

    def stay(self) -> None:
        """Raise CallerLeft if the caller has gone."""
        if self.has_left:
            raise CallerLeft

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Hold a wait that is given up when the caller goes."""
        self.stay()
        with self._cancellable(is_so=True):
            yield

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Hold what is not given up, inside of a wait."""
        with self._cancellable(is_so=False):
            yield

    @contextlib.contextmanager
    def _cancellable(self, *, is_so: bool) -> Iterator[None]:
        before, self._may_cancel = self._may_cancel, is_so
        try:
            yield
        finally:
            self._may_cancel = before
