"""`make bench-ordering`: how short our routes are, how soon, and what they need, beside what others give.

All solvers get the same matrix in one run: the one our default solves, distances of real papers plus the price of
changing clusters. Each runs in a process of its own, so that its peak memory is its own. The gap is that to the best
path any of them found, a long search by fast-tsp among them.
"""

import argparse
import asyncio
import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_table import Target, finish, print_table
from corpus import CORPUS
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from paperroute.v1 import ordering_service_pb2 as pb
from paperroute.v1 import ordering_service_pb2_grpc as pb_grpc
from serving import serving

from services.embedding.wordllama_encoder import WordLlamaEncoder
from services.ordering import cuts, route
from services.ordering.clusters import clusters
from services.ordering.distances import distances, similarities, unit_rows
from services.ordering.server import mount
from services.ordering.settings import OrderingSettings

SIZES = (10, 50, 160, 1_000, 5_000)
LONG_SEARCH_S = {10: 0.5, 50: 2.0, 160: 5.0, 1_000: 20.0, 5_000: 40.0}
SEED = 7
TOPICS = ("video generation", "object detection", "retrieval", "segmentation", "reasoning", "3d")
LIMITS = cuts.Limits(max_section_papers=8)
Matrix = NDArray[np.float64]


def ours(alike: NDArray[np.float32], labels: NDArray[np.intp], priced: Matrix) -> list[int]:
    return list(route.short_path(alike, labels, start=None, seconds=route.search_seconds(len(alike))))


def best_known(alike: NDArray[np.float32], labels: NDArray[np.intp], priced: Matrix) -> list[int]:
    return list(route.short_path(alike, labels, start=None, seconds=LONG_SEARCH_S.get(len(alike), 0.1)))


def published_annealing(alike: NDArray[np.float32], labels: NDArray[np.intp], priced: Matrix) -> list[int]:
    from python_tsp.heuristics import solve_tsp_simulated_annealing

    return _seeded(lambda: solve_tsp_simulated_annealing(priced)[0])


def published_local_search(alike: NDArray[np.float32], labels: NDArray[np.intp], priced: Matrix) -> list[int]:
    from python_tsp.heuristics import solve_tsp_local_search

    return _seeded(lambda: solve_tsp_local_search(priced)[0])


def nearest_neighbour(alike: NDArray[np.float32], labels: NDArray[np.intp], priced: Matrix) -> list[int]:
    left, order = np.ones(len(priced), dtype=bool), [0]
    for _ in range(len(priced) - 1):
        left[order[-1]] = False
        order.append(int(np.where(left, priced[order[-1]], np.inf).argmin()))
    return order


def leaf_ordering(alike: NDArray[np.float32], labels: NDArray[np.intp], priced: Matrix) -> list[int]:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    condensed = squareform(priced, checks=False)
    return list(leaves_list(linkage(condensed, "average", optimal_ordering=True)))


def _seeded(solve: Callable[[], list[int]]) -> list[int]:
    random.seed(SEED)
    np.random.seed(SEED)
    return solve()


OURS, PUBLISHED = "ours (default)", "python-tsp annealing, as published"
SOLVERS: dict[str, tuple[Callable[..., list[int]], int]] = {
    OURS: (ours, 5_000),
    "fast-tsp, long search": (best_known, 5_000),
    PUBLISHED: (published_annealing, 160),
    "python-tsp local search": (published_local_search, 160),
    "nearest neighbour": (nearest_neighbour, 5_000),
    "scipy optimal leaf ordering": (leaf_ordering, 1_000),
}
"""Solver and the most papers it is tried with."""


def corpus() -> list[dict[str, Any]]:
    """Return the records of the corpus in an order of chance that is the same in each run."""
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return random.Random(SEED).sample(records, len(records))


def prepared(records: list[dict[str, Any]], times: int = 5) -> dict[str, Any]:
    """Return the arrays of one size and how long the parts of an ordering take, in seconds, median of `times`."""
    texts = [f"{record['title']}\n{record['abstract']}" for record in records]
    units = unit_rows(WordLlamaEncoder().encode(texts))
    similarities(units), clusters(similarities(units, texts), 2, SEED)  # the first calls load libraries
    matrix_s = median_s(lambda: distances(similarities(units)), times)
    with_texts_s = median_s(lambda: similarities(units, texts), times)
    alike = similarities(units, texts)
    group_count = cuts.chapter_range(len(units), LIMITS)[1]
    clusters_s = median_s(lambda: clusters(alike, group_count, SEED), times)
    labels = clusters(alike, group_count, SEED)
    return {
        "alike": alike,
        "labels": labels,
        "units": units,
        "seconds": {"matrix": matrix_s, "matrix with texts": with_texts_s, "clusters": clusters_s},
    }


