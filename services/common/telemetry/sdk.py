"""What sends traces and metrics: the OpenTelemetry SDK, with an account of spans that are lost and an end in time."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from importlib.metadata import version

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from prometheus_client import CollectorRegistry, start_http_server

from services.common.settings import PREFIX, SettingsError
from services.common.telemetry import names

logger = logging.getLogger(__name__)

EXPORT_S = 5
"""Longest an export may take, with all its retries."""
END_S = 5
"""Longest the end of a process waits for what is left to be sent."""
_CUT_S = 0.5
"""Of that: how long before its end the calls under way are cut."""
MAX_SPANS = 8_192
"""Spans that may wait to be sent, as much as several surveys of 500 papers make in a second."""
EXPORT_EVERY_MS = 1_000
QUIET_S = 60
"""What is wrong with a receiver is logged once in this time."""

_dropped = metrics.get_meter("paperroute").create_counter(
    names.SPANS_DROPPED, unit="{span}", description="Spans that were lost, by error.type: queue_full, export_failed."
)


class Exports:
    """The providers of traces and metrics of one process."""

    def __init__(self, role: str, *, endpoint: str, listen: str) -> None:
        """Begin to send and to serve; nothing is recorded before `become_global`.

        Args:
            role: names the service: "paperroute-gateway".
            endpoint: OTLP gRPC receiver, "host:port" or "https://host:port"; empty sends nothing.
            listen: "host:port" for scrapes; empty serves none.

        Raises:
            SettingsError: it cannot listen there.
        """
        resource = Resource.create(
            {
                "service.name": f"paperroute-{role}",
                "service.version": version("paperroute"),
                "service.instance.id": str(uuid.uuid4()),
            }
        )
        self._cuts: list[Callable[[], None]] = []
        self._ends: list[Callable[[], None]] = []
        self._lost = LostSpans(endpoint)
        self.metrics_address = ""
        """Where metrics are served: "127.0.0.1:9464"."""
        self.traces: TracerProvider | None = None
        readers: list[MetricReader] = []
        if listen:
            readers += self._serve(listen)
        if endpoint:
            readers += self._send(endpoint, resource)
        # Exemplars are off: the Prometheus exporter cannot show them, and every measurement would pay for them.
        self.metrics = MeterProvider(
            readers, resource, shutdown_on_exit=False, exemplar_filter=AlwaysOffExemplarFilter()
        )
        self._ends.append(self.metrics.shutdown)

    def _send(self, endpoint: str, resource: Resource) -> list[MetricReader]:
        is_plain = not endpoint.startswith("https://")
        _hush("opentelemetry.exporter.otlp.proto.grpc.exporter")
        spans = SpanSender(endpoint, is_plain=is_plain, lost=self._lost)
        self.traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.traces.add_span_processor(BoundedSpans(spans, self._lost))
        self._cuts.append(spans.shutdown)
        self._ends.append(self.traces.shutdown)
        if os.environ.get("OTEL_METRICS_EXPORTER") == "none":  # not every receiver of traces takes metrics
            return []
        points = OTLPMetricExporter(endpoint=endpoint, insecure=is_plain, timeout=EXPORT_S)
        self._cuts.append(points.shutdown)
        return [PeriodicExportingMetricReader(points)]

    def _serve(self, listen: str) -> list[MetricReader]:
        host, _, port = listen.rpartition(":")
        registry = CollectorRegistry()  # of our own: the global one has metrics of this very client
        try:
            server, _ = start_http_server(int(port), host.strip("[]"), registry)
        except (OSError, UnicodeError) as error:
            problem = f"{PREFIX}METRICS_LISTEN={listen!r}: cannot listen there ({error}); is it in use?"
            raise SettingsError([problem]) from error

        def close() -> None:
            server.shutdown()
            server.server_close()

        self._ends.append(close)
        self.metrics_address = f"{host}:{server.server_port}"
        logger.info("metrics are served on http://%s/metrics", self.metrics_address)
        return [PrometheusMetricReader(scope_info_enabled=False, registry=registry)]

    def become_global(self) -> None:
        """Record from now on whatever this process measures."""
        metrics.set_meter_provider(self.metrics)
        if self.traces:
            trace.set_tracer_provider(self.traces)
        for reason in ("queue_full", "export_failed"):
            _dropped.add(0, {names.ERROR_TYPE: reason})  # a series that is there before it is needed can be watched

    def end(self) -> None:
        """Send what is left and stop; after 5 s at most, whatever the receiver does."""
        threads = [threading.Thread(target=end, daemon=True) for end in self._ends]
        for thread in threads:
            thread.start()
        if not _have_ended(threads, END_S - _CUT_S):
            for cut in self._cuts:
                cut()
            _have_ended(threads, _CUT_S)
        self._lost.tell()


class LostSpans:
    """Counts spans that are lost, and says a minute later, or at the end, how many they are by then."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._untold = 0
        self._since = 0.0

    def add(self, count: int, reason: str) -> None:
        """Count spans that are lost for a reason."""
        _dropped.add(count, {names.ERROR_TYPE: reason})
        now = time.monotonic()
        with self._lock:
            if not self._untold:
                self._since = now
            self._untold += count
            is_time = now - self._since >= QUIET_S
        if is_time:
            self.tell()

    def tell(self) -> None:
        """Log what was lost since it was last told."""
        with self._lock:
            untold, self._untold = self._untold, 0
        if untold:
            logger.warning("%d spans did not reach %s", untold, self._endpoint)


class SpanSender(OTLPSpanExporter):
    """Sends spans and counts those whose export failed after its retries."""

    def __init__(self, endpoint: str, *, is_plain: bool, lost: LostSpans) -> None:
        super().__init__(endpoint=endpoint, insecure=is_plain, timeout=EXPORT_S)
        self._lost = lost
        self.room = threading.Semaphore(MAX_SPANS)
        """One place for each span that may wait or be under way."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        result = SpanExportResult.FAILURE
        try:
            result = super().export(spans)
        finally:
            self.room.release(len(spans))
            if result is not SpanExportResult.SUCCESS:
                self._lost.add(len(spans), "export_failed")
        return result


class BoundedSpans(BatchSpanProcessor):
    """Takes spans as long as there is room and counts the others; the SDK's own queue drops without a count."""

    def __init__(self, sender: SpanSender, lost: LostSpans) -> None:
        super().__init__(sender, max_queue_size=MAX_SPANS, schedule_delay_millis=EXPORT_EVERY_MS)
        self._room = sender.room
        self._lost = lost

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        if self._room.acquire(blocking=False):
            super().on_end(span)
        else:
            self._lost.add(1, "queue_full")


class _OnceAWhile(logging.Filter):
    """Lets errors through, one in a minute; what is tried again is nothing to tell."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at = -float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if record.levelno < logging.ERROR or now - self._passed_at < QUIET_S:
            return False
        self._passed_at = now
        return True


def _hush(name: str) -> None:
    found = logging.getLogger(name)
    if not any(isinstance(each, _OnceAWhile) for each in found.filters):
        found.addFilter(_OnceAWhile())


def _have_ended(threads: Sequence[threading.Thread], within_s: float) -> bool:
    until = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
