"""Traces: the names, the spans, and the interceptor pair that carries one trace across services.

Names follow the OpenTelemetry GenAI conventions (github.com/open-telemetry/semantic-conventions-genai); ours begin
with "paperroute.". Only the API is imported here: without an exporter the SDK is never loaded.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from paperroute.v1 import usage_pb2

from services.common.handlers import Around, wrapped

STAGE = "paperroute.stage"
SURVEY_ID = "paperroute.survey_id"
TENANT = "paperroute.tenant"
ATTEMPT = "paperroute.attempt"
PAPER_COUNT = "paperroute.paper_count"
CACHED_COUNT = "paperroute.cached_count"
LOST_COUNT = "paperroute.lost_count"
CALL_COUNT = "paperroute.call_count"
COST_USD = "paperroute.cost_usd"
UNPRICED = "paperroute.unpriced"
MODELS = "paperroute.models"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
ERROR_TYPE = "error.type"
RPC_METHOD = "rpc.method"
RPC_SYSTEM = "rpc.system"

NANO = 1_000_000_000
_tracer = trace.get_tracer("paperroute")


def annotate(**values: str | float) -> None:
    """Set attributes of the span around the caller; `paper_count=3` becomes "paperroute.paper_count"."""
    span = trace.get_current_span()
    for name, value in values.items():
        span.set_attribute(f"paperroute.{name}", value)


def set_usage(span: Span, usages: Sequence[usage_pb2.ModelUsage]) -> None:
    """Set calls, tokens and cost of a span; a cost not wholly known is marked UNPRICED beside what is."""
    span.set_attribute(CALL_COUNT, sum(usage.call_count for usage in usages))
    span.set_attribute(INPUT_TOKENS, sum(usage.input_tokens for usage in usages))
    span.set_attribute(OUTPUT_TOKENS, sum(usage.output_tokens for usage in usages))
    span.set_attribute(COST_USD, sum(usage.cost_nano_usd for usage in usages) / NANO)
    unpriced = [usage.model for usage in usages if not usage.HasField("cost_nano_usd")]
    if unpriced:
        span.set_attribute(UNPRICED, unpriced)
    if usages:
        span.set_attribute(MODELS, sorted({usage.model for usage in usages}))


@contextlib.contextmanager
def span(name: str, kind: SpanKind = SpanKind.INTERNAL, **options: Any) -> Iterator[Span]:
    """Open a span below the current one; an exception marks it failed with its type and passes through."""
    with _tracer.start_as_current_span(
        name, kind=kind, record_exception=False, set_status_on_exception=False, **options
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute(ERROR_TYPE, type(error).__name__)
            current.set_status(Status(StatusCode.ERROR))
            raise


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


def configure(role: str, otlp_endpoint: str) -> Callable[[], None]:
    """Send spans to an OTLP gRPC receiver from now on; return what ends it, flushing for at most 5 s.

    With an empty endpoint nothing is imported and nothing is sent.
    """
    if not otlp_endpoint:
        return lambda: None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"paperroute-{role}"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=True, timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    return provider.shutdown
