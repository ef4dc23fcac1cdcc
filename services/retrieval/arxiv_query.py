"""What arXiv's API is asked for a search term."""

from datetime import UTC, date, datetime

from services.retrieval.sources import CapBy, Limits, Match
from services.retrieval.words import plain_words

ARTICLE_RESULTS = 100
"""Results the published baseline takes for a term."""
FIRST_YEAR = 1991
"""arXiv's first."""
_END = "999912312359"

_LEFT_OUT_OF_QUERIES = frozenset(
    "a an and as at by for from in into is of on or the to via with".split()  # noqa: SIM905  # reads as one
)
"""Words that nearly every abstract holds: a search engine may not index them, and the filters look for them anyway."""


def query_of(search_term: str, as_of: date, limits: Limits, *, today: date) -> str:
    """Return arXiv's query for records that hold all words of a term and keep the limits, none after `as_of`.

    Without that bound the newest results would all lie after an `as_of` in the past. The published baseline asks for
    records with any of the words: that is what arXiv makes of words with nothing between them.
    Source: arXiv API user's manual, details of query construction.
    """
    words = tuple(dict.fromkeys(plain_words(search_term)))
    if limits.match is Match.ARTICLE:
        bounds = _bounds(as_of, limits, today)
        return " AND ".join([f"({' '.join(words)})" if bounds else " ".join(words), *bounds])
    telling = [word for word in words if word not in _LEFT_OUT_OF_QUERIES] or words
    return " AND ".join([*(f"all:{word}" for word in telling), *_bounds(as_of, limits, today)])


def is_by_relevance(limits: Limits) -> bool:
    """Return whether the results are wanted in arXiv's own order instead of newest first."""
    return limits.match is Match.ARTICLE or limits.cap_by is CapBy.RELEVANCE


def result_count(max_results: int, limits: Limits) -> int:
    """Return how many results to take."""
    return min(max_results, ARTICLE_RESULTS) if limits.match is Match.ARTICLE else max_results


def _bounds(as_of: date, limits: Limits, today: date) -> list[str]:
    bounds = []
    if limits.categories:
        categories = " OR ".join(f"cat:{each}" for each in limits.categories)
        bounds.append(f"({categories})" if len(limits.categories) > 1 else categories)
    if as_of < today or limits.published_from:
        last = f"{_digits(as_of)}2359" if as_of < today else _END
        beginning = f"{min(as_of.year, FIRST_YEAR):04}01010000"
        first = _minute(limits.published_from) if limits.published_from else beginning
        bounds.append(f"submittedDate:[{first} TO {last}]")
    return bounds


def _minute(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return f"{_digits(utc.date())}{utc:%H%M}"


def _digits(day: date) -> str:
    return day.isoformat().replace("-", "")  # strftime writes the year 1 as "1"
