from datetime import UTC, date, datetime, timedelta

import pytest

from services.common.papers import Paper
from services.retrieval import filters
from services.retrieval.sources import CapBy, Limits, Match

AS_OF = date(2026, 7, 1)


def paper(number: int, *, day: date = AS_OF, **fields) -> Paper:
    fields = {"title": "LoRA for images", "abstract": "Generation of pictures.", "version": 1} | fields
    return Paper(
        paper_id=f"2601.{number:05}", published_at=datetime(day.year, day.month, day.day, tzinfo=UTC), **fields
    )


def kept_ids(papers) -> list[int]:
    return [int(each.paper_id[-5:]) for each in papers]


def days_before(count: int) -> date:
    return AS_OF - timedelta(days=count)


def test_policies_count_what_each_drops():
    """The names and their order are the contract's; each input is what the one before left."""
    policies = filters.survey_policies(search_terms=["LoRA image"], as_of=AS_OF, max_papers=2)
    found = [
        paper(1),
        paper(1, version=2),
        paper(2, title="Exploration of images"),
        paper(3, day=days_before(-1)),
        *(paper(number, day=days_before(number)) for number in range(10, 13)),
    ]

    result = filters.filtered(found, policies)

    assert [(each.name, each.input_count, each.dropped_count) for each in result.counts] == [
        ("duplicates", 7, 1),
        ("withdrawn", 6, 0),
        ("all_words", 6, 1),
        ("after_as_of", 5, 1),
        ("older_than_two_years", 4, 0),
        ("max_papers", 4, 2),
    ]
    assert kept_ids(result.papers) == [1, 10]


def test_nothing_found_passes_through():
    result = filters.filtered([], filters.survey_policies(search_terms=["LoRA"], as_of=AS_OF, max_papers=160))

    assert result.papers == ()
    assert [(each.input_count, each.dropped_count) for each in result.counts] == [(0, 0)] * 6


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_highest_version_stays(order):
    """In whatever order the terms bring them; a version that is not known is lower than version 1."""
    versions = [paper(7, version=None), paper(7, version=1), paper(7, version=12)]

    kept = filters.without_duplicates([versions[place] for place in order])

    assert [each.version for each in kept] == [12]


def test_newest_first_and_higher_id_first():
    papers = [paper(1, day=days_before(1)), paper(3, day=days_before(2)), paper(4, day=days_before(2)), paper(2)]

    assert kept_ids(filters.newest_first(papers)) == [2, 1, 4, 3]
    assert kept_ids(filters.without_duplicates(papers)) == [2, 1, 4, 3]


def test_words_may_stand_in_title_and_abstract_of_one_term():
    """The words of two terms are not mixed: each paper holds one term whole."""
    papers = [
        paper(1, title="LoRA", abstract="image generation"),
        paper(2, title="LoRA", abstract="video"),
        paper(3, title="Image", abstract="video generation"),
    ]

    kept = filters.holding_a_term(papers, ["LoRA image generation", "video generation"])

    assert kept_ids(kept) == [1, 3]
    assert filters.kept_counts(kept, ["LoRA image generation", "video generation", "LoRA"]) == {
        "LoRA image generation": 1,
        "video generation": 1,
        "LoRA": 1,
    }


def test_day_of_as_of_is_included():
    late = Paper(paper_id="2601.00001", title="T", abstract="", published_at=datetime(2026, 7, 1, 23, 59, tzinfo=UTC))

    assert filters.published_by([late], AS_OF) == [late]
    assert filters.published_by([late], AS_OF - timedelta(days=1)) == []


@pytest.mark.parametrize(
    ("young_count", "old_count", "kept_count"),
    [
        pytest.param(10, 29, 39, id="below 40 none is too old"),
        pytest.param(10, 30, 40, id="40 with few young ones: the 40 newest"),
        pytest.param(10, 50, 40, id="never below the 40 newest"),
        pytest.param(39, 61, 40, id="39 young ones and one old one"),
        pytest.param(40, 60, 40, id="40 young ones"),
        pytest.param(60, 60, 60, id="all young ones"),
        pytest.param(0, 100, 40, id="only old ones"),
    ],
)
def test_old_papers_go_only_where_enough_are_left(young_count, old_count, kept_count):
    young = [paper(1_000 - number, day=days_before(number)) for number in range(young_count)]
    old = [paper(500 - number, day=days_before(800 + number)) for number in range(old_count)]
    papers = filters.newest_first(young + old)

    kept = filters.recent(papers, AS_OF)

    assert kept == papers[:kept_count]


