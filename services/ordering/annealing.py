"""The published baseline: simulated annealing of a closed tour."""

import random
import threading

import numpy as np
from numpy.typing import NDArray

MAX_PAPERS = 300
"""Each step costs time in proportion to the papers, and their number grows with them too: 160 take seconds."""

_ONE_TOUR = 3  # so few papers have only one closed tour
_LEAST_S = 0.01  # the library takes 0 for no limit
_one_at_a_time = threading.Lock()


def annealed_tour(distances: NDArray[np.float64], seed: int, max_seconds: float | None) -> list[int]:
    """Return a closed tour of all papers in the order it comes.

    The library draws from the two global generators. They are seeded for the call and put back after it; the draws of
    another thread in between would still change the result, so run this where nothing else draws.

    Args:
        distances: shape (n, n), symmetric, zero diagonal.
        seed: of every draw, 64 bits.
        max_seconds: after so long, `_LEAST_S` at least, the tour so far is returned; None waits for the end.

    Source: python-tsp, `solve_tsp_simulated_annealing` with its defaults.
    """
    from python_tsp.heuristics import solve_tsp_simulated_annealing

    if len(distances) <= _ONE_TOUR:
        return list(range(len(distances)))
    limit = None if max_seconds is None else max(max_seconds, _LEAST_S)
    with _one_at_a_time:
        states = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed([seed & 0xFFFF_FFFF, seed >> 32])
        try:
            tour, _ = solve_tsp_simulated_annealing(distances, max_processing_time=limit)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
    return [int(paper) for paper in tour]
