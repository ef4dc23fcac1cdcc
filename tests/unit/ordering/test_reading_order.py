"""From vectors to chapters: the whole of `order_papers`."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ordering import route
from services.ordering.caller import Caller
from services.ordering.clusters import clusters
from services.ordering.cuts import Limits
from services.ordering.distances import similarities, unit_rows
from services.ordering.order import Method, Order, Task, coherence, order_papers

WORDS = ["splatting", "voxel", "mesh", "codec", "speech", "token", "prune", "quantize", "tracker", "query"]


def backwards(distances: np.ndarray, _seed: int, _caller: Caller) -> list[int]:
    """Stands for the annealing: a closed tour that no other method would take."""
    return list(range(len(distances)))[::-1]


def ordered(task: Task, search_factor: float = 1.0) -> Order:
    return order_papers(task, backwards, Caller(), search_factor)


def task_of(seed: int, count: int, *, with_texts: bool = False, **fields: object) -> Task:
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(count, 12)) + 2 * np.eye(4, 12)[rng.integers(0, 4, count)]).astype(np.float32)
    texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(count)] if with_texts else ()
    values = {
        "paper_ids": [f"2401.{number:05d}" for number in rng.choice(100_000, count, replace=False)],
        "vectors": vectors,
        "texts": texts,
        "question": rng.normal(size=12).astype(np.float32),
        "published_s": rng.integers(0, 5, count).tolist(),
        "limits": Limits(max_section_papers=8),
    }
    return Task(**{**values, **fields})


def shuffled(task: Task, seed: int) -> Task:
    ranks = np.random.default_rng(seed).permutation(len(task.paper_ids))
    return dataclasses.replace(
        task,
        paper_ids=[task.paper_ids[rank] for rank in ranks],
        vectors=task.vectors[ranks],
        texts=[task.texts[rank] for rank in ranks] if task.texts else (),
        published_s=[task.published_s[rank] for rank in ranks],
    )


def sections_of(order: Order) -> list[range]:
    return [section for chapter in order.chapters for section in chapter]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 45),
    method=st.sampled_from(Method),
    with_texts=st.booleans(),
    starts=st.booleans(),
)
def test_every_method_returns_each_paper_once_in_valid_parts(seed, count, method, with_texts, starts):
    task = task_of(seed, count, with_texts=with_texts, method=method, starts_at_question=starts)

    order = ordered(task, search_factor=0.1)

    assert sorted(order.paper_ids) == sorted(task.paper_ids)
    assert [position for section in sections_of(order) for position in section] == list(range(count))
    assert order.points.shape == (count, 2)
    assert -1 <= order.section_coherence <= 1
    assert order.priced_length >= order.path_length >= 0
    assert order.method is method


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), with_texts=st.booleans())
def test_a_route_is_no_longer_than_the_order_the_papers_came_in(seed, count, with_texts):
    task = task_of(
        seed,
        count,
        with_texts=with_texts,
        question=None,
        limits=Limits(max_section_papers=8, chapter_count=min(4, count)),
    )
    alike = similarities(unit_rows(task.vectors), task.texts)
    came = np.arange(count)

    order = ordered(task, search_factor=0.1)

    by_id = np.argsort(task.paper_ids)
    labels = np.empty(count, dtype=np.intp)
    labels[by_id] = clusters(alike[np.ix_(by_id, by_id)], min(4, count), task.seed)
    assert order.priced_length <= route.path_length(alike, came) + route.price_paid(labels, came) + 1e-3


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("with_texts", [False, True], ids=["vectors", "texts"])
@pytest.mark.parametrize("count", [3, 19, 40])
def test_the_order_the_papers_came_in_decides_nothing(count, with_texts, method):
    """Up to 40 papers also ROUTE is the same each time."""
    task = task_of(count, count, with_texts=with_texts, method=method)

    first, second = ordered(task), ordered(shuffled(task, 8))

    assert first.paper_ids == second.paper_ids
    assert first.chapters == second.chapters
    assert first.points == pytest.approx(second.points, abs=1e-3)
    assert first.path_length == pytest.approx(second.path_length, abs=1e-4)


@pytest.mark.parametrize("method", [Method.ROUTE, Method.CHAIN, Method.ROUTE_ANNEALING, Method.SEMANTIC])
def test_a_route_that_starts_at_the_question_begins_with_the_nearest_paper(method):
    task = task_of(1, 30, method=method, starts_at_question=True)
    nearness = unit_rows(task.vectors) @ unit_rows(task.question)

    assert ordered(task).paper_ids[0] == task.paper_ids[int(nearness.argmax())]


def test_the_nearer_end_of_a_route_comes_first():
    task = task_of(2, 30)
    nearness = dict(zip(task.paper_ids, unit_rows(task.vectors) @ unit_rows(task.question), strict=True))

    order = ordered(task)

    assert nearness[order.paper_ids[0]] > nearness[order.paper_ids[-1]]


def test_without_a_question_a_route_begins_at_the_end_with_the_smaller_identifier():
    order = ordered(task_of(2, 30, question=None))

    assert order.paper_ids[0] < order.paper_ids[-1]


def test_a_chain_without_a_question_begins_at_the_edge():
    """Of papers on an arc one of the two ends."""
    angles = np.radians([30, 0, 50, 10, 70])
    task = task_of(0, 5, vectors=np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32), question=None)

    order = ordered(dataclasses.replace(task, method=Method.CHAIN))

    assert order.paper_ids[0] in (task.paper_ids[1], task.paper_ids[4])


def test_an_annealed_tour_is_kept_as_it_comes():
    task = task_of(3, 10, method=Method.ROUTE_ANNEALING)

    assert ordered(task).paper_ids == sorted(task.paper_ids, reverse=True)


def test_a_closed_tour_is_turned_to_start_at_the_question():
    task = task_of(3, 10, method=Method.ROUTE_ANNEALING, starts_at_question=True)

    found = ordered(task).paper_ids

    ring = sorted(task.paper_ids, reverse=True) * 2
    assert found == ring[ring.index(found[0]) :][:10]


def test_clusters_are_priced_for_the_route_alone():
    task = task_of(4, 60)

    route_, chain = ordered(task), ordered(dataclasses.replace(task, method=Method.CHAIN))

    assert route_.priced_length > route_.path_length
    assert chain.priced_length == chain.path_length


def test_a_single_chapter_has_no_price():
    order = ordered(task_of(4, 12))

    assert order.priced_length == order.path_length


def test_coherence_is_the_mean_cosine_of_pairs_in_a_section():
    units = unit_rows(np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32))
    cosines = units @ units.T

    found = coherence(units, [range(3), range(3, 4), range(4, 7)])

    pairs = [(0, 1), (0, 2), (1, 2), (4, 5), (4, 6), (5, 6)]
    assert found == pytest.approx(np.mean([cosines[pair] for pair in pairs]), abs=1e-6)


def test_coherence_without_a_pair_is_1():
    assert coherence(np.eye(3, dtype=np.float32), [range(1), range(1, 2), range(2, 3)]) == 1


def test_coherence_is_measured_on_the_plain_vectors():
    """With texts too: the words shape the sections, they do not judge them."""
    task = task_of(5, 40, with_texts=True)
    order = ordered(task)
    units = unit_rows(task.vectors)[[task.paper_ids.index(paper_id) for paper_id in order.paper_ids]]

    assert order.section_coherence == pytest.approx(coherence(units, sections_of(order)), abs=1e-6)


def test_sections_of_a_route_are_more_coherent_than_those_by_date():
    task = task_of(6, 60)

    by_date = ordered(dataclasses.replace(task, method=Method.NEWEST))

    assert ordered(task).section_coherence > by_date.section_coherence + 0.1


@pytest.mark.parametrize("count", [1, 2, 3, 50])
@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("texts", [False, True], ids=["vectors", "texts"])
def test_equal_papers_are_ordered_and_cut(count, method, texts):
    vectors = np.full((count, 12), 0.5, dtype=np.float32)
    task = task_of(0, count, vectors=vectors, texts=["same words"] * count if texts else (), method=method)

    order = ordered(task, search_factor=0.1)

    assert sorted(order.paper_ids) == sorted(task.paper_ids)
    assert order.path_length == 0
    assert (order.points == 0).all()
    assert order.section_coherence == pytest.approx(1)


@pytest.mark.parametrize("starts", [False, True])
def test_equal_papers_come_in_the_order_of_their_identifiers(starts):
    task = task_of(0, 30, vectors=np.full((30, 12), 0.5, dtype=np.float32), starts_at_question=starts)

    assert ordered(task, search_factor=0.1).paper_ids == sorted(task.paper_ids)


def test_forty_papers_three_times_each_stand_side_by_side():
    once = task_of(7, 40)
    task = dataclasses.replace(
        once,
        paper_ids=[f"{paper_id}-{copy}" for copy in "abc" for paper_id in once.paper_ids],
        vectors=np.vstack([once.vectors] * 3),
        question=None,
        published_s=(),
    )

    order = ordered(task)

    assert order.paper_ids == [f"{paper_id[:-2]}-{copy}" for paper_id in order.paper_ids[::3] for copy in "abc"]


@pytest.mark.parametrize(
    ("remaining_s", "low", "high"),
    [
        pytest.param(None, 2_000, 2_000, id="no deadline: the factor alone"),
        pytest.param(1_000, 100, 900, id="a deadline leaves time for cutting and answering"),
        pytest.param(0, 0, 0, id="none left"),
    ],
)
def test_a_near_deadline_shortens_the_search(monkeypatch, remaining_s, low, high):
    given: list[float] = []

    def remembered(alike: np.ndarray, _labels: np.ndarray, *, seconds: float, **_: object) -> np.ndarray:
        given.append(seconds)
        return np.arange(len(alike))

    monkeypatch.setattr(route, "short_path", remembered)

    order_papers(task_of(8, 60), backwards, Caller(remaining_s), search_factor=10_000)

    assert low <= given[0] <= high
