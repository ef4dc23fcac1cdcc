"""Orders of papers: a short open path, the chain of nearest neighbours, by question and by date.

Papers are numbered in the order of their identifiers, so "the first" among equals does not depend on how they came.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.ordering.distances import distances

CLUSTER_PRICE = 1.0
"""Added to a step of the route that changes clusters, in the unit of the distance. At 1.0 each cluster becomes one
stretch, for 1.4 to 3.1 % more path."""

SEARCH_S = ((20, 0.05), (40, 0.2), (80, 0.2), (160, 0.13), (1_000, 0.5), (5_000, 5.0), (10_000, 10.0))
"""Search time by number of papers, in seconds, straight between. Up to 80 papers it is longer than the length needs:
so equal calls return equal paths, 20 of 20 at 60 papers and 17 to 20 of 20 at 80."""

_LEAST_SEARCH_S = 0.01  # fast-tsp refuses 0
_FULL_SCALE = 65_535  # fast-tsp reads 16-bit lengths
_BLOCK = 512  # rows turned into lengths at once


def search_seconds(paper_count: int) -> float:
    """Return how long a path through so many papers is searched."""
    sizes, seconds = zip(*SEARCH_S, strict=True)
    return float(np.interp(paper_count, sizes, seconds))


def short_path(
    alike: NDArray[np.float32], labels: NDArray[np.intp], *, start: int | None, seconds: float
) -> NDArray[np.intp]:
    """Return a short open path through all papers, by distance plus `CLUSTER_PRICE` where the cluster changes.

    Up to 19 papers it is a shortest one. Above about 80 two calls may return different paths of nearly equal length.

    Args:
        alike: shape (n, n), similarities.
        labels: shape (n,), cluster of each paper.
        start: the paper to begin at; None leaves both ends open.
        seconds: time to search; `_LEAST_SEARCH_S` at least.

    Source: Or-opt with perturbation, as in github.com/shmulvad/fast-tsp; a closed tour through one more place that is
    equally far from all papers is an open path through the papers.
    """
    import fast_tsp

    paper_count = len(alike)
    if paper_count == 1:
        return np.zeros(1, dtype=np.intp)
    lengths = _whole_lengths(alike, labels, start)
    tour = fast_tsp.find_tour(lengths, duration_seconds=max(seconds, _LEAST_SEARCH_S))
    gap = tour.index(paper_count)
    path = np.array(tour[gap + 1 :] + tour[:gap], dtype=np.intp)
    return path[::-1] if start is not None and path[-1] == start else path


def _whole_lengths(alike: NDArray[np.float32], labels: NDArray[np.intp], start: int | None) -> NDArray[np.uint16]:
    """Return the lengths as fast-tsp reads them, with one more place for the gap between the path's ends.

    The gap's distance to all papers does not change which path is shortest; half of the longest keeps the lengths a
    metric. A wanted start lies at distance 0 from the gap and all others so far that no detour is worth another start.
    """
    paper_count = len(alike)
    has_price = bool((labels != labels[0]).any())
    longest = distances(alike.min(keepdims=True)).item() + (CLUSTER_PRICE if has_price else 0) or 1.0
    gap = longest / 2 if start is None else 2 * longest
    scale = _FULL_SCALE / max(longest, gap)
    lengths = np.empty((paper_count + 1, paper_count + 1), dtype=np.uint16)
    for first in range(0, paper_count, _BLOCK):
        rows = slice(first, min(first + _BLOCK, paper_count))
        priced = distances(alike[rows])
        priced += CLUSTER_PRICE * (labels[rows, None] != labels)
        lengths[rows, :paper_count] = np.rint(priced * scale)
    lengths[paper_count, :] = lengths[:, paper_count] = int(gap * scale)
    lengths[paper_count, paper_count] = 0
    if start is not None:
        lengths[paper_count, start] = lengths[start, paper_count] = 0
    return lengths


def facing(
    alike: NDArray[np.float32], path: NDArray[np.intp], nearness: NDArray[np.float64] | None
) -> NDArray[np.intp]:
    """Return the path or its reverse, the same of the two for both.

    Args:
        alike: shape (n, n), similarities.
        path: papers in order.
        nearness: similarity of each paper to the question, when there is one: the nearer end comes first. Between
            equally near ends, and without a question, the smaller identifier comes first, duplicates counting as one.
    """
    first, last = path[[0, -1]]
    if nearness is not None and nearness[first] != nearness[last]:
        return path if nearness[first] > nearness[last] else path[::-1]
    first_twins, last_twins = alike[first] == 1, alike[last] == 1
    return path if first_twins.argmax() <= last_twins.argmax() else path[::-1]


def twins_sorted(alike: NDArray[np.float32], path: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the path with neighbours that are duplicates of each other in the order of their identifiers."""
    run = np.cumsum(alike[path[:-1], path[1:]] < 1)
    return path[np.lexsort((path, np.append(0, run)))]


def chain(alike: NDArray[np.float32], start: int) -> NDArray[np.intp]:
    """Return the order in which each next paper is the nearest to the last among those left.

    Args:
        alike: shape (n, n), similarities.
        start: the paper to begin at.
    """
    left = np.ones(len(alike), dtype=bool)
    order = [start]
    for _ in range(len(alike) - 1):
        left[order[-1]] = False
        order.append(int(np.where(left, alike[order[-1]], -np.inf).argmax()))
    return np.array(order, dtype=np.intp)


def most_peripheral(alike: NDArray[np.float32]) -> int:
    """Return the paper that is least like all others: a chain that begins inside would leave its surroundings over."""
    return int(alike.sum(axis=1, dtype=np.float64).round(4).argmin())


def nearness_to(units: NDArray[np.float32], question: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine between each row and the question, rounded so that equal papers are equally near.

    Args:
        units: shape (n, d), rows of length 1.
        question: shape (d,), length 1.
    """
    nearness: NDArray[np.float64] = (units @ question).astype(np.float64).round(5)
    return nearness


def nearest_first(nearness: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the papers by falling nearness, equals by identifier."""
    return np.argsort(-nearness, kind="stable")


def newest_first(published_s: Sequence[int]) -> NDArray[np.intp]:
    """Return the papers by falling date, equals by identifier."""
    return np.array(sorted(range(len(published_s)), key=lambda paper: -published_s[paper]), dtype=np.intp)


def path_length(alike: NDArray[np.float32], path: NDArray[np.intp]) -> float:
    """Return the sum of the distances between neighbours on the path."""
    return float(distances(alike[path[:-1], path[1:]]).sum(dtype=np.float64))


def price_paid(labels: NDArray[np.intp], path: NDArray[np.intp]) -> float:
    """Return `CLUSTER_PRICE` times the steps of the path that change clusters."""
    changes = np.count_nonzero(labels[path[:-1]] != labels[path[1:]])
    return CLUSTER_PRICE * int(changes)
