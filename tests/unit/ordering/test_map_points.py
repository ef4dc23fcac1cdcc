"""The map of the papers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ordering.distances import distances, similarities, unit_rows
from services.ordering.map import map_points


def drawn(seed: int, count: int, dimension: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return similarities(unit_rows(rng.normal(size=(count, dimension)).astype(np.float32)))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), dimension=st.integers(1, 30))
def test_points_lie_within_the_map_and_reach_its_edge(seed, count, dimension):
    alike = drawn(seed, count, dimension)

    points = map_points(alike, seed=0)

    assert points.shape == (count, 2)
    assert np.abs(points).max() <= 1
    assert np.abs(points).max() in (0, pytest.approx(1))


def test_points_agree_with_the_principal_components_of_the_vectors():
    units = unit_rows((np.random.default_rng(3).normal(size=(80, 20)) / np.arange(1, 21)).astype(np.float32))
    centred = units.astype(np.float64) - units.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * spread)[:, :2]
    expected /= np.abs(expected).max()

    points = map_points(similarities(units), seed=0)

    for axis in (0, 1):
        assert np.abs(points[:, axis]) == pytest.approx(np.abs(expected[:, axis]), abs=2e-3)


def test_a_flat_set_keeps_its_shape():
    """Papers that differ in two directions only: distances on the map are those between the papers, at one scale."""
    angles = np.radians([0, 20, 45, 70, 80])
    alike = similarities(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))

    points = map_points(alike, seed=0)

    on_map = np.linalg.norm(points[:, None] - points, axis=2)
    expected = distances(alike)
    assert on_map / on_map.max() == pytest.approx(expected / expected.max(), abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_each_axis_points_to_its_farthest_paper(seed):
    points = map_points(drawn(seed, 25, 9), seed=0)

    assert (points.max(axis=0) == np.abs(points).max(axis=0)).all()


def test_the_starting_directions_do_not_show():
    alike = drawn(7, 50, 40)

    assert map_points(alike, seed=1) == pytest.approx(map_points(alike, seed=2), abs=2e-2)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_equal_papers_lie_in_the_middle(count):
    assert (map_points(np.ones((count, count), dtype=np.float32), seed=0) == 0).all()


def test_two_papers_lie_at_the_ends_of_one_axis():
    assert map_points(drawn(1, 2, 8), seed=0) == pytest.approx(np.array([[1, 0], [-1, 0]]), abs=1e-6)
