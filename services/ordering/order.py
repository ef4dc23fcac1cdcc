"""From vectors to a reading order with its chapters, sections and map."""

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.ordering import cuts, route
from services.ordering.caller import Caller
from services.ordering.clusters import clusters
from services.ordering.distances import distances, similarities, unit_rows
from services.ordering.map import map_points

Anneal = Callable[[NDArray[np.float32], int, Caller], list[int]]
"""From distances (n, n), a seed and who waits to a closed tour."""

MAX_CLUSTERS = 64
"""Most clusters the route is priced by; bounds the time to find them where very many chapters are asked for."""
_DEADLINE_SHARE = 0.7  # of the time left may be used to search; the rest is for cutting and answering


class Method(enum.Enum):
    """How papers are put in order; the names are those of the contract."""

    ROUTE = enum.auto()
    ROUTE_ANNEALING = enum.auto()
    SEMANTIC = enum.auto()
    NEWEST = enum.auto()
    CHAIN = enum.auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Papers to order, and how. Its fields obey the rules of `OrderPapersRequest`."""

    paper_ids: Sequence[str]
    vectors: NDArray[np.float32]
    """Shape (n, d), n >= 1."""
    texts: Sequence[str] = ()
    method: Method = Method.ROUTE
    question: NDArray[np.float32] | None = None
    """Shape (d,)."""
    starts_at_question: bool = False
    published_s: Sequence[int] = ()
    limits: cuts.Limits
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Papers in reading order; every position below counts in it."""

    paper_ids: Sequence[str]
    chapters: cuts.Chapters
    points: NDArray[np.float64]
    """Shape (n, 2)."""
    path_length: float
    priced_length: float
    section_coherence: float
    duration_s: float
    method: Method


def order_papers(task: Task, anneal: Anneal, caller: Caller, search_factor: float = 1.0) -> Order:
    """Return the papers in order.

    The papers are first sorted by identifier, so that the order they came in decides nothing.

    Args:
        task: what to order.
        anneal: finds the tour of `Method.ROUTE_ANNEALING`.
        caller: who waits; the search ends early when its deadline is near.
        search_factor: multiplies the time of the search.
    """
    began = time.perf_counter()
    task = _sorted(task)
    units = unit_rows(task.vectors)
    alike = similarities(units, task.texts)
    labels = np.zeros(len(units), dtype=np.intp)
    if task.method is Method.ROUTE:
        count = cuts.chapter_range(len(units), task.limits)[1]
        labels = clusters(alike, min(count, MAX_CLUSTERS), task.seed)
        seconds = min(search_factor * route.search_seconds(len(units)), _DEADLINE_SHARE * caller.left_s())
        path = _short_path(task, alike, labels, units, seconds)
    else:
        path = _other_path(task, alike, units, anneal, caller)
    chapters = cuts.cut(alike, path, task.limits)
    length = route.path_length(alike, path)
    return Order(
        paper_ids=[task.paper_ids[paper] for paper in path],
        chapters=chapters,
        points=map_points(alike, task.seed)[path],
        path_length=length,
        priced_length=length + route.price_paid(labels, path),
        section_coherence=coherence(units[path], [section for chapter in chapters for section in chapter]),
        duration_s=time.perf_counter() - began,
        method=task.method,
    )


def coherence(units: NDArray[np.float32], sections: Sequence[range]) -> float:
    """Return the mean cosine of two papers of the same section; 1 when no section holds two.

    Args:
        units: shape (n, d), rows of length 1 in the order of the route.
        sections: ranges of rows.
    """
    pairs = sum(len(section) * (len(section) - 1) for section in sections)
    if not pairs:
        return 1.0
    sums = np.add.reduceat(units, [section.start for section in sections], axis=0, dtype=np.float64)
    return float(np.clip(((sums**2).sum() - len(units)) / pairs, -1, 1))


def _sorted(task: Task) -> Task:
    """Return the task with its papers in the order of their identifiers."""
    ranks = sorted(range(len(task.paper_ids)), key=lambda paper: task.paper_ids[paper])
    return replace(
        task,
        paper_ids=[task.paper_ids[paper] for paper in ranks],
        vectors=task.vectors[ranks],
        texts=[task.texts[paper] for paper in ranks] if task.texts else (),
        published_s=[task.published_s[paper] for paper in ranks] if task.published_s else (),
    )


def _short_path(
    task: Task,
    alike: NDArray[np.float32],
    labels: NDArray[np.intp],
    units: NDArray[np.float32],
    seconds: float,
) -> NDArray[np.intp]:
    nearness = _nearness(task, units)
    if nearness is not None and task.starts_at_question:
        path = route.short_path(alike, labels, start=int(nearness.argmax()), seconds=seconds)
    else:
        path = route.facing(alike, route.short_path(alike, labels, start=None, seconds=seconds), nearness)
    return route.twins_sorted(alike, path)


def _other_path(
    task: Task, alike: NDArray[np.float32], units: NDArray[np.float32], anneal: Anneal, caller: Caller
) -> NDArray[np.intp]:
    """Return the path of every method but ROUTE.

    CHAIN begins at the paper nearest to the question, without one at the most peripheral paper. NEWEST begins with the
    newest whatever the question.
    """
    nearness = _nearness(task, units)
    if task.method is Method.NEWEST:
        return route.newest_first(task.published_s)
    if task.method is Method.SEMANTIC and nearness is not None:
        return route.nearest_first(nearness)
    start = route.most_peripheral(alike) if nearness is None else int(nearness.argmax())
    if task.method is Method.CHAIN:
        return route.chain(alike, start)
    tour = anneal(distances(alike), task.seed, caller)
    if task.starts_at_question:  # a closed tour may begin anywhere
        at = tour.index(start)
        tour = tour[at:] + tour[:at]
    return np.array(tour, dtype=np.intp)


def _nearness(task: Task, units: NDArray[np.float32]) -> NDArray[np.float64] | None:
    return None if task.question is None else route.nearness_to(units, unit_rows(task.question))
