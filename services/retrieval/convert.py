"""Messages <-> the search, and every rule of the request's fields."""

from datetime import UTC, date, datetime, time
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import search_pb2, usage_pb2

from services.common.categories import check_categories
from services.common.fields import FieldChecks
from services.common.paid.caller import check_call
from services.common.papers import check_moment, message_of, moment_of, timestamp_of
from services.retrieval.search import Search, SearchOutcome, TermProgress
from services.retrieval.sources import CapBy, Limits, Match, SourceName
from services.retrieval.words import term_words

MAX_TERMS = 10
MAX_TERM_CHARACTERS = 200
MIN_PAPERS, MAX_PAPERS, DEFAULT_PAPERS = 2, 500, 160
MAX_RESULTS_PER_TERM = 2_000


def search_of(request: pb.SearchPapersRequest, *, today: date, max_results_per_term: int) -> Search:
    """Return the search a request asks for.

    Args:
        request: as it came.
        today: the current day, UTC.
        max_results_per_term: the server's default.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = FieldChecks()
    check_call(checks, request.call)
    checks.count("search_terms", len(request.search_terms), 1, MAX_TERMS)
    for position, term in enumerate(request.search_terms):
        field = f"search_terms[{position}]"
        if checks.length(field, term, 1, MAX_TERM_CHARACTERS):
            checks.require(bool(term_words(term)), field, f"at least one letter or digit, not {term!r}")
    checks.enum("source", request.source, search_pb2.Source)
    checks.number("max_papers", request.max_papers, MIN_PAPERS, MAX_PAPERS)
    as_of = _day_of(checks, request.as_of, today) if request.HasField("as_of") else today
    checks.number("max_results_per_term", request.max_results_per_term, 1, MAX_RESULTS_PER_TERM)
    checks.enum("match", request.match, search_pb2.MatchMode)
    checks.enum("cap_by", request.cap_by, search_pb2.CapBy)
    check_categories(checks, "categories", request.categories)
    published_from = _start_of(checks, request, as_of)
    checks.finish()
    return Search(
        search_terms=tuple(request.search_terms),
        as_of=as_of,
        max_papers=request.max_papers or DEFAULT_PAPERS,
        max_results_per_term=request.max_results_per_term or max_results_per_term,
        source=SourceName[_name_of(search_pb2.Source, request.source or search_pb2.SOURCE_AUTO)],
        limits=Limits(
            match=Match[_name_of(search_pb2.MatchMode, request.match or search_pb2.MATCH_MODE_ALL_WORDS)],
            cap_by=CapBy[_name_of(search_pb2.CapBy, request.cap_by or search_pb2.CAP_BY_NEWEST)],
            categories=tuple(dict.fromkeys(request.categories)),
            published_from=published_from,
            call=_call_of_term(request),
        ),
        with_withdrawn=request.with_withdrawn,
    )


def progress_of(progress: TermProgress) -> pb.SearchPapersResponse:
    """Return the message about one term."""
    return pb.SearchPapersResponse(
        progress=pb.TermProgress(
            search_term=progress.search_term,
            found_count=progress.found_count,
            expected_count=progress.expected_count,
            is_final=progress.is_final,
            waiting_for=progress.waiting_for,
        )
    )


def result_of(outcome: SearchOutcome, search: Search) -> pb.SearchPapersResponse:
    """Return the last message of a search."""
    report = search_pb2.SearchReport(
        terms=[
            search_pb2.TermReport(
                search_term=term.search_term,
                found_count=term.found_count,
                kept_count=term.kept_count,
                source=_message_of(term.source),
                answered_at=timestamp_of(term.answered_at),
                is_cached=term.is_cached,
                is_stale=term.is_stale,
            )
            for term in outcome.terms
        ],
        filters=[
            search_pb2.FilterReport(name=each.name, input_count=each.input_count, dropped_count=each.dropped_count)
            for each in outcome.filters
        ],
        source=_message_of(outcome.terms[0].source),
        answered_at=timestamp_of(outcome.answered_at),
        as_of=timestamp_of(datetime.combine(search.as_of, time(), UTC)),
    )
    return pb.SearchPapersResponse(
        result=pb.SearchResult(
            papers=[message_of(paper) for paper in outcome.papers], report=report, usage=outcome.usage
        )
    )


def _call_of_term(request: pb.SearchPapersRequest) -> usage_pb2.CallContext:
    """Return for whom each term is looked up: it may spend its share."""
    call = usage_pb2.CallContext()
    call.CopyFrom(request.call)
    if call.HasField("max_cost_nano_usd"):
        call.max_cost_nano_usd //= len(request.search_terms)
    return call


def _day_of(checks: FieldChecks, as_of: Timestamp, today: date) -> date:
    """Return the UTC day of a timestamp that is none of the future; `today` when the rule is broken."""
    try:
        day = moment_of(as_of).date()
    except (ValueError, OverflowError):
        checks.add("as_of", "seconds and nanoseconds that make a moment of the years 1 to 9999")
        return today
    checks.require(day <= today, "as_of", f"not in the future: {today.isoformat()} or before, not {day.isoformat()}")
    return day


def _start_of(checks: FieldChecks, request: pb.SearchPapersRequest, as_of: date) -> datetime | None:
    """Return the first moment of interest; None when there is none or a rule is broken."""
    if not request.HasField("published_from") or not check_moment(checks, "published_from", request.published_from):
        return None
    first = moment_of(request.published_from)
    is_kept = first.date() <= as_of
    checks.require(is_kept, "published_from", f"not after as_of ({as_of.isoformat()}), not {first.date().isoformat()}")
    return first


def _name_of(kind: Any, value: int) -> str:  # Any: protobuf's enum wrappers share no base class
    """Return the name of a value without what all names of its enum begin with."""
    prefix = str(kind.keys()[0]).removesuffix("UNSPECIFIED")
    return str(kind.Name(value)).removeprefix(prefix)


def _message_of(name: SourceName) -> search_pb2.Source.ValueType:
    return search_pb2.Source.Value(f"SOURCE_{name.name}")
