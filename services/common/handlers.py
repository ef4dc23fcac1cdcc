"""Wrapping gRPC handlers of all four kinds alike, so that each interceptor states only what it does around a call."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc

Around = Callable[[grpc.aio.ServicerContext[Any, Any]], AbstractAsyncContextManager[None]]
"""Given the call's context, what to hold open while the handler runs."""

Deserializer = Callable[[bytes], Any]


def wrapped(
    handler: "grpc.RpcMethodHandler[Any, Any]",
    around: Around,
    deserializer: Callable[[Deserializer], Deserializer] = lambda plain: plain,
) -> Any:
    """Return a handler that runs the given one inside `around`.

    Args:
        handler: of any kind; its behaviour is a coroutine function or an async generator function.
        around: entered before the handler runs, left after its last response.
        deserializer: changes how a request is read from its bytes.
    """
    plain = handler.request_deserializer
    options = {
        "request_deserializer": deserializer(plain) if plain else None,
        "response_serializer": handler.response_serializer,
    }
    if handler.response_streaming:
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(_streaming(inner, around), **options)
    inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
    make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return make(_single(inner, around), **options)


def _single(inner: Any, around: Around) -> Any:
    async def behaviour(request: Any, context: Any) -> Any:
        async with around(context):
            return await inner(request, context)

    return behaviour


def _streaming(inner: Any, around: Around) -> Any:
    # A coroutine that writes, not a generator that yields: it is entered and left in one task, so a span opened in
    # `around` is closed in the context it was opened in even when the client goes away.
    async def behaviour(request: Any, context: Any) -> None:
        async with around(context):
            responses = inner(request, context)
            if not hasattr(responses, "__aiter__"):
                await responses
                return
            try:
                async for response in responses:
                    await context.write(response)
            finally:
                await responses.aclose()

    return behaviour
