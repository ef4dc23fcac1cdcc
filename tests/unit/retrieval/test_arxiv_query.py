from datetime import date, datetime, timedelta, timezone

import pytest

from services.retrieval.arxiv_query import is_by_relevance, query_of, result_count
from services.retrieval.sources import NO_LIMITS, CapBy, Limits, Match

TODAY = date(2026, 7, 1)


@pytest.mark.parametrize(
    ("term", "query"),
    [
        pytest.param("LoRA image generation", "all:lora AND all:image AND all:generation", id="words"),
        pytest.param(
            "text-to-image", "all:text AND all:image", id="hyphens, which arXiv reads as NOT, and small words"
        ),
        pytest.param("image image", "all:image", id="a word once"),
        pytest.param("to be or not", "all:be AND all:not", id="operators are words"),
        pytest.param("as of the", "all:as AND all:of AND all:the", id="nothing but small words"),
        pytest.param('ti:"RAG" OR (x)', "all:ti AND all:rag AND all:x", id="no way into the query language"),
        pytest.param("Fréchet distance", "all:frechet AND all:distance", id="accents"),
    ],
)
def test_query_holds_the_words_of_the_term(term, query):
    assert query_of(term, TODAY, NO_LIMITS, today=TODAY) == query


@pytest.mark.parametrize(
    ("as_of", "bound"),
    [
        (date(2026, 6, 30), "submittedDate:[199101010000 TO 202606302359]"),
        (date(1970, 1, 1), "submittedDate:[197001010000 TO 197001012359]"),
    ],
)
def test_query_ends_with_a_day_in_the_past(as_of, bound):
    """Without it the newest results all lie after that day, and the filters leave nothing."""
    assert query_of("RAG", as_of, NO_LIMITS, today=TODAY) == f"all:rag AND {bound}"


JAPAN = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("limits", "query"),
    [
        (Limits(categories=("cs.CV",)), "all:rag AND cat:cs.CV"),
        (Limits(categories=("cs.CV", "cs.LG")), "all:rag AND (cat:cs.CV OR cat:cs.LG)"),
        (
            Limits(published_from=datetime(2026, 1, 2, 3, tzinfo=JAPAN)),
            "all:rag AND submittedDate:[202601011800 TO 999912312359]",
        ),
        (Limits(match=Match.NONE), "all:rag"),
        (Limits(match=Match.ARTICLE), "rag"),
        (Limits(match=Match.ARTICLE, categories=("cs.CV",)), "(rag) AND cat:cs.CV"),
    ],
)
def test_query_holds_the_limits(limits, query):
    assert query_of("RAG", TODAY, limits, today=TODAY) == query


def test_query_of_the_article_is_an_or_of_all_words():
    """Small words too, and none of them an operator: what arXiv makes of a plain question."""
    article = Limits(match=Match.ARTICLE)

    assert query_of("LoRA AND the image", TODAY, article, today=TODAY) == "lora and the image"
    bounded = query_of("LoRA image", date(2026, 6, 30), article, today=TODAY)
    assert bounded == "(lora image) AND submittedDate:[199101010000 TO 202606302359]"


@pytest.mark.parametrize(
    ("limits", "by_relevance", "count"),
    [
        (NO_LIMITS, False, 200),
        (Limits(cap_by=CapBy.RELEVANCE), True, 200),
        (Limits(match=Match.ARTICLE), True, 100),
    ],
)
def test_order_and_number_of_results(limits, by_relevance, count):
    assert is_by_relevance(limits) == by_relevance
    assert result_count(200, limits) == count
