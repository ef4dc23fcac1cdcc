"""What the trace is told of a task that is done: who stood in for whom, and which claims nothing bears out."""

from opentelemetry import trace

from services.common.telemetry import names
from services.generation.tasks import PaperSummary, SearchPlan, WrittenFrame, WrittenSection


def note(done: object) -> None:
    """Tell the span of the RPC of a result; of pieces of one there is nothing to tell."""
    span = trace.get_current_span()
    if not isinstance(done, SearchPlan | PaperSummary | WrittenSection | WrittenFrame) or not span.is_recording():
        return
    span.set_attribute(names.FALLBACK_COUNT, int(bool(done.fallback_reason)))
    if done.fallback_reason:
        span.add_event(names.FALLBACK, {names.FALLBACK_REASON: done.fallback_reason, names.MODEL: done.model})
    if isinstance(done, WrittenSection | WrittenFrame):
        span.set_attribute(names.FLAG_COUNT, len(done.flags))
        for flag in done.flags:
            # Not the sentence: it is the model's, and may hold the question.
            span.add_event(names.FLAG, {names.FLAG_KIND: flag.kind.value, names.CITED_KEYS: flag.keys})