@pytest.mark.parametrize(
    ("day", "is_day_known", "stays"),
    [
        pytest.param(date(2024, 7, 1), True, True, id="same day two years before"),
        pytest.param(date(2024, 6, 30), True, False, id="one day earlier"),
        pytest.param(date(2024, 6, 1), False, False, id="the month before"),
    ],
)
def test_two_years_end_on_the_day(day, is_day_known, stays):
    edge = paper(1, day=day, is_day_known=is_day_known)
    papers = [*(paper(number) for number in range(100, 140)), edge]

    assert (edge in filters.recent(papers, AS_OF)) == stays


def test_month_without_a_day_is_not_too_old():
    """Of a month it cannot be said that it lay before its 15th."""
    edge = paper(1, day=date(2024, 7, 1), is_day_known=False)
    papers = [*(paper(number) for number in range(100, 140)), edge]

    assert edge in filters.recent(papers, date(2026, 7, 15))


@pytest.mark.parametrize(
    ("day", "before"),
    [
        (date(2026, 7, 1), date(2024, 7, 1)),
        (date(2024, 2, 29), date(2022, 2, 28)),
        (date(2028, 2, 29), date(2026, 2, 28)),
        (date(2, 1, 1), date(1, 1, 1)),
    ],
)
def test_two_years_before(day, before):
    assert filters.years_before(day, 2) == before


def names_and_drops(found, **asked):
    asked = {"search_terms": ["LoRA image"], "as_of": AS_OF, "max_papers": 160} | asked
    result = filters.filtered(found, filters.survey_policies(**asked))
    return kept_ids(result.papers), {each.name: each.dropped_count for each in result.counts}


def test_withdrawn_papers_go_unless_asked_for():
    found = [paper(1, is_withdrawn=True), paper(2)]

    assert names_and_drops(found)[0] == [2]
    assert names_and_drops(found)[1]["withdrawn"] == 1
    kept, drops = names_and_drops(found, with_withdrawn=True)
    assert kept == [2, 1]
    assert "withdrawn" not in drops


def test_limits_are_filters_with_counts():
    limits = Limits(categories=("cs.CV", "cs.LG"), published_from=datetime(2026, 6, 15, tzinfo=UTC))
    found = [
        paper(1, categories=("cs.CV",)),
        paper(2, categories=("cs.CL",)),
        paper(3, categories=("cs.RO", "cs.LG"), day=date(2026, 6, 14)),
        paper(4, categories=("cs.LG",), day=date(2026, 6, 1), is_day_known=False),
    ]

    kept, drops = names_and_drops(found, limits=limits)

    assert kept == [1, 4]
    assert list(drops) == [
        "duplicates",
        "withdrawn",
        "categories",
        "published_from",
        "all_words",
        "after_as_of",
        "older_than_two_years",
        "max_papers",
    ]
    assert (drops["categories"], drops["published_from"]) == (1, 1)


@pytest.mark.parametrize(
    ("match", "kept"),
    [
        pytest.param(Match.ALL_WORDS, [4, 2], id="whole words, folded"),
        pytest.param(Match.ARTICLE, [5, 2, 1], id="parts of the text"),
        pytest.param(Match.NONE, [5, 4, 3, 2, 1], id="whatever comes"),
    ],
)
def test_match_modes(match, kept):
    """The published baseline finds "lora" in "exploration" and "image" in "imagery", but misses a broken word."""
    found = [
        paper(1, title="Exploration of imagery", abstract=""),
        paper(2, title="LoRA", abstract="An image."),
        paper(3, title="Dogs", abstract="Cats"),
        paper(4, title="Low\u00adRank LoRAs", abstract="picture and im\u00adage"),
        paper(5, title="Multimodal LoRAX", abstract="imagenet"),
    ]

    assert names_and_drops(found, limits=Limits(match=match))[0] == kept


def test_the_article_has_no_floor():
    """Of 40 papers with 10 young ones the baseline keeps those 10; ours keeps 40."""
    found = [
        *(paper(number, title="LoRA image", day=days_before(number)) for number in range(10)),
        *(paper(100 + number, title="LoRA image", day=days_before(800 + number)) for number in range(30)),
    ]

    assert len(names_and_drops(found, limits=Limits(match=Match.ARTICLE))[0]) == 10
    assert len(names_and_drops(found)[0]) == 40
    assert len(names_and_drops(found[1:], limits=Limits(match=Match.ARTICLE))[0]) == 39


def test_cap_by_relevance_keeps_the_best_of_each_term():
    """The two best places of any term stay, and are shown newest first like all others."""
    papers = [paper(number, day=days_before(number)) for number in range(1, 6)]
    by_term = [[papers[4], papers[0]], [papers[1], papers[2], papers[4]]]
    found = [each for term in by_term for each in term]

    kept, _ = names_and_drops(
        found, max_papers=2, limits=Limits(cap_by=CapBy.RELEVANCE), ranks=filters.best_ranks(by_term)
    )

    assert kept == [2, 5]
