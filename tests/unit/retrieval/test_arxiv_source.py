from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime

import pytest

from services.retrieval.arxiv_client import seconds_of
from services.retrieval.arxiv_source import query_of

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
    assert query_of(term, TODAY, today=TODAY) == query


@pytest.mark.parametrize(
    ("as_of", "bound"),
    [
        (date(2026, 6, 30), "submittedDate:[199101010000 TO 202606302359]"),
        (date(1970, 1, 1), "submittedDate:[197001010000 TO 197001012359]"),
    ],
)
def test_query_ends_with_a_day_in_the_past(as_of, bound):
    """Without it the newest results all lie after that day, and the filters leave nothing."""
    assert query_of("RAG", as_of, today=TODAY) == f"all:rag AND {bound}"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 0), ("12", 12), (" 3 ", 3), ("-5", 0), ("soon", 0), ("9" * 400, 86_400), ("Fri, 99 Foo 2025", 0)],
)
def test_seconds_of_retry_after(header, seconds):
    assert seconds_of(header) == seconds


def test_retry_after_may_be_a_date():
    later, earlier = (datetime.now(UTC) + timedelta(hours=hours) for hours in (1, -1))

    assert 3_500 < seconds_of(format_datetime(later, usegmt=True)) <= 3_600
    assert seconds_of(format_datetime(earlier, usegmt=True)) == 0
