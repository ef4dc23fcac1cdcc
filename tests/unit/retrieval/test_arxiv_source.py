"""How a search waits at the gate, on SQLite and on PostgreSQL."""

import math
import time
from datetime import UTC, date, datetime

import pytest

from services.common.errors import UpstreamFailed
from services.common.papers import Paper
from services.retrieval import arxiv_source
from services.retrieval.arxiv_client import ArxivPage
from services.retrieval.arxiv_source import ArxivSource, KeptAnswers, WaitTooLong
from services.retrieval.page_cache import PageCache
from services.retrieval.request_gate import RequestGate
from services.retrieval.sources import Page

AS_OF = date(2026, 7, 1)


def papers(start: int, count: int) -> tuple[Paper, ...]:
    published_at = datetime(2026, 6, 1, tzinfo=UTC)
    return tuple(
        Paper(paper_id=f"2606.{number:05}", title="T", abstract="", published_at=published_at)
        for number in range(start, start + count)
    )


class CountingClient:
    """Holds so many records for every query and counts the requests."""

    def __init__(self, total_count: int = 3) -> None:
        self.total_count = total_count
        self.request_count = 0

    def page(self, query, *, by_relevance, start, size, timeout_s) -> ArxivPage:
        self.request_count += 1
        count = min(size, self.total_count - start)
        return ArxivPage(papers=papers(start, count), entry_count=count, total_count=self.total_count)


@pytest.fixture
def cache(store) -> PageCache:
    return PageCache(store, "https://arxiv.example", max_bytes=1_000_000)


def source(store, cache, client, *, spacing_s: float = 0, max_wait_s: float = math.inf) -> ArxivSource:
    gate = RequestGate(store, spacing_s=spacing_s, cooldown_s=0)
    return ArxivSource(client, gate, cache, request_timeout_s=5, fresh_s=60, max_wait_s=max_wait_s)


async def found(asked, term: str = "cats", *, deadline: float = math.inf, max_results: int = 200) -> list[Page]:
    steps = asked.pages(term, max_results=max_results, as_of=AS_OF, deadline=deadline)
    return [step async for step in steps if isinstance(step, Page)]


@pytest.mark.parametrize(
    ("limits", "error", "problem"),
    [
        pytest.param({"max_wait_s": 20}, WaitTooLong, "of waiting before it", id="impatient"),
        pytest.param({"max_wait_s": math.inf}, UpstreamFailed, "more than the caller has", id="no time"),
    ],
)
async def test_long_queue_is_told_at_once(store, cache, limits, error, problem):
    """Not when the time is over: the caller may use it elsewhere."""
    client = CountingClient()
    await found(source(store, cache, client, spacing_s=3_600))

    with pytest.raises(error, match=problem) as failure:
        await found(source(store, cache, client, spacing_s=3_600, **limits), "dogs", deadline=time.monotonic() + 600)

    assert 3_000 < failure.value.retry_after_s <= 3_600
    assert client.request_count == 1


async def test_kept_page_needs_no_turn(store, cache):
    client = CountingClient()
    asked = source(store, cache, client, spacing_s=3_600, max_wait_s=20)

    first, again = await found(asked), await found(asked)

    assert [page.is_cached for page in (*first, *again)] == [False, True]
    assert again[0].papers == first[0].papers
    assert client.request_count == 1


async def test_kept_answer_must_be_whole(store, cache):
    """Half an answer looks like all there is."""
    client = CountingClient(total_count=150)
    kept = KeptAnswers(cache, max_age_s=60)
    await found(source(store, cache, client), max_results=100)
    with pytest.raises(UpstreamFailed):
        await found(kept, max_results=200)

    await found(source(store, cache, client), max_results=200)

    pages = await found(kept, max_results=200)
    assert [len(page.papers) for page in pages] == [100, 50]
    assert {page.expected_count for page in pages} == {150}
    assert client.request_count == 2


@pytest.mark.parametrize(
    ("number", "text"),
    [(2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"), (21, "21st"), (112, "112th")],
)
def test_ordinals(number, text):
    assert arxiv_source._ordinal(number) == text
