"""Cutting a route into chapters and sections, exactly, by dynamic programming.

The cost of a stretch of m papers is the sum of their squared distances to their mean, m - (sum of all similarities
among them) / m. Cutting at the largest gaps is worse than cutting into equal parts: a gap marks one odd paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FEWEST_PAPERS = 3
"""Papers a chapter or section has where the number of papers allows it."""
FEWEST_CHAPTERS = 3
MOST_CHAPTERS = 8
ONE_CHAPTER_PAPERS = 12
"""Up to so many papers are one chapter."""
SECTION_PRICE = 1.5
"""Price of a section in variances of a paper around its chapter's mean. Cutting papers without any structure saves
1.0 a section, so the half above it keeps them together unless the parts really differ."""
MOST_PLACES = 1_000
"""Places between which chapters are cut: each paper of a route up to this length, each second up to twice it, ..."""

_BLOCK = 256  # places whose similarities are gathered at once
_ALMOST_NOTHING = 1e-6  # costs below this are float32 noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a caller asks of the cuts; the sections asked for can hold all papers and fill all chapters."""

    max_section_papers: int
    chapter_count: int = 0
    """0 leaves it to the data."""
    section_count: int = 0
    """Over all chapters; 0 leaves it to the data."""


Chapters = Sequence[Sequence[range]]
"""Chapters of sections; a section is a range of positions on the route."""


