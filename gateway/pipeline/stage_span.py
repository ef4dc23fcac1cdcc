"""What spans and metrics tell of a stage: how much it worked on, what it cost, what went wrong. Never a text."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping

from opentelemetry.trace import Span
from paperroute.v1 import search_pb2
from paperroute.v1 import survey_pb2 as pb

from gateway.document.draft import Draft, place_name
from gateway.document.stages import name_of
from services.common.telemetry import metrics, names
from services.common.telemetry.spans import set_usage, span

MAX_EVENTS = 20
"""Most events of a kind on the span of a stage; the counts beside them are whole."""
_ENDS = {pb.STAGE_STATE_DONE: "done", pb.STAGE_STATE_FAILED: "failed"}


@contextlib.contextmanager
def measured(stage: pb.Stage.ValueType, draft: Draft) -> Iterator[Span]:
    """Hold a stage's span open; at the end it tells what the draft holds of the stage.

    To be left when that is durable: a stage that is done again after a kill must not have been told of as done.
    """
    name, state, begun_at = name_of(stage), "cancelled", time.monotonic()
    with span(f"{names.STAGE_SPAN}{name}", attributes={names.STAGE: name}) as current:
        try:
            yield current
            state = _ENDS.get(draft.reports[stage].state, state)
        finally:
            ended = {names.STAGE: name, names.STATE: state}
            metrics.stage_duration.record(time.monotonic() - begun_at, ended)
            if current.is_recording():
                current.set_attributes(ended)
                _describe(current, stage, draft)


def _describe(current: Span, stage: pb.Stage.ValueType, draft: Draft) -> None:
    report = draft.reports[stage]
    set_usage(current, report.usage)
    current.set_attributes(
        {
            names.ATTEMPT: report.attempt,
            names.PAPER_COUNT: report.paper_count,
            names.CACHED_COUNT: report.cached_count,
            names.LOST_COUNT: report.lost_count,
            names.BUDGET_REACHED: report.budget_reached,
        }
    )
    if stage == pb.STAGE_RETRIEVE and draft.search:
        current.set_attributes(_search_of(draft, draft.search.report))
    fallbacks = _fallbacks(stage, draft)
    current.set_attribute(names.FALLBACK_COUNT, len(fallbacks))
    _tell(current, names.FALLBACK, names.MODEL, fallbacks)
    _tell(current, names.DROPPED, names.REASON, _dropped(stage, draft))
    if stage in {pb.STAGE_WRITE, pb.STAGE_FRAME}:
        current.set_attribute(names.FLAG_COUNT, _flag_count(stage, draft))


def _search_of(draft: Draft, report: search_pb2.SearchReport) -> Mapping[str, str | int]:
    sources = dict.fromkeys(search_pb2.Source.Name(term.source) for term in report.terms)
    return {
        names.SOURCE: ",".join(source.removeprefix("SOURCE_").lower() for source in sources),
        names.MATCH: search_pb2.MatchMode.Name(draft.spec.match).removeprefix("MATCH_MODE_").lower(),
        names.CACHED_COUNT: sum(term.is_cached for term in report.terms),
    }


def _tell(current: Span, event: str, attribute: str, items: Mapping[str, str]) -> None:
    for item, value in list(items.items())[:MAX_EVENTS]:
        current.add_event(event, {names.ITEM: item, attribute: value})


def _fallbacks(stage: pb.Stage.ValueType, draft: Draft) -> Mapping[str, str]:
    """Return which model stood in for the one asked for, by item."""
    made: Iterable[tuple[str, object]] = ()
    match stage:
        case pb.STAGE_PLAN:
            made = [("", draft.plan)]
        case pb.STAGE_SUMMARIZE:
            made = draft.summaries.items()
        case pb.STAGE_WRITE:
            made = [(place_name(place), section) for place, section in draft.sections.items()]
        case pb.STAGE_FRAME:
            made = [("", draft.frame)]
    return {item: getattr(each, "model", "") for item, each in made if getattr(each, "fallback_reason", "")}


def _dropped(stage: pb.Stage.ValueType, draft: Draft) -> Mapping[str, str]:
    """Return why papers or sections had to be left out."""
    if stage == pb.STAGE_SUMMARIZE:
        return draft.dropped
    missing = draft.missing_sections if stage == pb.STAGE_WRITE else {}
    return {place_name(place): reason for place, reason in missing.items()}


def _flag_count(stage: pb.Stage.ValueType, draft: Draft) -> int:
    if stage == pb.STAGE_FRAME:
        return len(draft.frame.flags) if draft.frame else 0
    return sum(len(section.flags) for section in draft.sections.values())
