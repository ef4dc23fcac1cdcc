"""Spans: what is under way, how long it took, what it cost and what went wrong."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from paperroute.v1 import usage_pb2

from services.common.telemetry import names

NANO = 1_000_000_000
_tracer = trace.get_tracer("paperroute")


def annotate(**values: str | float) -> None:
    """Set attributes of the span around the caller; `paper_count=3` becomes "paperroute.paper_count"."""
    span = trace.get_current_span()
    for name, value in values.items():
        span.set_attribute(f"paperroute.{name}", value)


def set_usage(span: Span, usages: Sequence[usage_pb2.ModelUsage]) -> None:
    """Set calls, tokens and cost of a span; a cost not wholly known is marked UNPRICED beside what is."""
    span.set_attribute(names.CALL_COUNT, sum(usage.call_count for usage in usages))
    span.set_attribute(names.INPUT_TOKENS, sum(usage.input_tokens for usage in usages))
    span.set_attribute(names.OUTPUT_TOKENS, sum(usage.output_tokens for usage in usages))
    span.set_attribute(names.COST_USD, sum(usage.cost_nano_usd for usage in usages) / NANO)
    unpriced = [usage.model for usage in usages if not usage.HasField("cost_nano_usd")]
    if unpriced:
        span.set_attribute(names.UNPRICED, unpriced)
    if usages:
        span.set_attribute(names.MODELS, sorted({usage.model for usage in usages}))


@contextlib.contextmanager
def span(name: str, kind: SpanKind = SpanKind.INTERNAL, **options: Any) -> Iterator[Span]:
    """Open a span below the current one; an exception marks it failed with its type and passes through."""
    with _tracer.start_as_current_span(
        name, kind=kind, record_exception=False, set_status_on_exception=False, **options
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute(names.ERROR_TYPE, type(error).__name__)
            current.set_status(Status(StatusCode.ERROR))
            raise


def traceparent() -> str:
    """Return the W3C traceparent of the current span, to go on below it elsewhere or later; "" without a trace."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent", "")


def context_of(traceparent: str) -> Context | None:
    """Return the context that a traceparent names; None for ""."""
    return propagate.extract({"traceparent": traceparent}) if traceparent else None


def link_to(traceparent: str) -> Sequence[Link]:
    """Return a link to the span that a traceparent names; none for ""."""
    context = trace.get_current_span(context_of(traceparent)).get_span_context() if traceparent else None
    return [Link(context)] if context and context.is_valid else []
