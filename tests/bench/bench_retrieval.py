"""`make bench-retrieval`: the local index at 50,007 records: how long it takes to build, to open and to answer.

The build is the command `paperroute index build` in a process of its own, vectors included. A search is all words of a
topic with dense order, its vector given, and the 200 best records read; beside it stands the plain scan over prepared
word sets. The sets of both must be the same for the 12 topics.
"""

import asyncio
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import numpy as np
from bench_table import Target, finish, print_table
from corpus import CORPUS, TOPICS

from services.embedding.wordllama_encoder import WordLlamaEncoder
from services.retrieval.index_file import IndexFile, IndexLimits, IndexView
from services.retrieval.index_source import IndexSource
from services.retrieval.sources import CapBy, Limits
from services.retrieval.words import holds_all_words, term_words, tokens

ROUNDS = 50
MAX_RESULTS = 200
NO_LIMITS = IndexLimits()
LIMITS = IndexLimits(published_from=date(2025, 6, 1), published_by=date(2026, 1, 31), categories=("cs.CV",))
OPENING = """
import sys, time
from pathlib import Path
from services.retrieval.index_file import IndexFile, IndexLimits
began = time.perf_counter()
index = IndexFile(Path(sys.argv[1]))
index.use(lambda view: view.papers(view.newest_first(view.holding_all_words("video generation", IndexLimits()))[:200]))
print(time.perf_counter() - began)
index.close()
"""


def built(folder: Path) -> dict[str, float]:
    """Build the index with the command and return seconds and peak memory (Linux)."""
    command = [sys.executable, "-c", "from gateway.cli.main import main; main()", "index", "build", str(CORPUS)]
    began = time.perf_counter()
    child = subprocess.Popen(command, env={**os.environ, "PAPERROUTE_DATA_DIR": str(folder)})
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit("the index was not built")
    return {
        "s": time.perf_counter() - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def first_answer_s(path: Path) -> float:
    """Return the time from opening the index to its first answer, in a process of its own, median of 5."""
    command = [sys.executable, "-c", OPENING, str(path)]
    runs = [float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(5)]
    return statistics.median(runs)


def timed_ms(work: Callable[[str], object], rounds: int = ROUNDS) -> list[float]:
    """Return how long each topic took in each round, in milliseconds."""
    figures = []
    for _ in range(rounds):
        for topic in TOPICS:
            began = time.perf_counter()
            work(topic)
            figures.append(1000 * (time.perf_counter() - began))
    return figures


def p50_p99(figures: list[float]) -> tuple[float, float]:
    return float(np.percentile(figures, 50)), float(np.percentile(figures, 99))


def searches(index: IndexFile) -> dict[str, Callable[[str], object]]:
    """Return what is timed, by its name."""
    vectors = dict(zip(TOPICS, WordLlamaEncoder().encode(TOPICS), strict=True))
    source = IndexSource(index.path, None)

    def all_words(view: IndexView, topic: str, limits: IndexLimits = NO_LIMITS) -> object:
        return view.holding_all_words(topic, limits)

    def dense(view: IndexView, topic: str, limits: IndexLimits = NO_LIMITS) -> object:
        return view.by_similarity(view.holding_all_words(topic, limits), vectors[topic])[:MAX_RESULTS]

    def page(topic: str) -> object:
        async def first() -> object:
            limits = Limits(cap_by=CapBy.NEWEST)
            pages = source.pages(
                topic, max_results=MAX_RESULTS, as_of=date(2026, 7, 1), deadline=float("inf"), limits=limits
            )
            return [step async for step in pages]

        return runner.run(first())

    runner = asyncio.Runner()
    return {
        "all words, ids": lambda topic: index.use(lambda view: all_words(view, topic)),
        "all words, dense order, ids": lambda topic: index.use(lambda view: dense(view, topic)),
        "the same within dates and category": lambda topic: index.use(lambda view: dense(view, topic, LIMITS)),
        DENSE_PAGE: lambda topic: index.use(lambda view: view.papers(dense(view, topic))),
        "source, newest first, 200 records": page,
        "any word by BM25, ids": lambda topic: index.use(lambda view: view.best_matches(topic, NO_LIMITS)),
        "nearest of all, ids": lambda topic: index.use(
            lambda view: view.nearest(vectors[topic], NO_LIMITS, MAX_RESULTS)
        ),
    }


DENSE_PAGE = "all words, dense order, 200 records"


def differing_topics(index: IndexFile, scan: Callable[[str], set[str]]) -> int:
    def found(topic: str) -> set[str]:
        papers = index.use(lambda view: view.papers(view.holding_all_words(topic, NO_LIMITS)))
        return {paper.paper_id for paper in papers}

    return sum(found(topic) != scan(topic) for topic in TOPICS)


def word_sets() -> Mapping[str, frozenset[str]]:
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        records = map(json.loads, lines)
        return {each["id"]: tokens(f"{each['title']}\n{each['abstract']}") for each in records}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        made = built(Path(name))
        path = Path(name) / "arxiv_index.sqlite3"
        opening_s = first_answer_s(path)
        sets = word_sets()

        def scan(topic: str) -> set[str]:
            words = term_words(topic)
            return {paper_id for paper_id, found in sets.items() if holds_all_words(words, found)}

        index = IndexFile(path)
        differing = differing_topics(index, scan)
        figures = {name: p50_p99(timed_ms(work)) for name, work in searches(index).items()}
        figures["plain scan over prepared word sets"] = p50_p99(timed_ms(scan, rounds=3))
        index.close()
        size_mb = path.stat().st_size / 1e6
    print_table(
        ["search", "p50 ms", "p99 ms"], [[name, *(f"{each:.2f}" for each in two)] for name, two in figures.items()]
    )
    print(
        f"\nbuild {made['s']:.1f} s ({made['cpu_s']:.1f} CPU s), peak {made['peak_mb']:.0f} MB, file {size_mb:.0f} MB"
    )
    targets = [
        Target(name="build with vectors: seconds", figure=made["s"], most=180),
        Target(name="build: peak memory in MB", figure=made["peak_mb"], most=600),
        Target(name="first answer after opening: seconds", figure=opening_s, most=1),
        Target(name=f"{DENSE_PAGE}: p50 in ms", figure=figures[DENSE_PAGE][0], most=5),
        Target(name=f"{DENSE_PAGE}: p99 in ms", figure=figures[DENSE_PAGE][1], most=40),
        Target(name="topics whose set differs from the scan's", figure=differing, most=0),
    ]
    finish(targets, {"build": made, "first_answer_s": opening_s, "file_mb": size_mb, "search_ms": figures})


if __name__ == "__main__":
    main()
