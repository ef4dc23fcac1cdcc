"""The filters between what a source gives and what a survey is written from: small policies, applied in turn.

Their order and numbers are those of the published pipeline that PaperRoute starts from: all words of a term, newest
first, at most two years old once 40 papers are left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from services.common.papers import Paper
from services.retrieval.words import holds_all_words, term_words, tokens

ENOUGH_PAPERS = 40
"""With fewer papers than this none is too old, and age alone never leaves fewer."""
MAX_AGE_YEARS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """One filter; `keep` gets papers newest first and returns those that stay, in the same order."""

    name: str
    keep: Callable[[Sequence[Paper]], list[Paper]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterCount:
    """What one filter was given and what it dropped."""

    name: str
    input_count: int
    dropped_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Filtered:
    """The kept papers, newest first, and what each filter dropped, in the order they were applied."""

    papers: tuple[Paper, ...]
    counts: tuple[FilterCount, ...]


def survey_policies(*, search_terms: Sequence[str], as_of: date, max_papers: int) -> tuple[Policy, ...]:
    """Return the filters of a survey in their order; the names are those of the message FilterReport."""
    return (
        Policy(name="duplicates", keep=without_duplicates),
        Policy(name="all_words", keep=lambda papers: holding_a_term(papers, search_terms)),
        Policy(name="after_as_of", keep=lambda papers: published_by(papers, as_of)),
        Policy(name="older_than_two_years", keep=lambda papers: recent(papers, as_of)),
        Policy(name="max_papers", keep=lambda papers: list(papers[:max_papers])),
    )


def filtered(found: Sequence[Paper], policies: Sequence[Policy]) -> Filtered:
    """Return what the policies leave of the papers found; the first gets them all."""
    papers = newest_first(found)
    counts = []
    for policy in policies:
        kept = policy.keep(papers)
        counts.append(FilterCount(name=policy.name, input_count=len(papers), dropped_count=len(papers) - len(kept)))
        papers = kept
    return Filtered(papers=tuple(papers), counts=tuple(counts))


def newest_first(papers: Sequence[Paper]) -> list[Paper]:
    """Return the papers by the moment they were published, newest first; of the same moment, the higher id first."""
    return sorted(papers, key=lambda paper: (paper.published_at, paper.paper_id), reverse=True)


def without_duplicates(papers: Sequence[Paper]) -> list[Paper]:
    """Return each paper once, in its highest version; an unknown version is lower than any other."""
    best: dict[str, Paper] = {}
    for paper in papers:
        other = best.get(paper.paper_id)
        if other is None or (paper.version or 0) > (other.version or 0):
            best[paper.paper_id] = paper
    return newest_first(list(best.values()))


def holding_a_term(papers: Sequence[Paper], search_terms: Sequence[str]) -> list[Paper]:
    """Return the papers whose title and abstract hold all words of at least one term."""
    terms = [term_words(term) for term in search_terms]
    return [paper for paper in papers if _holds_any(terms, words_of(paper))]


def published_by(papers: Sequence[Paper], as_of: date) -> list[Paper]:
    """Return the papers published on `as_of` (UTC) or before; a month whose day is unknown counts from its first."""
    return [paper for paper in papers if paper.published_at.date() <= as_of]


def recent(papers: Sequence[Paper], as_of: date) -> list[Paper]:
    """Return the papers of the two years up to `as_of`, or the 40 newest when those are more.

    A paper published on the same day two years before is not too old, nor is one of which only that month is known.
    """
    if len(papers) < ENOUGH_PAPERS:
        return list(papers)
    oldest = years_before(as_of, MAX_AGE_YEARS)
    young = [paper for paper in papers if _latest_day_is_from(paper, oldest)]
    return young if len(young) >= ENOUGH_PAPERS else list(papers[:ENOUGH_PAPERS])


def kept_counts(papers: Sequence[Paper], search_terms: Sequence[str]) -> Mapping[str, int]:
    """Return for each term how many of the papers hold all its words."""
    found = [words_of(paper) for paper in papers]
    return {term: sum(holds_all_words(term_words(term), words) for words in found) for term in search_terms}


def words_of(paper: Paper) -> frozenset[str]:
    """Return the words of a paper's title and abstract."""
    return tokens(f"{paper.title}\n{paper.abstract}")


def years_before(day: date, years: int) -> date:
    """Return the same day `years` earlier; 28 February for a 29th that year does not have."""
    year = max(day.year - years, 1)
    try:
        return day.replace(year=year)
    except ValueError:
        return day.replace(year=year, day=28)


def _holds_any(terms: Sequence[tuple[str, ...]], words: frozenset[str]) -> bool:
    return any(holds_all_words(term, words) for term in terms)


def _latest_day_is_from(paper: Paper, oldest: date) -> bool:
    return paper.published_at.date() >= (oldest if paper.is_day_known else oldest.replace(day=1))
