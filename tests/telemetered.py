"""Telemetry of this process, as an SDK in memory receives it.

    with telemetered() as seen:
        ...
    assert seen.sums("paperroute.calls", "paperroute.outcome") == {("ok",): 3}

What is measured here stands in the instruments and tracers that our modules hold: they are pointed at the SDK for as
long as the context is open, and at nothing again after it.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opentelemetry.metrics._internal.instrument import _ProxyInstrument
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import ProxyTracer

ROOMS = ("services.", "gateway.")


class Telemetry:
    """What was received."""

    def __init__(self, exporter: InMemorySpanExporter, reader: InMemoryMetricReader) -> None:
        self._exporter, self._reader = exporter, reader

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """The spans that have ended, in the order of their ends."""
        return self._exporter.get_finished_spans()

    def forget(self) -> None:
        """Forget the spans so far."""
        self._exporter.clear()

    def points(self, name: str) -> Sequence[Any]:
        """Return the data points of a metric, as a scrape reads them now."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def sums(self, name: str, *attributes: str) -> dict[tuple[Any, ...], float]:
        """Return a metric's sums by the values of some attributes; of a histogram the sums of what it was told."""
        return self._summed(name, attributes, lambda point: point.value if hasattr(point, "value") else point.sum)

    def counts(self, name: str, *attributes: str) -> dict[tuple[Any, ...], float]:
        """Return how often a histogram was told something, by the values of some attributes."""
        return self._summed(name, attributes, lambda point: point.count)

    def _summed(
        self, name: str, attributes: Sequence[str], read: Callable[[Any], float]
    ) -> dict[tuple[Any, ...], float]:
        found: Counter[tuple[Any, ...]] = Counter()
        for point in self.points(name):
            found[tuple(point.attributes.get(each) for each in attributes)] += read(point)
        return dict(found)


@contextlib.contextmanager
def telemetered() -> Iterator[Telemetry]:
    """Receive what the modules measure that are imported by now."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    traces = TracerProvider(shutdown_on_exit=False)
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    tracers, instruments = _held(ProxyTracer), _held(_ProxyInstrument)
    for tracer in tracers:
        tracer._real_tracer = traces.get_tracer("test")
    for instrument in instruments:
        instrument.on_meter_set(meters.get_meter("test"))
    try:
        yield Telemetry(exporter, reader)
    finally:
        for tracer in tracers:
            tracer._real_tracer = None
        for instrument in instruments:
            instrument._real_instrument = None
        traces.shutdown()
        meters.shutdown()


def _held(kind: type[Any]) -> list[Any]:
    """Return the objects of a kind that our modules hold by a name."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(ROOMS)]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, kind)}
    return list(found.values())
