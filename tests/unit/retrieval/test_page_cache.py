from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

from services.common.papers import Paper
from services.retrieval.arxiv_client import ArxivPage
from services.retrieval.page_cache import PageCache, PageRequest
from services.retrieval.tables import page as pages

URL = "https://arxiv.example/api"
DAY_S = 86_400.0
PAPER = Paper(
    paper_id="2601.00001",
    version=2,
    title="Über LoRA",
    abstract="A\u0301",
    authors=("Émile B",),
    primary_category="cs.CV",
    categories=("cs.CV", "cs.LG"),
    published_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    updated_at=datetime(2026, 2, 3, tzinfo=UTC),
    comment="Withdrawn",
    doi="10.1/2",
    journal_ref="J 1",
)


def asked(query: str = "all:lora", **fields) -> PageRequest:
    return PageRequest(**{"query": query, "by_relevance": False, "start": 0, "size": 100} | fields)


def page(entry_count: int = 1, total_count: int = 7) -> ArxivPage:
    return ArxivPage(papers=(PAPER,) * entry_count, entry_count=entry_count, total_count=total_count)


@pytest.fixture
def cache(store) -> PageCache:
    return PageCache(store, URL, max_bytes=1_000_000)


async def age(store, seconds: float) -> None:
    await store.run(
        lambda connection: connection.execute(update(pages).values(answered_at=pages.c.answered_at - seconds))
    )


async def test_page_comes_back_as_it_was(cache):
    answered_at = await cache.keep(asked(), page())

    found = await cache.find(asked(), max_age_s=60)

    assert found.page == page()
    assert found.is_cached
    assert found.answered_at == answered_at
    assert abs(datetime.now(UTC) - answered_at) < timedelta(minutes=5)


async def test_age_decides(cache, store):
    await cache.keep(asked(), page())
    await age(store, DAY_S)

    assert await cache.find(asked(), max_age_s=DAY_S) is None
    assert await cache.find(asked(), max_age_s=DAY_S + 60)
    assert await cache.find(asked(), max_age_s=float("inf"))


async def test_page_from_before_another_is_not_found(cache):
    """New papers push others from one page to the next: an older second page may lack some."""
    answered_at = await cache.keep(asked(), page())

    assert await cache.find(asked(), max_age_s=60, not_before=answered_at)
    assert await cache.find(asked(), max_age_s=60, not_before=answered_at + timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    "other",
    [
        asked("all:lora AND all:image"),
        asked(by_relevance=True),
        asked(start=100),
        asked(size=50),
        asked("all:lora AND submittedDate:[199101010000 TO 202606302359]"),
    ],
)
async def test_other_questions_are_not_answered(cache, other):
    await cache.keep(asked(), page())

    assert await cache.find(other, max_age_s=60) is None


async def test_order_of_words_does_not_matter(cache):
    await cache.keep(asked("all:lora AND all:image"), page())

    assert await cache.find(asked("all:image AND all:lora"), max_age_s=60)


async def test_another_api_is_another_cache(cache, store):
    await cache.keep(asked(), page())

    assert await PageCache(store, "https://mirror.example", 1_000_000).find(asked(), max_age_s=60) is None


async def test_newer_answer_replaces_the_older(cache):
    await cache.keep(asked(), page(total_count=7))
    await cache.keep(asked(), page(total_count=8))

    assert (await cache.find(asked(), max_age_s=60)).page.total_count == 8


async def test_page_without_papers_is_not_kept(cache):
    """ArXiv errs that way; were it kept, nobody would find out for a day."""
    await cache.keep(asked(), page(entry_count=0, total_count=0))

    assert await cache.find(asked(), max_age_s=60) is None


async def test_least_used_give_way(store):
    size = len_of_one(await kept_sizes(store, [asked("all:probe")]))
    cache = PageCache(store, URL, max_bytes=3 * size + size // 2)
    for word in "abc":
        await cache.keep(asked(f"all:{word}"), page())
    await cache.find(asked("all:a"), max_age_s=60)

    await cache.keep(asked("all:d"), page())

    found = {word: await cache.find(asked(f"all:{word}"), max_age_s=60) is not None for word in "abcd"}
    assert found == {"a": True, "b": False, "c": True, "d": True}


async def kept_sizes(store, requests) -> list[int]:
    cache = PageCache(store, URL, max_bytes=1_000_000)
    for each in requests:
        await cache.keep(each, page())
    return await store.run(lambda connection: list(connection.execute(select(pages.c.size_bytes)).scalars()))


def len_of_one(sizes: list[int]) -> int:
    (size,) = sizes
    return size


async def test_store_that_fails_loses_no_answer(cache, store):
    """A full disk costs the cache, not the search."""
    await store.run(lambda connection: connection.execute(text("DROP TABLE retrieval_page")))

    assert abs(datetime.now(UTC) - await cache.keep(asked(), page())) < timedelta(minutes=5)
