import math
from datetime import UTC, date, datetime

import pytest

from services.common.errors import UpstreamFailed
from services.common.papers import Paper
from services.retrieval.search import Search, SearchOutcome, TermProgress, search_papers
from services.retrieval.sources import Page, SourceName, StartingOver, Waiting

AS_OF = date(2026, 7, 1)


def paper(number: int, title: str) -> Paper:
    published_at = datetime(2026, 6, number, tzinfo=UTC)
    return Paper(paper_id=f"2606.{number:05}", title=title, abstract="", published_at=published_at)


def page(papers, *, expected_count: int, hour: int = 12) -> Page:
    return Page(papers=papers, expected_count=expected_count, answered_at=datetime(2026, 7, 1, hour, tzinfo=UTC))


class ScriptedSource:
    """Yields what is scripted for a term, raises what is an exception, and records what it was asked."""

    def __init__(self, **steps) -> None:
        self._steps = steps
        self.asked: list[tuple[str, int, date]] = []

    async def pages(self, search_term, *, max_results, as_of, deadline, limits):
        del deadline, limits
        self.asked.append((search_term, max_results, as_of))
        for step in self._steps[search_term]:
            if isinstance(step, Exception):
                raise step
            yield step


async def run(source, *search_terms: str) -> list[TermProgress | SearchOutcome]:
    search = Search(
        search_terms=search_terms, as_of=AS_OF, max_papers=160, max_results_per_term=50, source=SourceName.ARXIV
    )
    return [event async for event in search_papers(search, source, deadline=math.inf)]


async def test_progress_then_one_outcome():
    source = ScriptedSource(
        cats=[
            Waiting(waiting_for="arXiv"),
            page([paper(1, "cats"), paper(2, "cats")], expected_count=3, hour=9),
            Waiting(waiting_for="arXiv"),
            page([paper(3, "dogs")], expected_count=3, hour=10),
        ],
        dogs=[page([paper(3, "dogs"), paper(4, "dogs and cats")], expected_count=2, hour=8)],
    )

    *progress, outcome = await run(source, "cats", "dogs")

    assert [
        (each.search_term, each.found_count, each.expected_count, each.is_final, each.waiting_for) for each in progress
    ] == [
        ("cats", 0, 0, False, "arXiv"),
        ("cats", 2, 3, False, ""),
        ("cats", 2, 3, False, "arXiv"),
        ("cats", 3, 3, False, ""),
        ("cats", 3, 3, True, ""),
        ("dogs", 2, 2, False, ""),
        ("dogs", 2, 2, True, ""),
    ]
    assert [each.paper_id for each in outcome.papers] == ["2606.00004", "2606.00003", "2606.00002", "2606.00001"]
    assert [(each.search_term, each.found_count, each.kept_count) for each in outcome.terms] == [
        ("cats", 3, 3),
        ("dogs", 2, 2),
    ]
    assert outcome.answered_at.hour == 8  # the oldest answer
    assert source.asked == [("cats", 50, AS_OF), ("dogs", 50, AS_OF)]


async def test_expected_count_does_not_fall():
    """A later page of arXiv may count fewer results."""
    source = ScriptedSource(cats=[page([paper(1, "cat")], expected_count=3), page([], expected_count=1)])

    *progress, _ = await run(source, "cats")

    assert [each.expected_count for each in progress] == [3, 3, 3]


async def test_failing_term_fails_the_search():
    """A search that lost a term would look like a complete one."""
    source = ScriptedSource(cats=[page([paper(1, "cat")], expected_count=1)], dogs=[UpstreamFailed("arXiv", "gone")])

    with pytest.raises(UpstreamFailed):
        await run(source, "cats", "dogs")


async def test_source_that_starts_over_leaves_nothing_behind():
    """Papers of a source that failed half-way are not mixed with those of the next; the counts shown do not fall."""
    source = ScriptedSource(
        cats=[
            page([paper(1, "cat"), paper(2, "cat")], expected_count=4),
            StartingOver(),
            Page(
                papers=[paper(3, "cat")],
                expected_count=1,
                answered_at=datetime(2026, 6, 1, tzinfo=UTC),
                source=SourceName.INDEX,
                is_stale=True,
            ),
        ]
    )

    *progress, outcome = await run(source, "cats")

    assert [(each.found_count, each.expected_count) for each in progress] == [(2, 4)] * 4
    assert [each.paper_id for each in outcome.papers] == ["2606.00003"]
    (term,) = outcome.terms
    assert (term.found_count, term.source, term.is_cached, term.is_stale) == (1, SourceName.INDEX, False, True)
    assert outcome.answered_at.month == 6


async def test_source_that_was_asked_is_named():
    (term,) = (await run(ScriptedSource(cats=[page([], expected_count=0)]), "cats"))[-1].terms

    assert (term.source, term.is_cached, term.is_stale) == (SourceName.ARXIV, False, False)
