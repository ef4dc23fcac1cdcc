import math
from datetime import date

import pytest

from services.common.papers import PAPER_ID
from services.retrieval.sample_source import SampleSource, library
from services.retrieval.words import term_words, tokens


async def answer(term: str, max_results: int = 200) -> list:
    source = SampleSource()
    steps = [
        step async for step in source.pages(term, max_results=max_results, as_of=date(2026, 7, 1), deadline=math.inf)
    ]
    assert len(steps) == 1
    return list(steps[0].papers)


def test_library_is_whole():
    """126 real papers; what is not known of them is said so: the day of most, the version of most."""
    papers = library()

    assert len({paper.paper_id for paper in papers}) == len(papers) == 126
    assert all(PAPER_ID.fullmatch(paper.paper_id) and paper.title and paper.abstract for paper in papers)
    assert all(paper.is_paraphrased and paper.categories[0] == paper.primary_category for paper in papers)
    assert {paper.published_at.day for paper in papers if not paper.is_day_known} == {1}
    assert [sum(paper.is_day_known for paper in papers), sum(paper.version is not None for paper in papers)] == [3, 5]


async def test_any_word_of_the_term_is_enough():
    """The source answers like an OR search, so that the filters have something to do."""
    words = term_words("LoRA image generation")

    held_counts = [
        sum(word in tokens(f"{each.title} {each.abstract}") for word in words)
        for each in await answer("LoRA image generation")
    ]

    assert held_counts == sorted(held_counts, reverse=True)
    assert {1, 2, 3} == set(held_counts)


async def test_papers_with_as_many_words_come_newest_first():
    moments = [paper.published_at for paper in await answer("splatting")]

    assert len(moments) == 36
    assert moments == sorted(moments, reverse=True)


async def test_best_results_are_taken():
    assert await answer("LoRA image generation", max_results=5) == (await answer("LoRA image generation"))[:5]


@pytest.mark.parametrize("term", ["zeolite", "zeolite catalysis"])
async def test_nothing_found_is_a_page_without_papers(term):
    assert await answer(term) == []
