"""k-means on the Gram matrix."""

import numpy as np
import pytest

from services.ordering import clusters as clusters_module
from services.ordering.clusters import clusters
from services.ordering.distances import similarities, unit_rows


def blobs(sizes: list[int], seed: int = 0, dimension: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities of tight groups of the given sizes, shuffled, and the group of each paper."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = np.eye(dimension)[: len(sizes)]
    vectors = centres[groups] + 0.1 * rng.normal(size=(len(groups), dimension))
    return similarities(unit_rows(vectors.astype(np.float32))), groups


def is_same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(((first[:, None] == first) == (second[:, None] == second)).all())


@pytest.mark.parametrize("sizes", [[10, 10], [3, 30, 8], [5, 6, 7, 8, 9]], ids=str)
def test_separate_groups_are_found(sizes):
    alike, groups = blobs(sizes)

    assert is_same_partition(clusters(alike, len(sizes), seed=1), groups)


def test_groups_are_found_from_a_sample(monkeypatch):
    """Above MAX_SAMPLE papers the means come from some of them; all papers get a cluster."""
    monkeypatch.setattr(clusters_module, "MAX_SAMPLE", 50)
    alike, groups = blobs([60, 80, 70])

    assert is_same_partition(clusters(alike, 3, seed=1), groups)


def test_clusters_are_as_tight_as_lloyds_iteration_on_the_vectors():
    """No paper is nearer to the mean of another cluster, measured on the vectors themselves."""
    units = unit_rows(np.random.default_rng(5).normal(size=(120, 6)).astype(np.float32))

    labels = clusters(similarities(units), 7, seed=3)

    means = np.array([units[labels == label].mean(axis=0) for label in range(7)])
    to_means = np.linalg.norm(units[:, None] - means, axis=2)
    assert (to_means.argmin(axis=1) == labels).all()


def test_the_tightest_of_several_starts_is_kept(monkeypatch):
    """The first start is among them, so more starts never lose, and sometimes win."""
    units = unit_rows(np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32))
    alike = similarities(units)

    def spread(starts: int, seed: int) -> float:
        monkeypatch.setattr(clusters_module, "STARTS", starts)
        labels = clusters(alike, 6, seed)
        return sum(float(((units[labels == k] - units[labels == k].mean(axis=0)) ** 2).sum()) for k in set(labels))

    gains = [spread(1, seed) - spread(9, seed) for seed in range(6)]

    assert min(gains) >= -0.01
    assert max(gains) > 0.01


def test_the_seed_decides():
    alike, _ = blobs([40], dimension=6)

    assert (clusters(alike, 5, seed=2**63) == clusters(alike, 5, seed=2**63)).all()
    assert any((clusters(alike, 5, seed=seed) != clusters(alike, 5, seed=0)).any() for seed in range(1, 6))


@pytest.mark.parametrize("count", [1, 3, 10])
def test_equal_papers_make_one_cluster(count):
    alike = np.ones((10, 10), dtype=np.float32)

    assert len(set(clusters(alike, count, seed=0).tolist())) == 1


def test_as_many_clusters_as_papers():
    alike, _ = blobs([1, 1, 1, 1])

    assert sorted(clusters(alike, 4, seed=0).tolist()) == [0, 1, 2, 3]
