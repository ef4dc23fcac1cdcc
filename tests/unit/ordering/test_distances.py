"""The Gram matrix and the distances read from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ordering.distances import distances, similarities, unit_rows


def drawn(seed: int, count: int, dimension: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 40), dimension=st.integers(1, 70))
def test_distances_are_symmetric_zero_on_the_diagonal_and_between_0_and_2(seed, count, dimension):
    found = distances(similarities(unit_rows(drawn(seed, count, dimension))))

    assert (found == found.T).all()
    assert (np.diag(found) == 0).all()
    assert found.min() >= 0
    assert found.max() <= 2


def test_distances_are_the_chords_between_the_directions():
    """They agree with the differences themselves, taken in float64 without any Gram matrix."""
    vectors = drawn(3, 50, 300)
    exact = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    chords = np.linalg.norm(exact[:, None] - exact, axis=2)

    assert distances(similarities(unit_rows(vectors))) == pytest.approx(chords, abs=1e-5)


@given(seed=st.integers(0, 2**32), count=st.integers(3, 25))
def test_distances_keep_the_triangle_inequality(seed, count):
    """1 - cosine would break it, and the path search prunes by it."""
    found = distances(similarities(unit_rows(drawn(seed, count, 4)))).astype(np.float64)

    detours = (found[:, :, None] + found[None]).min(axis=1)
    assert (found <= detours + 1e-5).all()


@pytest.mark.parametrize("dimension", [2, 16, 256, 1_024, 4_096])
def test_duplicates_are_at_distance_zero_whatever_their_length(dimension):
    """float32 alone leaves up to 0.001 between them."""
    once = drawn(dimension, 40, dimension)
    thrice = np.vstack([once, once * np.float32(3.7), once * np.float32(1e-3)])

    found = distances(similarities(unit_rows(thrice)))

    for other in (40, 80):
        assert (np.diagonal(found, other)[:40] == 0).all()
    assert (found[:40, :40] + np.eye(40) > 0).all()


@pytest.mark.parametrize("length", [1e-38, 1e-20, 1e20, 3e38], ids=str)
def test_extreme_lengths_leave_the_direction(length):
    """The square of such a number is 0 or infinite in float32."""
    vectors = np.array([[length, 0], [0, length]], dtype=np.float32)

    assert unit_rows(vectors) == pytest.approx(np.eye(2))


def test_texts_pull_papers_with_common_words_together():
    vectors = np.eye(4, dtype=np.float32) + 1
    texts = ["sparse voxel grids", "speech codec tokens", "sparse voxel octrees", "crowd counting"]
    units = unit_rows(vectors)

    apart = similarities(units)
    together = similarities(units, texts)

    assert apart[0, 2] == pytest.approx(apart[0, 1])
    assert together[0, 2] > together[0, 1] + 0.1


def test_with_texts_the_common_direction_is_taken_out():
    """Vectors of a small encoder mostly say what the whole set is about."""
    common = np.array([5, 0, 0], dtype=np.float32)
    units = unit_rows(common + np.array([[0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=np.float32))

    alike = similarities(units, ["one", "two", "three", "four"])

    assert similarities(units)[0, 1] > 0.9
    assert alike[0, 1] == pytest.approx(-0.5, abs=1e-4)  # the mean of -1 by direction and 0 by words


@pytest.mark.parametrize("count", [1, 2, 7])
def test_equal_papers_with_texts_stay_equal(count):
    """Less their mean nothing is left of them; that must not make them different, or not a number."""
    units = unit_rows(np.full((count, 5), 0.3, dtype=np.float32) * np.arange(1, count + 1, dtype=np.float32)[:, None])

    alike = similarities(units, ["the same words"] * count)

    assert (alike == 1).all()


def test_equal_texts_and_vectors_are_duplicates_among_others():
    vectors, texts = drawn(8, 30, 12), [f"paper {n % 10} about topic {n % 3}" for n in range(30)]
    doubled = np.vstack([vectors, vectors])

    found = distances(similarities(unit_rows(doubled), texts * 2))

    assert (np.diagonal(found, 30) == 0).all()
