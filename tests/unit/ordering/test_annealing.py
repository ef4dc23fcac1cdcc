"""The published baseline, in this process and in one of its own."""

import random
import threading

import numpy as np
import pytest

from services.ordering.annealing import annealed_tour
from services.ordering.annealing_process import anneal_in_process
from services.ordering.caller import Caller
from services.ordering.distances import distances, similarities, unit_rows


def drawn(count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    return distances(similarities(unit_rows(rng.normal(size=(count, 8)).astype(np.float32))))


def closed_length(steps: np.ndarray, tour: list[int]) -> float:
    return float(steps[tour, np.roll(tour, -1)].sum())


def test_a_tour_visits_each_paper_once_and_is_shorter_than_the_given_order():
    steps = drawn(30).astype(np.float64)

    tour = annealed_tour(steps, 0, None)

    assert sorted(tour) == list(range(30))
    assert closed_length(steps, tour) < 0.9 * closed_length(steps, list(range(30)))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_few_papers_have_a_tour(count):
    assert sorted(annealed_tour(drawn(count).astype(np.float64), 0, None)) == list(range(count))


def test_equal_papers_have_a_tour():
    assert sorted(annealed_tour(np.zeros((12, 12)), 0, None)) == list(range(12))


def test_the_seed_alone_decides():
    steps = drawn(25).astype(np.float64)
    random.seed(1)
    np.random.seed(1)
    first = annealed_tour(steps, 2**64 - 1, None)
    random.seed(2)
    np.random.seed(2)

    assert annealed_tour(steps, 2**64 - 1, None) == first
    assert any(annealed_tour(steps, seed, None) != first for seed in range(3))


def test_the_global_generators_are_put_back():
    """A caller's own draws must not change because a survey was ordered in between."""
    random.seed(11)
    np.random.seed(11)
    expected = random.random(), np.random.rand()
    random.seed(11)
    np.random.seed(11)

    annealed_tour(drawn(10).astype(np.float64), 5, None)

    assert (random.random(), np.random.rand()) == expected


def test_two_threads_get_the_tours_of_their_seeds():
    steps = drawn(15).astype(np.float64)
    expected = [annealed_tour(steps, seed, None) for seed in range(4)]
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: annealed_tour(steps, seed, None)}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [found[seed] for seed in range(4)] == expected


def test_the_process_finds_the_same_tour():
    steps = drawn(20)

    assert anneal_in_process(steps, 9, Caller()) == annealed_tour(steps.astype(np.float64), 9, None)


def test_the_process_ends_when_its_caller_leaves():
    """Killed at the first look; 300 papers take far longer."""
    caller = Caller()
    caller.leave()

    with pytest.raises(RuntimeError, match="-9"):
        anneal_in_process(drawn(300), 0, caller)


def test_a_deadline_ends_the_search_with_the_best_so_far():
    steps = drawn(80)

    tour = anneal_in_process(steps, 0, Caller(remaining_s=0))

    assert sorted(tour) == list(range(80))
    assert closed_length(steps, tour) > 1.1 * closed_length(steps, annealed_tour(steps.astype(np.float64), 0, None))


def test_a_failing_process_says_why():
    with pytest.raises(RuntimeError, match=r"annealing ended with 1: (?s:.*)IndexError"):
        anneal_in_process(np.zeros((9, 0), dtype=np.float32), 0, Caller())
