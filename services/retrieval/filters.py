"""The filters between what a source gives and what a survey is written from: small policies, applied in turn.

Their order and numbers are those of the published pipeline that PaperRoute starts from: all words of a term, newest
first, at most two years old once 40 papers are left.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from services.common.papers import Paper
from services.retrieval.sources import NO_LIMITS, CapBy, Limits, Match
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


def survey_policies(
    *,
    search_terms: Sequence[str],
    as_of: date,
    max_papers: int,
    limits: Limits = NO_LIMITS,
    with_withdrawn: bool = False,
    ranks: Mapping[str, int] | None = None,
) -> tuple[Policy, ...]:
    """Return the filters of a survey in their order; the names are those of the message FilterReport.

    Args:
        search_terms: at least one.
        as_of: last day of interest.
        max_papers: most papers that stay.
        limits: which further filters there are.
        with_withdrawn: whether withdrawn papers stay.
        ranks: place of each paper_id in its source's order, see `best_ranks`; needed to cap by relevance.
    """
    word_test, floor = _WORD_TESTS[limits.match], 0 if limits.match is Match.ARTICLE else ENOUGH_PAPERS
    policies = [Policy(name="duplicates", keep=without_duplicates)]
    if not with_withdrawn:
        policies.append(Policy(name="withdrawn", keep=not_withdrawn))
    if limits.categories:
        policies.append(Policy(name="categories", keep=lambda papers: in_categories(papers, limits.categories)))
    if limits.published_from:
        first = limits.published_from
        policies.append(Policy(name="published_from", keep=lambda papers: published_since(papers, first)))
    return (
        *policies,
        Policy(name=limits.match.name.lower(), keep=lambda papers: word_test(papers, search_terms)),
        Policy(name="after_as_of", keep=lambda papers: published_by(papers, as_of)),
        Policy(name="older_than_two_years", keep=lambda papers: recent(papers, as_of, floor=floor)),
        Policy(
            name="max_papers",
            keep=lambda papers: capped(papers, max_papers, ranks if limits.cap_by is CapBy.RELEVANCE else None),
        ),
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


def not_withdrawn(papers: Sequence[Paper]) -> list[Paper]:
    """Return the papers that their authors have not withdrawn."""
    return [paper for paper in papers if not paper.is_withdrawn]


def in_categories(papers: Sequence[Paper], categories: Collection[str]) -> list[Paper]:
    """Return the papers with at least one of the categories."""
    return [paper for paper in papers if not set(categories).isdisjoint(paper.categories)]


def published_since(papers: Sequence[Paper], first: datetime) -> list[Paper]:
    """Return the papers published at that moment or later; a month whose day is unknown counts to its last."""
    month = first.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return [paper for paper in papers if paper.published_at >= (first if paper.is_day_known else month)]


def holding_a_term(papers: Sequence[Paper], search_terms: Sequence[str]) -> list[Paper]:
    """Return the papers whose title and abstract hold all words of at least one term."""
    terms = [term_words(term) for term in search_terms]
    return [paper for paper in papers if _holds_any(terms, words_of(paper))]


def holding_parts_of_a_term(papers: Sequence[Paper], search_terms: Sequence[str]) -> list[Paper]:
    """Return the papers in whose title and abstract all words of at least one term occur as parts of the text.

    So "lora" is found in "exploration": the published baseline does not look for the ends of words.
    """
    terms = [term.lower().split() for term in search_terms]
    return [paper for paper in papers if _has_parts(terms, f"{paper.title} {paper.abstract}".lower())]


def published_by(papers: Sequence[Paper], as_of: date) -> list[Paper]:
    """Return the papers published on `as_of` (UTC) or before; a month whose day is unknown counts from its first."""
    return [paper for paper in papers if paper.published_at.date() <= as_of]


def recent(papers: Sequence[Paper], as_of: date, *, floor: int = ENOUGH_PAPERS) -> list[Paper]:
    """Return the papers of the two years up to `as_of`, or the `floor` newest when those are more.

    Below 40 papers none is too old. A paper published on the same day two years before is not too old, nor is one of
    which only that month is known.
    """
    if len(papers) < ENOUGH_PAPERS:
        return list(papers)
    oldest = years_before(as_of, MAX_AGE_YEARS)
    young = [paper for paper in papers if _latest_day_is_from(paper, oldest)]
    return young if len(young) >= floor else list(papers[:floor])


def capped(papers: Sequence[Paper], max_papers: int, ranks: Mapping[str, int] | None) -> list[Paper]:
    """Return the first papers, or with `ranks` those of the lowest ranks, in the order they came in."""
    if ranks is None:
        return list(papers[:max_papers])
    best = {paper.paper_id for paper in sorted(papers, key=lambda paper: ranks[paper.paper_id])[:max_papers]}
    return [paper for paper in papers if paper.paper_id in best]


def best_ranks(by_term: Sequence[Sequence[Paper]]) -> Mapping[str, int]:
    """Return for each paper_id its best place in the answers to the terms, from 0."""
    ranks: dict[str, int] = {}
    for papers in by_term:
        for rank, paper in enumerate(papers):
            ranks[paper.paper_id] = min(rank, ranks.get(paper.paper_id, rank))
    return ranks


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


def _has_parts(terms: Sequence[Sequence[str]], text: str) -> bool:
    return any(all(word in text for word in term) for term in terms)


_WORD_TESTS: Mapping[Match, Callable[[Sequence[Paper], Sequence[str]], list[Paper]]] = {
    Match.ALL_WORDS: holding_a_term,
    Match.ARTICLE: holding_parts_of_a_term,
    Match.NONE: lambda papers, _: list(papers),
}