def median_s(work: Callable[[], object], times: int = 5) -> float:
    def once() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(times))


def run_one(folder: Path, name: str) -> None:
    """Solve in this process and print path, seconds and peak memory as JSON."""
    alike, labels = np.load(folder / "alike.npy"), np.load(folder / "labels.npy")
    priced = distances(alike).astype(np.float64) + route.CLUSTER_PRICE * (labels[:, None] != labels)
    solve, _ = SOLVERS[name]
    small = list(range(5))
    solve(alike[np.ix_(small, small)], labels[small], priced[np.ix_(small, small)])  # loads the library
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _memory_mb("VmRSS")
    began = time.perf_counter()
    path = [int(paper) for paper in solve(alike, labels, priced)]
    seconds = time.perf_counter() - began
    peak = _memory_mb("VmHWM") - before
    steps = (path[:-1], path[1:])
    plain = float(distances(alike[steps]).sum(dtype=np.float64))
    print(json.dumps({"path": path, "s": seconds, "mb": peak, "plain": plain, "priced": float(priced[steps].sum())}))


def _memory_mb(name: str) -> float:
    """Return a figure of this process's memory (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def measured(folder: Path, name: str, times: int) -> dict[str, Any]:
    """Return the median run of a solver, each in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--folder", str(folder)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(times)]
    median = sorted(runs, key=lambda run: run["s"])[len(runs) // 2]
    return {**median, "worst_priced": max(run["priced"] for run in runs)}


def coherence_against_k_means(made: dict[str, Any], path: list[int]) -> tuple[float, float]:
    """Return the mean cosine distance of papers in one section, of our sections and of as many k-means groups."""
    chapters = cuts.cut(made["alike"], np.array(path), LIMITS)
    groups = [np.array(path)[section] for chapter in chapters for section in chapter]
    labels = clusters(made["alike"], len(groups), SEED)
    alternative = [np.flatnonzero(labels == label) for label in range(len(groups))]
    return _within(made["alike"], groups), _within(made["alike"], alternative)


def _within(alike: NDArray[np.float32], groups: list[NDArray[np.intp]]) -> float:
    pairs = [1 - alike[np.ix_(group, group)][np.triu_indices(len(group), 1)] for group in groups]
    return float(np.concatenate(pairs).mean())


@dataclass(frozen=True, kw_only=True)
class Size:
    """What was measured with one number of papers."""

    made: dict[str, Any]
    solved: dict[str, dict[str, Any]]

    def gap(self, solver: str, key: str = "priced") -> float:
        """Return by how many percent the path is longer than the best one found."""
        best = min(result["priced"] for result in self.solved.values())
        return 100 * (float(self.solved[solver][key]) / best - 1)

    def seconds(self, solver: str) -> float:
        return float(self.solved[solver]["s"])


def size_of(records: list[dict[str, Any]]) -> Size:
    """Let every solver that goes so far solve one set of papers."""
    made = prepared(records)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "alike.npy", made["alike"])
        np.save(folder / "labels.npy", made["labels"])
        solved = {
            solver: measured(folder, solver, 5 if solver == OURS and len(records) <= 1_000 else 1)
            for solver, (_, most) in SOLVERS.items()
            if len(records) <= most
        }
    return Size(made=made, solved=solved)


def rows_of(count: int, size: Size) -> list[list[str]]:
    return [
        [
            solver,
            f"{count:,}",
            f"{size.gap(solver):.3f}",
            f"{size.gap(solver, 'worst_priced'):.3f}",
            f"{size.solved[solver]['plain']:.2f}",
            f"{size.seconds(solver):.3f}",
            f"{size.solved[solver]['mb']:.0f}",
        ]
        if solver in size.solved
        else [solver, f"{count:,}", *"-----"]
        for solver in SOLVERS
    ]


def targets_of(sizes: dict[int, Size], cuts_s: float, topics_gap: float) -> list[Target]:
    path = sizes[160].solved[OURS]["path"]
    within, k_means_within = coherence_against_k_means(sizes[160].made, path)
    share = sizes[160].seconds(OURS) / sizes[160].seconds(PUBLISHED)
    parts = {count: size.made["seconds"] for count, size in sizes.items()}
    return [
        Target(name="160 papers: worst gap in %", figure=sizes[160].gap(OURS, "worst_priced"), most=0.05),
        Target(name="160 papers of one field: worst gap in %", figure=topics_gap, most=0.05),
        Target(name="160 papers: seconds", figure=sizes[160].seconds(OURS), most=0.150),
        Target(name="160 papers: share of the published call's time", figure=share, most=1 / 25),
        Target(name="1,000 papers: worst gap in %", figure=sizes[1_000].gap(OURS, "worst_priced"), most=0.15),
        Target(name="1,000 papers: seconds", figure=sizes[1_000].seconds(OURS), most=0.8),
        Target(name="5,000 papers: gap in %", figure=sizes[5_000].gap(OURS), most=0.5),
        Target(name="5,000 papers: seconds", figure=sizes[5_000].seconds(OURS), most=6.0),
        Target(name="160 papers: distance matrix, seconds", figure=parts[160]["matrix"], most=0.003),
        Target(name="1,000 papers: distance matrix, seconds", figure=parts[1_000]["matrix"], most=0.040),
        Target(name="160 papers: both cuts, seconds", figure=cuts_s, most=0.005),
        Target(name="160 papers: distance within sections / k-means", figure=within / k_means_within, most=1.01),
    ]


