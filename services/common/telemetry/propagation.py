"""One trace across services: the pair of interceptors that carries it in the metadata of calls.

Of our own, since the published instrumentation of gRPC is a pre-release and takes six times as long a call.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from opentelemetry import propagate
from opentelemetry.trace import SpanKind

from services.common.handlers import Around, wrapped
from services.common.telemetry.names import RPC_METHOD, RPC_SYSTEM
from services.common.telemetry.spans import span


class ServerTracing(grpc.aio.ServerInterceptor):
    """Opens a span for each RPC, below the caller's span when its metadata names one."""

    async def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wrap the handler of one RPC; health checks and reflection are not traced."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/paperroute."):
            return handler
        return wrapped(handler, _span_around(details.method, details.invocation_metadata))


def _span_around(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Around:
    carrier = {key: value for key, value in metadata if isinstance(value, str)}
    name = method.lstrip("/")

    @contextlib.asynccontextmanager
    async def around(_context: object) -> AsyncIterator[None]:
        caller = propagate.extract(carrier)
        with span(name, SpanKind.SERVER, context=caller, attributes={RPC_SYSTEM: "grpc", RPC_METHOD: name}):
            yield

    return around


class _ClientTracing:
    """Puts the current span into the metadata of a call."""

    def _with_trace(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        if not carrier:
            return details
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


class UnaryClientTracing(_ClientTracing, grpc.aio.UnaryUnaryClientInterceptor):
    """The client half for unary calls."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Send the call on with the trace in its metadata."""
        return await continuation(self._with_trace(details), request)


class StreamClientTracing(_ClientTracing, grpc.aio.UnaryStreamClientInterceptor):
    """The client half for calls answered by a stream."""

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Send the call on with the trace in its metadata."""
        return await continuation(self._with_trace(details), request)
