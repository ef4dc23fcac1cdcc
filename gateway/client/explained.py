"""A stub whose calls fail with `RequestFailed`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

import grpc

from gateway.client.errors import failed

Stub = TypeVar("Stub")


class _Explained:
    """Passes calls on to a stub; what their failures mean is said in place of the status."""

    def __init__(self, stub: object, address: str, timeout_s: float) -> None:
        self._stub = stub
        self._address = address
        self._timeout_s = timeout_s

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)
        return self._streamed(method) if isinstance(method, grpc.aio.UnaryStreamMultiCallable) else self._asked(method)

    def _asked(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, **options: Any) -> Any:
            try:
                return await method(request, **{"timeout": self._timeout_s, **options})
            except grpc.aio.AioRpcError as failure:
                raise failed(failure, self._address) from failure

        return call

    def _streamed(self, method: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
        async def stream(request: Any, **options: Any) -> AsyncIterator[Any]:
            call = method(request, **options)
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as failure:
                raise failed(failure, self._address) from failure
            finally:
                call.cancel()  # who stops reading is done with it

        return stream


def explained(stub: Stub, address: str, timeout_s: float) -> Stub:
    """Return a stub like another one, whose calls fail with `RequestFailed`.

    Args:
        stub: of a public service.
        address: of the gateway, for messages.
        timeout_s: of a unary call that names no other.
    """
    return cast("Stub", _Explained(stub, address, timeout_s))
