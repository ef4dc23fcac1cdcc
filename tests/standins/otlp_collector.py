"""A receiver of traces and metrics: the published OTLP gRPC services, keeping all they are sent."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ReceivedEvent:
    """An event of a span."""

    name: str
    attributes: dict[str, Any]
    at_ns: int


@dataclass(frozen=True, kw_only=True)
class ReceivedSpan:
    """A span with what a test asks of it; identifiers are hexadecimal, moments nanoseconds since 1970."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    kind: str = "INTERNAL"
    """"INTERNAL", "SERVER", "CLIENT", ..."""
    status: str = "UNSET"
    """"UNSET", "OK", "ERROR"."""
    started_ns: int = 0
    ended_ns: int = 0
    events: Sequence[ReceivedEvent] = ()
    links: Sequence[tuple[str, str]] = ()
    """Trace id and span id of each."""
    resource: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReceivedPoint:
    """What a metric was for one set of attributes of one process, summed since that process began."""

    service: str
    instance: str
    name: str
    unit: str
    kind: str
    """"sum", "gauge", "histogram"."""
    attributes: dict[str, Any]
    value: float
    """Of a histogram: the sum of what was recorded."""
    count: int = 0
    """Of a histogram: how much was recorded."""
    bounds: Sequence[float] = ()
    bucket_counts: Sequence[int] = ()
    is_monotonic: bool = False


class OtlpCollector:
    """Keeps spans and points in the order they came."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.points: list[ReceivedPoint] = []
        self.endpoint = ""
        self.exports = 0
        """How often something was sent, taken or not."""
        self.waits_s = 0.0
        """How long each export waits for its answer."""
        self.refuses_with: grpc.StatusCode | None = None
        """What each export is answered with instead of being taken."""
        self.ended = threading.Event()

    def latest(self, name: str, **attributes: object) -> list[ReceivedPoint]:
        """Return the last point of each series of a metric; attributes are named with "_" for "."."""
        series = {
            (point.service, point.instance, tuple(sorted(point.attributes.items()))): point
            for point in self.points
            if point.name == name
        }
        return [
            point
            for point in series.values()
            if attributes.items() <= {key.replace(".", "_"): value for key, value in point.attributes.items()}.items()
        ]

    def total(self, name: str, **attributes: object) -> float:
        """Return a metric summed over its processes and over all attributes but those given, as it was last."""
        return sum(point.value for point in self.latest(name, **attributes))

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.trace_id == trace_id]

    async def until(self, found: Callable[["OtlpCollector"], T], timeout_s: float = 30) -> T:
        """Return what `found` returns as soon as that is true."""
        async with asyncio.timeout(timeout_s):
            while not (value := found(self)):
                await asyncio.sleep(0.02)
        return value

    def received(self, context: grpc.ServicerContext) -> None:
        """Answer an export as it is to be answered: late, not at all, or by taking it."""
        self.exports += 1
        self.ended.wait(self.waits_s)
        if self.refuses_with:
            self._refuse(context, self.refuses_with)

    def _refuse(self, context: grpc.ServicerContext, code: grpc.StatusCode) -> NoReturn:
        context.abort(code, "not now")
        raise AssertionError


class _Traces(trace_grpc.TraceServiceServicer):
    def __init__(self, collector: OtlpCollector) -> None:
        self._collector = collector

    def Export(self, request, context):
        self._collector.received(context)
        for resource in request.resource_spans:
            about = _attributes(resource.resource.attributes)
            self._collector.spans += [_span(span, about) for scope in resource.scope_spans for span in scope.spans]
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(metrics_grpc.MetricsServiceServicer):
    def __init__(self, collector: OtlpCollector) -> None:
        self._collector = collector

    def Export(self, request, context):
        self._collector.received(context)
        for resource in request.resource_metrics:
            about = _attributes(resource.resource.attributes)
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                self._collector.points += _points(metric, about)
        return metrics_pb.ExportMetricsServiceResponse()


def _span(span: Any, about: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        service=about.get("service.name", ""),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        events=tuple(
            ReceivedEvent(name=event.name, attributes=_attributes(event.attributes), at_ns=event.time_unix_nano)
            for event in span.events
        ),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=about,
    )


def _points(metric: Any, about: dict[str, Any]) -> Iterator[ReceivedPoint]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    for point in data.data_points:
        more: dict[str, Any]
        if kind == "histogram":
            more = {"value": point.sum, "count": point.count}
            more |= {"bounds": tuple(point.explicit_bounds), "bucket_counts": tuple(point.bucket_counts)}
        else:
            more = {"value": getattr(point, point.WhichOneof("value"))}
        yield ReceivedPoint(
            service=about.get("service.name", ""),
            instance=about.get("service.instance.id", ""),
            name=metric.name,
            unit=metric.unit,
            kind=kind,
            attributes=_attributes(point.attributes),
            is_monotonic=kind == "sum" and data.is_monotonic,
            **more,
        )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind or "string_value")


@contextlib.contextmanager
def otlp_collector() -> Iterator[OtlpCollector]:
    """Serve a collector on a free loopback port, in threads of its own: it outlives the event loop of a test."""
    collector, server = OtlpCollector(), grpc.server(ThreadPoolExecutor(max_workers=8))
    trace_grpc.add_TraceServiceServicer_to_server(_Traces(collector), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(_Metrics(collector), server)
    collector.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        collector.ended.set()
        server.stop(0).wait()


@contextlib.contextmanager
def dead_endpoint() -> Iterator[str]:
    """Hold a port that refuses every connection, and yield its address."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, but nobody listens
        yield f"127.0.0.1:{held.getsockname()[1]}"