def chapter_range(paper_count: int, limits: Limits) -> tuple[int, int]:
    """Return the fewest and the most chapters that so many papers may be cut into.

    A chapter is to hold more than one section can, or two levels would say no more than one; only the fewest chapters
    may be smaller. The most leaves room for one more chapter of `FEWEST_PAPERS`: `_bends` weighs the last against it.
    """
    if limits.chapter_count:
        return limits.chapter_count, limits.chapter_count
    if paper_count <= ONE_CHAPTER_PAPERS:
        return 1, 1
    worth_two_levels = max(FEWEST_CHAPTERS, paper_count // (limits.max_section_papers + 1))
    room = paper_count // FEWEST_PAPERS - 1
    most = min(MOST_CHAPTERS, worth_two_levels, room, limits.section_count or MOST_CHAPTERS)
    return min(FEWEST_CHAPTERS, most), most


def cut(alike: NDArray[np.float32], path: NDArray[np.intp], limits: Limits) -> Chapters:
    """Return the chapters and sections of a route.

    Chapters are cut first, each then into sections. Only where that leaves more sections than were asked for, the
    sections are cut first and chapters made of whole ones.

    Args:
        alike: shape (n, n), similarities.
        path: the papers in the order of the route.
        limits: see there.
    """
    paper_count = len(path)
    fewest, most = chapter_range(paper_count, limits)
    step = min(-(-paper_count // MOST_PLACES), paper_count // most)
    places = np.append(np.arange(0, paper_count, step), paper_count)
    chapter_ends, spread = _cut_chapters(alike, path, places, fewest, most)
    least_sections = sum(-(-papers // limits.max_section_papers) for papers in np.diff(chapter_ends))
    if limits.section_count and least_sections > limits.section_count:
        whole = np.array([0, paper_count])
        section_ends = _cut_sections(alike, path, whole, limits, spread)
        chapter_ends, _ = _cut_chapters(alike, path, section_ends, fewest, most)
    else:
        section_ends = _cut_sections(alike, path, chapter_ends, limits, spread)
    return [
        [range(a, b) for a, b in pairwise(section_ends) if first <= a < last] for first, last in pairwise(chapter_ends)
    ]


def _cut_chapters(
    alike: NDArray[np.float32], path: NDArray[np.intp], places: NDArray[np.intp], fewest: int, most: int
) -> tuple[NDArray[np.intp], float]:
    """Return the places the chapters lie between, the first 0 and the last n, and the sum of the chapters' costs.

    Of the counts in fewest..most the one is taken after which the cost falls least, compared with its fall before. A
    count that leaves more than half of the papers in one chapter is taken only where all do.
    """
    costs = stretch_costs(alike, path, places)
    whole_costs = costs + _shortness(places - places[:, None], len(path))
    if fewest == most:
        ends = cheapest_ends(whole_costs, most, most)[0]
    else:
        most = min(most, len(places) - 2)  # `_bends` needs a cut into one more
        options = cheapest_ends(whole_costs, fewest - 1, most + 1)
        bends = _bends([_total(whole_costs, option) for option in options])
        is_even = np.array([np.diff(places[option]).max() * 2 <= len(path) for option in options[1:-1]])
        ends = options[1 + int(np.where(is_even | ~is_even.any(), bends, 0).argmax())]
    return places[ends], _total(costs, ends)


def _total(costs: NDArray[np.float64], ends: Sequence[int]) -> float:
    return float(costs[ends[:-1], ends[1:]].sum())


def _bends(totals: Sequence[float]) -> NDArray[np.float64]:
    """Return how much each cut but the first and last helps, in proportion to how much the next one does.

    Args:
        totals: least cost of k, k + 1, k + 2, ... chapters, at least three of them.

    Returns:
        (totals[i - 1] - totals[i]) / (totals[i] - totals[i + 1]) for the i between, each above 0.
    """
    falls = np.maximum(-np.diff(totals), 0) + _ALMOST_NOTHING
    return (falls[:-1] / falls[1:]).round(6)


def stretch_costs(alike: NDArray[np.float32], path: NDArray[np.intp], places: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the cost of the stretch between each two places.

    Args:
        alike: shape (n, n), similarities.
        path: shape (n,), the papers in order.
        places: shape (p,), rising from 0 to n.

    Returns:
        Shape (p, p); element (a, b) for a < b, infinite elsewhere.
    """
    starts, count = places[:-1], len(places) - 1
    sums = np.empty((count, count))
    for low in range(0, count, _BLOCK):
        high = min(low + _BLOCK, count)
        rows = alike[np.ix_(path[places[low] : places[high]], path)]
        by_column = np.add.reduceat(rows, starts, axis=1, dtype=np.float64)
        sums[low:high] = np.add.reduceat(by_column, starts[low:high] - starts[low], axis=0)
    corner = np.zeros((count + 1, count + 1))
    corner[1:, 1:] = sums.cumsum(axis=0).cumsum(axis=1)
    to_place = np.diagonal(corner)  # similarities among the papers before each place
    inside = to_place[:, None] + to_place - 2 * corner
    sizes = places - places[:, None]
    return np.where(sizes > 0, sizes - inside / np.maximum(sizes, 1), np.inf)


def cheapest_ends(costs: NDArray[np.float64], fewest: int, most: int) -> list[list[int]]:
    """Return for each count of stretches in fewest..most the ends with the least total cost.

    Args:
        costs: shape (p, p), cost of the stretch between two places, infinite where there is none.
        fewest: at least 1.
        most: at most p - 1.

    Returns:
        `most - fewest + 1` lists that begin with 0 and end with p - 1.
    """
    last = len(costs) - 1
    by_end = np.ascontiguousarray(costs.T)
    totals = by_end[:, 0]
    choices: list[tuple[int, NDArray[np.intp]]] = []
    for used in range(2, most + 1):
        stop = last - max(fewest - used, 0)  # each stretch that must come needs a place
        options = by_end[used : stop + 1, used - 1 : stop] + totals[used - 1 : stop]
        choice = options.argmin(axis=1)
        totals = np.full(last + 1, np.inf)
        totals[used : stop + 1] = options[np.arange(len(choice)), choice]
        choices.append((used, choice + used - 1))
    every_end = []
    for count in range(fewest, most + 1):
        ends = [last]
        for used, choice in reversed(choices[: count - 1]):
            ends.append(int(choice[ends[-1] - used]))
        every_end.append([0, *reversed(ends)])
    return every_end


def _shortness(sizes: NDArray[np.intp], paper_count: int) -> NDArray[np.float64]:
    """Return a price for papers missing to `FEWEST_PAPERS`, above any cost: first as few as possible, then cheap."""
    return np.maximum(FEWEST_PAPERS - sizes, 0) * (paper_count + 1.0)


def _cut_sections(
    alike: NDArray[np.float32], path: NDArray[np.intp], chapter_ends: NDArray[np.intp], limits: Limits, spread: float
) -> NDArray[np.intp]:
    """Return the positions the sections lie between; each chapter end is one.

    Args:
        alike: shape (n, n), similarities.
        path: shape (n,), the papers in order.
        chapter_ends: rising from 0 to n.
        limits: see there.
        spread: sum of the chapters' costs.
    """
    costs = section_costs(alike, path, chapter_ends, min(limits.max_section_papers, len(path)))
    costs += _shortness(np.arange(1, len(costs) + 1), len(path))[:, None]
    if limits.section_count:
        return np.array(counted_sections(costs, limits.section_count))
    variance = spread / max(len(path) - len(chapter_ends) + 1, 1)
    return np.array(priced_sections(costs, max(SECTION_PRICE * variance, _ALMOST_NOTHING)))


def section_costs(
    alike: NDArray[np.float32], path: NDArray[np.intp], chapter_ends: NDArray[np.intp], longest: int
) -> NDArray[np.float64]:
    """Return the cost of every section that could be.

    Args:
        alike: shape (n, n), similarities.
        path: shape (n,), the papers in order.
        chapter_ends: rising from 0 to n; no section lies across one.
        longest: most papers in a section, 1 to n.

    Returns:
        Shape (longest, n + 1): element (m - 1, b) is the cost of the m papers before position b, infinite where there
        are not so many in the chapter.
    """
    paper_count = len(path)
    chapter = np.searchsorted(chapter_ends, np.arange(paper_count), side="right")
    costs = np.full((longest, paper_count + 1), np.inf)
    to_rest = np.zeros(paper_count)  # of the section that begins at a position: its first paper to its others
    inside = np.zeros(paper_count + 1)  # ... and among all its papers
    for size in range(1, longest + 1):
        starts = paper_count - size + 1
        if size > 1:
            to_rest = to_rest[:starts] + alike[path[:starts], path[size - 1 :]]
        inside = inside[1:] + 1 + 2 * to_rest
        is_one_chapter = chapter[:starts] == chapter[size - 1 :]
        costs[size - 1, size:] = np.where(is_one_chapter, size - inside / size, np.inf)
    return costs


def priced_sections(costs: NDArray[np.float64], price: float) -> list[int]:
    """Return the positions of the sections with the least sum of costs and of `price` for each section.

    Args:
        costs: as `section_costs` returns them.
        price: above 0.
    """
    rows = costs.tolist()  # plain lists: the loop below touches single numbers
    paper_count = len(rows[0]) - 1
    totals = [0.0] * (paper_count + 1)
    sizes = [0] * (paper_count + 1)
    for end in range(1, paper_count + 1):
        options = [totals[end - size] + rows[size - 1][end] for size in range(1, min(len(rows), end) + 1)]
        totals[end] = min(options)
        sizes[end] = options.index(totals[end]) + 1
        totals[end] += price
    ends = [paper_count]
    while ends[-1]:
        ends.append(ends[-1] - sizes[ends[-1]])
    return ends[::-1]


def counted_sections(costs: NDArray[np.float64], count: int) -> list[int]:
    """Return the positions of the `count` sections with the least total cost.

    Args:
        costs: as `section_costs` returns them; `count` sections can hold all papers.
        count: 1 to n.
    """
    longest, paper_count = len(costs), costs.shape[1] - 1
    totals = np.full(paper_count + 1, np.inf)
    totals[0] = 0
    choices = []
    for used in range(1, count + 1):
        low = max(used, paper_count - (count - used) * longest)  # the sections to come can hold the rest ...
        high = min(used * longest, paper_count - (count - used))  # ... and each of them gets a paper
        ends = np.arange(low, high + 1)
        before = ends - np.arange(1, longest + 1)[:, None]
        options = np.where(before >= 0, totals[before], np.inf) + costs[:, low : high + 1]
        choice = options.argmin(axis=0)
        totals = np.full(paper_count + 1, np.inf)
        totals[low : high + 1] = options[choice, np.arange(len(choice))]
        choices.append((low, choice))
    positions = [paper_count]
    for low, choice in reversed(choices):
        positions.append(positions[-1] - int(choice[positions[-1] - low]) - 1)
    return positions[::-1]
