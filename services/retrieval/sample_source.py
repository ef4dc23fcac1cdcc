"""The sample library: real papers with paraphrased abstracts, read from the package, for use without a network."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from importlib import resources
from typing import Any

from services.common.papers import Paper
from services.retrieval.filters import newest_first, words_of
from services.retrieval.sources import NO_LIMITS, Limits, Page, Step
from services.retrieval.words import holds_all_words, term_words

LIBRARY = "sample_library.jsonl"


class SampleSource:
    """Answers from the sample library, which is read at the first search."""

    async def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float, limits: Limits = NO_LIMITS
    ) -> AsyncGenerator[Step]:
        """Yield one page: papers that hold any word of the term, most words first, then newest first.

        Papers after `as_of` are among them: the library is the same for every day.
        """
        del as_of, deadline, limits
        papers = (await asyncio.to_thread(self._ranked, search_term))[:max_results]
        yield Page(papers=papers, expected_count=len(papers), answered_at=datetime.now(UTC))

    def _ranked(self, search_term: str) -> list[Paper]:
        words = term_words(search_term)
        counted = [(sum(holds_all_words((word,), found) for word in words), paper) for paper, found in self._papers]
        counted.sort(key=lambda pair: pair[0], reverse=True)  # stable: papers with as many words stay newest first
        return [paper for held_count, paper in counted if held_count]

    @cached_property
    def _papers(self) -> Sequence[tuple[Paper, frozenset[str]]]:
        return [(paper, words_of(paper)) for paper in newest_first(library())]


def library() -> list[Paper]:
    """Return all papers of the sample library."""
    text = resources.files("services.retrieval").joinpath(LIBRARY).read_text(encoding="utf-8")
    return [_paper_of(json.loads(line)) for line in text.splitlines()]


def _paper_of(record: Mapping[str, Any]) -> Paper:
    return Paper(
        paper_id=record["id"],
        version=record["version"],
        title=record["title"],
        abstract=record["abstract"],
        authors=tuple(record["authors"]),
        primary_category=record["primary_category"],
        categories=tuple(record["categories"]),
        published_at=datetime.fromisoformat(record["published"]).replace(tzinfo=UTC),
        is_day_known=record.get("published_precision") != "month",
        is_paraphrased=record["abstract_source"] == "paraphrase",
    )
