"""Orders of papers and their lengths."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ordering import route
from services.ordering.distances import distances, similarities, unit_rows


def on_arc(*degrees: float) -> np.ndarray:
    """Return the similarities of papers at angles on a circle."""
    angles = np.radians(degrees)
    return similarities(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


def drawn(seed: int, count: int, dimension: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return similarities(unit_rows(rng.normal(size=(count, dimension)).astype(np.float32)))


def length(alike: np.ndarray, labels: np.ndarray, path: object) -> float:
    order = np.array(path)
    return route.path_length(alike, order) + route.price_paid(labels, order)


def one_cluster(count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.intp)


def test_papers_on_an_arc_come_in_the_order_of_their_angle():
    degrees = np.random.default_rng(4).permutation(np.arange(0, 120, 3))
    path = route.short_path(on_arc(*degrees), one_cluster(40), start=None, seconds=0.1)

    walked = degrees[path].tolist()
    assert walked in (sorted(walked), sorted(walked, reverse=True))


@pytest.mark.parametrize("start", [None, 0, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_few_papers_get_a_shortest_path(seed, start):
    """Compared with every path there is, prices of two clusters included."""
    alike, labels = drawn(seed, 7), np.array([0, 1, 0, 1, 0, 0, 1])

    path = route.short_path(alike, labels, start=start, seconds=0.1)

    shortest = min(
        length(alike, labels, option) for option in permutations(range(7)) if start is None or option[0] == start
    )
    assert length(alike, labels, path) == pytest.approx(shortest, abs=1e-3)
    assert start is None or path[0] == start


@pytest.mark.parametrize(("seed", "dimension"), [(1, 3), (2, 2), (3, 2)])
def test_any_paper_can_be_the_start(seed, dimension):
    """Also one in the middle, from where the way to the rest is a long detour."""
    alike = drawn(seed, 9, dimension)

    paths = [route.short_path(alike, one_cluster(9), start=start, seconds=0.05) for start in range(9)]

    assert [int(path[0]) for path in paths] == list(range(9))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), data=st.data())
def test_a_path_is_a_permutation_no_longer_than_the_order_the_papers_came_in(seed, count, data):
    alike = drawn(seed, count)
    labels = np.random.default_rng(seed).integers(0, 4, count)
    start = data.draw(st.none() | st.integers(0, count - 1))

    path = route.short_path(alike, labels, start=start, seconds=0.02)

    assert sorted(path.tolist()) == list(range(count))
    if start is None:
        assert length(alike, labels, path) <= length(alike, labels, range(count)) + 1e-3
    else:
        assert path[0] == start


def test_a_price_keeps_each_cluster_in_one_stretch():
    labels = np.random.default_rng(0).integers(0, 4, 60)

    path = route.short_path(drawn(2, 60), labels, start=None, seconds=0.2)

    assert route.price_paid(labels, path) == 3 * route.CLUSTER_PRICE


@pytest.mark.parametrize("count", [1, 2, 3, 25])
def test_equal_papers_have_a_path_of_length_zero(count):
    alike = np.ones((count, count), dtype=np.float32)

    path = route.short_path(alike, one_cluster(count), start=None, seconds=0.01)

    assert sorted(path.tolist()) == list(range(count))
    assert route.path_length(alike, path) == 0


def test_duplicates_stand_side_by_side():
    """40 papers, each three times: nothing is gained by leaving a place before all that is there has been read."""
    once = np.random.default_rng(6).normal(size=(40, 16)).astype(np.float32)
    alike = similarities(unit_rows(np.vstack([once, once, once])))

    path = route.short_path(alike, one_cluster(120), start=None, seconds=0.3)

    walked = (path % 40).reshape(40, 3)
    assert (walked == walked[:, :1]).all()


def test_no_time_is_enough_for_a_path():
    path = route.short_path(drawn(1, 30), one_cluster(30), start=None, seconds=0)

    assert sorted(path.tolist()) == list(range(30))


def test_path_length_is_the_sum_of_the_steps():
    alike = drawn(9, 5)
    steps = distances(alike)

    found = route.path_length(alike, np.array([3, 1, 4, 0, 2]))

    assert found == pytest.approx(steps[3, 1] + steps[1, 4] + steps[4, 0] + steps[0, 2], abs=1e-6)


@pytest.mark.parametrize(
    ("nearness", "first"),
    [
        pytest.param(None, 1, id="no question: smaller identifier"),
        pytest.param([0.1, 0.5, 0.9, 0.7], 3, id="nearer end"),
        pytest.param([0.1, 0.5, 0.9, 0.5], 1, id="equally near ends: smaller identifier"),
    ],
)
def test_a_path_and_its_reverse_face_the_same_way(nearness, first):
    path = np.array([1, 2, 0, 3])
    near = None if nearness is None else np.array(nearness)

    faced = [route.facing(np.eye(4), way, near).tolist() for way in (path, path[::-1])]

    assert faced[0] == faced[1]
    assert faced[0][0] == first


def test_duplicates_at_the_ends_do_not_turn_a_path():
    """Papers 0 and 3 are the same place, so are 1 and 2: which of two stands outside must not matter."""
    alike = on_arc(0, 50, 50, 0, 20)

    faced = [
        route.twins_sorted(alike, route.facing(alike, np.array(path), None)).tolist()
        for path in ([0, 3, 4, 1, 2], [3, 0, 4, 2, 1], [2, 1, 4, 0, 3], [1, 2, 4, 3, 0])
    ]

    assert faced == [[0, 3, 4, 1, 2]] * 4


def test_a_chain_goes_to_the_nearest_that_is_left():
    assert route.chain(on_arc(0, 100, 10, 25, 60), start=3).tolist() == [3, 2, 0, 4, 1]


def test_the_most_peripheral_paper_is_the_least_like_all_others():
    assert route.most_peripheral(on_arc(10, 20, 15, 80, 12)) == 3


def test_nearest_first_puts_equals_in_the_order_of_their_identifiers():
    units = unit_rows(np.array([[1, 1], [0, 1], [2, 2], [1, 0], [3, 3]], dtype=np.float32))

    nearness = route.nearness_to(units, np.array([1, 0], dtype=np.float32))

    assert route.nearest_first(nearness).tolist() == [3, 0, 2, 4, 1]


def test_equal_papers_are_equally_near_whatever_their_length():
    """float32 products of equal rows differ in their last digit with the place of the row."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=61) * rng.uniform(0.1, 9, size=(203, 1))

    nearness = route.nearness_to(
        unit_rows(vectors.astype(np.float32)), unit_rows(rng.normal(size=61).astype(np.float32))
    )

    assert route.nearest_first(nearness).tolist() == list(range(203))


def test_newest_first_puts_equals_in_the_order_of_their_identifiers():
    assert route.newest_first([5, -9, 2**40, 5, 0]).tolist() == [2, 0, 3, 4, 1]


@pytest.mark.parametrize(("papers", "seconds"), [(160, 0.13), (1_000, 0.5), (5_000, 5.0)])
def test_search_time_grows_with_the_papers(papers, seconds):
    assert route.search_seconds(papers) == pytest.approx(seconds)
    assert route.search_seconds(papers + 1) > route.search_seconds(papers)
