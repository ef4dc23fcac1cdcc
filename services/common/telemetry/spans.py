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
    if not span.is_recording():
        return
    span.set_attribute(names.CALL_COUNT, sum(usage.call_count for usage in usages))
    span.set_attribute(names.SERVED_CALL_COUNT, sum(usage.served_call_count for usage in usages))
    span.set_attribute(names.STAGE_INPUT_TOKENS, sum(usage.input_tokens for usage in usages))
    span.set_attribute(names.STAGE_OUTPUT_TOKENS, sum(usage.output_tokens for usage in usages))
    span.set_attribute(names.COST_USD, sum(usage.cost_nano_usd for usage in usages) / NANO)
    span.set_attribute(names.AVOIDED_COST_USD, sum(usage.avoided_cost_nano_usd for usage in usages) / NANO)
    unpriced = [usage.model for usage in usages if not usage.HasField("cost_nano_usd")]
    if unpriced:
        span.set_attribute(names.UNPRICED, unpriced)
    if usages:
        span.set_attribute(names.MODELS, sorted({usage.model for usage in usages}))


@contextlib.contextmanager
def span(name: str, kind: SpanKind = SpanKind.INTERNAL, **options: Any) -> Iterator[Span]:
    """Open a span below the current one; an exception marks it failed with its type and passes through."""
    with held(begun(name, kind, **options)) as current:
        yield current


def begun(name: str, kind: SpanKind = SpanKind.INTERNAL, **options: Any) -> Span:
    """Return a span that begins now, for `held`; in any thread. One that is never held is never sent."""
    return _tracer.start_span(name, kind=kind, **options)


@contextlib.contextmanager
def held(span: Span) -> Iterator[Span]:
    """Make a span that has begun the current one, and end it; an exception is dealt with as `span` does."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            mark_failed(span, type(error).__name__)
            raise


def mark_failed(span: Span, error_type: str, reason: str = "") -> None:
    """Say that what a span tells of failed. Messages of exceptions stay out: they may hold what a caller wrote.

    Args:
        span: the one.
        error_type: the exception's class, or the status it became.
        reason: as callers are told, "UPSTREAM_FAILED"; empty where they are not.
    """
    span.set_attribute(names.ERROR_TYPE, error_type)
    if reason:
        span.set_attribute(names.REASON, reason)
    span.set_status(Status(StatusCode.ERROR))


def traceparent(span: Span | None = None) -> str:
    """Return the W3C traceparent of a span, to go on below it elsewhere or later; "" without a trace.

    Args:
        span: None stands for the current one.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=None if span is None else trace.set_span_in_context(span))
    return carrier.get("traceparent", "")


def context_of(traceparent: str) -> Context | None:
    """Return the context that a traceparent names; None for ""."""
    return propagate.extract({"traceparent": traceparent}) if traceparent else None


def link_to(traceparent: str) -> Sequence[Link]:
    """Return a link to the span that a traceparent names; none for ""."""
    context = trace.get_current_span(context_of(traceparent)).get_span_context() if traceparent else None
    return [Link(context)] if context and context.is_valid else []
