"""Real papers for the tests of generation: the sample library, summarized, keyed and cut into sections."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from services.common.papers import Paper
from services.generation.extractive.summary import summary_of
from services.generation.tasks import FrameTask, KeyedPaper, Outline, OutlineSection, SectionTask

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "services" / "retrieval" / "sample_library.jsonl"
CORPUS = ROOT.parent / "shared" / "data" / "arxiv_corpus.jsonl.gz"
QUESTION = "What are the trends?"


def paper_of(record: dict[str, Any]) -> Paper:
    return Paper(
        paper_id=record["id"],
        title=record["title"],
        abstract=record["abstract"],
        published_at=datetime.fromisoformat(record.get("published") or "2025-01-01").replace(tzinfo=UTC),
        primary_category=record["primary_category"] or "",
    )


@pytest.fixture(scope="session")
def library() -> dict[str, list[Paper]]:
    """The papers of each topic of the sample library."""
    topics: dict[str, list[Paper]] = {}
    for line in LIBRARY.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        topics.setdefault(record["topic"], []).append(paper_of(record))
    return topics


@pytest.fixture(scope="session")
def arxiv_papers() -> list[Paper]:
    """Some 300 real records of arXiv, old and new, LaTeX and all."""
    if not CORPUS.exists():
        pytest.skip("the corpus lies beside the repository only where it was fetched")
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        return [paper_of(json.loads(line)) for line in islice(lines, 0, None, 170)]


def keyed_of(papers: list[Paper]) -> tuple[KeyedPaper, ...]:
    return tuple(
        KeyedPaper(key=f"P{place}", paper=paper, summary=summary_of(paper.title, paper.abstract))
        for place, paper in enumerate(papers, start=1)
    )


def outline_of(count: int, chapters: int, most: int) -> Outline:
    """Return chapters of about equal length, cut into sections of at most `most` keys."""
    edges = [round(count * number / chapters) for number in range(chapters + 1)]
    return tuple(
        tuple(
            OutlineSection(keys=tuple(f"P{place + 1}" for place in range(start, min(start + most, end))))
            for start in range(first, end, most)
        )
        for first, end in pairwise(edges)
        if end > first
    )


class Route:
    """Papers on a route, and the tasks that write about them."""

    def __init__(self, papers: list[Paper], *, chapters: int = 1, most: int = 8, question: str = QUESTION) -> None:
        self.papers = keyed_of(papers)
        self.question = question
        self.outline = outline_of(len(papers), chapters, most)

    def section(self, chapter: int, number: int, **fields: Any) -> SectionTask:
        keys = self.outline[chapter - 1][number - 1].keys
        task = SectionTask(
            question=self.question,
            language="en",
            outline=self.outline,
            chapter_number=chapter,
            section_number=number,
            papers=tuple(each for each in self.papers if each.key in keys),
            route_titles=tuple(each.paper.title for each in self.papers),
            sample_seed=0,
        )
        return replace(task, **fields)

    def sections(self, **fields: Any) -> list[SectionTask]:
        return [
            self.section(chapter, number, **fields)
            for chapter, sections in enumerate(self.outline, start=1)
            for number in range(1, len(sections) + 1)
        ]

    def frame(self, **fields: Any) -> FrameTask:
        task = FrameTask(
            question=self.question,
            language="en",
            outline=self.outline,
            papers=self.papers,
            search_terms=("LoRA image generation", "low-rank adaptation"),
            sample_seed=0,
        )
        return replace(task, **fields)


@pytest.fixture
def route_of() -> Callable[..., Route]:
    return Route


@pytest.fixture
def lora(library: dict[str, list[Paper]]) -> Route:
    """The 36 LoRA papers by title, three chapters."""
    papers = sorted(library["lora"], key=lambda paper: paper.title)
    return Route(papers, chapters=3, question="What are the trends around LoRA for image generation?")


@pytest.fixture
def paper() -> Callable[..., Paper]:
    def made(title: str = "Name: a paper", abstract: str = "We propose Name.", **fields: Any) -> Paper:
        values = {"paper_id": "2501.00001", "published_at": datetime(2025, 1, 1, tzinfo=UTC)}
        return Paper(title=title, abstract=abstract, **{**values, **fields})

    return made
