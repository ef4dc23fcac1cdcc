"""One search: each term is looked up in turn, what they bring is merged and filtered."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from services.common.papers import Paper
from services.retrieval.filters import FilterCount, filtered, kept_counts, survey_policies
from services.retrieval.sources import Page, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What is looked for; the fields are those of the message SearchPapersRequest, with its defaults filled in."""

    search_terms: tuple[str, ...]
    as_of: date
    max_papers: int
    max_results_per_term: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TermProgress:
    """What is known about one search term so far; counts never fall."""

    search_term: str
    found_count: int = 0
    expected_count: int = 0
    is_final: bool = False
    waiting_for: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TermCount:
    """What one search term brought."""

    search_term: str
    found_count: int
    kept_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """The kept papers, newest first, and how they were come by."""

    papers: tuple[Paper, ...]
    terms: tuple[TermCount, ...]
    filters: tuple[FilterCount, ...]
    answered_at: datetime
    """Moment of the oldest answer among those used, UTC."""


async def search_papers(
    search: Search, source: Source, *, deadline: float
) -> AsyncGenerator[TermProgress | SearchOutcome]:
    """Yield the progress of each term, one term after the other, then exactly one outcome.

    Args:
        search: holds at least one term.
        source: where the terms are looked up.
        deadline: `time.monotonic()` by which the caller needs the outcome; infinite for none.

    Raises:
        UpstreamFailed: the source does not answer; a search with a term missing would look complete.
    """
    found: list[Sequence[Paper]] = []
    answered_at: list[datetime] = []
    for term in search.search_terms:
        papers: list[Paper] = []
        expected_count = 0
        pages = source.pages(term, max_results=search.max_results_per_term, as_of=search.as_of, deadline=deadline)
        async with contextlib.aclosing(pages):
            async for step in pages:
                waiting_for = ""
                if isinstance(step, Page):
                    papers += step.papers
                    answered_at.append(step.answered_at)
                    expected_count = max(expected_count, step.expected_count)
                else:
                    waiting_for = step.waiting_for
                yield TermProgress(
                    search_term=term,
                    found_count=len(papers),
                    expected_count=expected_count,
                    waiting_for=waiting_for,
                )
        found.append(papers)
        yield TermProgress(search_term=term, found_count=len(papers), expected_count=expected_count, is_final=True)
    yield await asyncio.to_thread(_outcome, search, found, min(answered_at))


def _outcome(search: Search, found: Sequence[Sequence[Paper]], answered_at: datetime) -> SearchOutcome:
    policies = survey_policies(search_terms=search.search_terms, as_of=search.as_of, max_papers=search.max_papers)
    kept = filtered([paper for papers in found for paper in papers], policies)
    counts = kept_counts(kept.papers, search.search_terms)
    return SearchOutcome(
        papers=kept.papers,
        terms=tuple(
            TermCount(search_term=term, found_count=len(papers), kept_count=counts[term])
            for term, papers in zip(search.search_terms, found, strict=True)
        ),
        filters=kept.counts,
        answered_at=answered_at,
    )
