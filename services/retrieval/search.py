"""One search: each term is looked up in turn, what they bring is merged and filtered."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from paperroute.v1 import usage_pb2

from services.common.papers import Paper
from services.common.telemetry import metrics, names
from services.retrieval.filters import FilterCount, best_ranks, filtered, kept_counts, survey_policies
from services.retrieval.sources import NO_LIMITS, Limits, Page, Source, SourceName, StartingOver, Step, Waiting
from services.retrieval.withdrawn import marked_if_withdrawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What is looked for; the fields are those of the message SearchPapersRequest, with its defaults filled in."""

    search_terms: tuple[str, ...]
    as_of: date
    max_papers: int
    max_results_per_term: int
    source: SourceName = SourceName.AUTO
    limits: Limits = NO_LIMITS
    with_withdrawn: bool = False


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
    source: SourceName
    answered_at: datetime
    """Moment of the oldest answer it stands on, UTC."""
    is_cached: bool
    is_stale: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """The kept papers, newest first, and how they were come by."""

    papers: tuple[Paper, ...]
    terms: tuple[TermCount, ...]
    filters: tuple[FilterCount, ...]
    answered_at: datetime
    """Moment of the oldest answer among those used, UTC."""
    usage: tuple[usage_pb2.ModelUsage, ...]
    """What encoders took for the vectors of terms."""


@dataclass(kw_only=True, slots=True)
class _Found:
    """What one term has brought so far."""

    search_term: str
    pages: list[Page] = field(default_factory=list)
    usage: list[usage_pb2.ModelUsage] = field(default_factory=list)
    """Also of pages that are void."""
    _shown: TermProgress | None = None

    def take(self, step: Step) -> TermProgress:
        """Add a step of the source and return what to tell of it."""
        if isinstance(step, Page):
            self.pages.append(step)
            self.usage.extend(step.usage)
            if step.is_cached:  # what is asked now is counted where it is asked
                metrics.arxiv_requests.add(1, {names.OUTCOME: "stale" if step.is_stale else "cached"})
        elif isinstance(step, StartingOver):
            self.pages.clear()
        return self.progress(waiting_for=step.waiting_for if isinstance(step, Waiting) else "")

    def progress(self, *, waiting_for: str = "", is_final: bool = False) -> TermProgress:
        """Return what to tell; the counts never fall, although a source may count anew."""
        shown = self._shown or TermProgress(search_term=self.search_term)
        self._shown = TermProgress(
            search_term=self.search_term,
            found_count=max(shown.found_count, len(self.papers)),
            expected_count=max([shown.expected_count, *(page.expected_count for page in self.pages)]),
            waiting_for=waiting_for,
            is_final=is_final,
        )
        return self._shown

    @property
    def papers(self) -> list[Paper]:
        """The papers in the source's order."""
        return [paper for page in self.pages for paper in page.papers]


async def search_papers(
    search: Search, source: Source, *, deadline: float
) -> AsyncGenerator[TermProgress | SearchOutcome]:
    """Yield the progress of each term, one term after the other, then exactly one outcome.

    Args:
        search: what is looked for.
        source: is asked for one term at a time.
        deadline: `time.monotonic()` by which the outcome is needed; infinite for none.

    Raises:
        UpstreamFailed: the source does not answer; a search with a term missing would look complete.
        NotReady: the source has to be set up first.
    """
    found = [_Found(search_term=term) for term in search.search_terms]
    for each in found:
        pages = source.pages(
            each.search_term,
            max_results=search.max_results_per_term,
            as_of=search.as_of,
            deadline=deadline,
            limits=search.limits,
        )
        async with contextlib.aclosing(pages):
            async for step in pages:
                yield each.take(step)
        yield each.progress(is_final=True)
    yield await asyncio.to_thread(_outcome, search, found)


def _outcome(search: Search, found: Sequence[_Found]) -> SearchOutcome:
    by_term = [[marked_if_withdrawn(paper) for paper in each.papers] for each in found]
    policies = survey_policies(
        search_terms=search.search_terms,
        as_of=search.as_of,
        max_papers=search.max_papers,
        limits=search.limits,
        with_withdrawn=search.with_withdrawn,
        ranks=best_ranks(by_term),
    )
    kept = filtered([paper for papers in by_term for paper in papers], policies)
    counts = kept_counts(kept.papers, search.search_terms)
    terms = tuple(_term_count(each, search, counts[each.search_term]) for each in found)
    return SearchOutcome(
        papers=kept.papers,
        terms=terms,
        filters=kept.counts,
        answered_at=min(term.answered_at for term in terms),
        usage=tuple(usage for each in found for usage in each.usage),
    )


def _term_count(found: _Found, search: Search, kept_count: int) -> TermCount:
    return TermCount(
        search_term=found.search_term,
        found_count=len(found.papers),
        kept_count=kept_count,
        source=found.pages[0].source or search.source,
        answered_at=min(page.answered_at for page in found.pages),
        is_cached=any(page.is_cached for page in found.pages),
        is_stale=any(page.is_stale for page in found.pages),
    )