def worst_gap_of_topics(records: list[dict[str, Any]]) -> float:
    """Return the worst gap in % of three default searches in each of six fields, as questions bring them together.

    Papers of one field lie closer together than a random sample and have more paths of nearly equal length.
    """
    gaps = []
    for topic in TOPICS:
        chosen = [record for record in records if topic in record["title"].lower()][:160]
        made = prepared(chosen, times=1)
        priced = distances(made["alike"]) + route.CLUSTER_PRICE * (made["labels"][:, None] != made["labels"])
        tries = [ours(made["alike"], made["labels"], priced) for _ in range(3)]
        best = route.short_path(made["alike"], made["labels"], start=None, seconds=3)
        lengths = [float(priced[path[:-1], path[1:]].sum()) for path in (*tries, list(best))]
        gaps.append(100 * (max(lengths) / min(lengths) - 1))
    return max(gaps)


async def over_a_channel() -> dict[str, float]:
    """Return seconds of OrderPapers for 160 x 1024 from a client's view, and of health checks while eight run."""
    vectors = np.random.default_rng(SEED).normal(size=(160, 1024)).astype("<f4")
    request = pb.OrderPapersRequest(
        paper_ids=[f"2501.{number:05d}" for number in range(160)], vectors=vectors.tobytes(), dimension=1024, count=160
    )
    async with serving(mount, OrderingSettings()) as channel:
        order = pb_grpc.OrderingServiceStub(channel).OrderPapers
        health = health_pb2_grpc.HealthStub(channel).Check
        await order(request, timeout=30)

        async def timed(call: Callable[..., Any], message: Any) -> float:
            began = time.perf_counter()
            await call(message, timeout=30)
            return time.perf_counter() - began

        alone = [await timed(order, request) for _ in range(15)]
        eight = [asyncio.create_task(timed(order, request)) for _ in range(8)]
        checks = []
        while not all(task.done() for task in eight):
            checks.append(await timed(health, health_pb2.HealthCheckRequest()))
    return {"order p50": statistics.median(alone), "health p50": statistics.median(checks), "health worst": max(checks)}


def main() -> None:
    records = corpus()
    sizes = {count: size_of(records[:count]) for count in SIZES}
    header = ["solver", "papers", "gap %", "worst %", "plain length", "seconds", "peak MB"]
    print_table(header, [row for count, size in sizes.items() for row in rows_of(count, size)])
    parts = {count: size.made["seconds"] for count, size in sizes.items()}
    print()
    print_table(
        ["part of an ordering, ms", *(f"{count:,}" for count in SIZES)],
        [[part, *(f"{1000 * parts[count][part]:.1f}" for count in SIZES)] for part in parts[SIZES[0]]],
    )
    path = np.array(sizes[160].solved[OURS]["path"])
    cuts_s = median_s(lambda: cuts.cut(sizes[160].made["alike"], path, LIMITS), 9)
    solved = {
        f"{solver}, {count}": {"gap_percent": size.gap(solver), "seconds": result["s"], "peak_mb": result["mb"]}
        for count, size in sizes.items()
        for solver, result in size.solved.items()
    }
    rpc = asyncio.run(over_a_channel())
    print()
    print_table(["160 x 1024 over a channel, ms", *rpc], [["", *(f"{1000 * seconds:.1f}" for seconds in rpc.values())]])
    targets = [
        *targets_of(sizes, cuts_s, worst_gap_of_topics(records)),
        Target(name="160 x 1024 over a channel: p50, seconds", figure=rpc["order p50"], most=0.250),
        Target(name="eight at once: slowest health check, seconds", figure=rpc["health worst"], most=0.100),
    ]
    finish(targets, {"solvers": solved, "parts_s": parts, "cuts_s": cuts_s, "channel_s": rpc})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", choices=list(SOLVERS))
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.one:
        run_one(chosen.folder, chosen.one)
    else:
        main()
