"""A stub whose calls fail with `RequestFailed`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc

from gateway.client.errors import failed

Stub = TypeVar("Stub")


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who calls which gateway, and how."""

    address: str
    """Of the gateway, for messages."""
    token: str = field(default="", repr=False)
    """Shown with each call; empty shows none but that of the channel."""
    timeout_s: float
    """Of a unary call that names no other."""

    @property
    def metadata(self) -> Sequence[tuple[str, str]] | None:
        """What goes with each call."""
        return [("authorization", f"Bearer {self.token}")] if self.token else None


class _Explained:
    """Passes calls on to a stub; what their failures mean is said in place of the status."""

    def __init__(self, stub: object, caller: Caller) -> None:
        self._stub = stub
        self._caller = caller

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)
        return self._streamed(method) if isinstance(method, grpc.aio.UnaryStreamMultiCallable) else self._asked(method)

    def _told(self, failure: grpc.aio.AioRpcError) -> BaseException:
        task = asyncio.current_task()
        if failure.code() is grpc.StatusCode.CANCELLED and task is not None and task.cancelling():
            return asyncio.CancelledError()  # it was the caller who ended the call, such as by Ctrl-C
        return failed(failure, self._caller.address)

    def _asked(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, **options: Any) -> Any:
            try:
                given = {"timeout": self._caller.timeout_s, "metadata": self._caller.metadata, **options}
                return await method(request, **given)
            except grpc.aio.AioRpcError as failure:
                raise self._told(failure) from failure

        return call

    def _streamed(self, method: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
        async def stream(request: Any, **options: Any) -> AsyncIterator[Any]:
            call = method(request, **{"metadata": self._caller.metadata, **options})
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as failure:
                raise self._told(failure) from failure
            finally:
                call.cancel()  # who stops reading is done with it

        return stream


def explained(stub: Stub, caller: Caller) -> Stub:
    """Return a stub of a public service like another one, whose calls fail with `RequestFailed`."""
    return cast("Stub", _Explained(stub, caller))
