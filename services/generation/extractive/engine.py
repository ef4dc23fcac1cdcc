"""The extractive engine behind the task interface."""

import asyncio
from collections.abc import AsyncIterator

from services.common.errors import NoSearchTerms
from services.common.paid.caller import Caller
from services.common.paid.settings import BUILTIN
from services.common.paid.usage import Usage
from services.generation.extractive import frame, section
from services.generation.extractive.phrases import phrases_of
from services.generation.extractive.search_terms import language_of, search_terms
from services.generation.extractive.summary import summary_of
from services.generation.tasks import (
    ChapterHead,
    FramePart,
    FramePartKind,
    FrameTask,
    PaperSummary,
    PlanTask,
    SearchPlan,
    SectionTask,
    SummaryTask,
    WrittenFrame,
    WrittenSection,
)

_USAGE = (Usage(model=BUILTIN, cost_nano_usd=0, is_estimated=True),)
_ADVICE = "ask in English or Japanese, name the subject with its English technical words, or set up a language model"


class ExtractiveEngine:
    """Does every task without a language model; see the package for what it promises."""

    async def plan_search(self, task: PlanTask, _caller: Caller) -> SearchPlan:
        """Return the technical terms of the question, in English.

        Raises:
            NoSearchTerms: there are none that the engine knows.
        """
        terms = search_terms(task.question, max_terms=task.max_search_terms)
        if not terms:
            raise NoSearchTerms(_ADVICE)
        language = task.language or language_of(task.question)
        return SearchPlan(search_terms=terms, language=language, model=BUILTIN, usage=_USAGE)

    async def summarize_paper(self, task: SummaryTask, _caller: Caller) -> PaperSummary:
        """Return sentences of the abstract, in its own language; quick enough for the event loop."""
        summary = summary_of(task.paper.title, task.paper.abstract, seconds=task.summary_seconds)
        return PaperSummary(summary=summary, model=BUILTIN, usage=_USAGE)

    async def write_section(
        self, task: SectionTask, _caller: Caller | None = None
    ) -> AsyncIterator[str | WrittenSection]:
        """Yield the section sentence by sentence, then whole."""
        draft = await asyncio.to_thread(section.drafted, task)
        gap = _gap(task.language)
        pieces = []
        for number, paragraph in enumerate(draft.paragraphs):
            for place, sentence in enumerate(paragraph):
                before = gap if place else "\n\n" if number else ""
                pieces.append(before + sentence)
        for piece in pieces:
            yield piece
        yield WrittenSection(
            title=draft.title,
            text="".join(pieces),
            cited_keys=tuple(paper.key for paper in task.papers),
            unknown_key_count=0,
            removed_link_count=0,
            model=BUILTIN,
            usage=_USAGE,
        )

    async def write_frame(
        self, task: FrameTask, _caller: Caller | None = None
    ) -> AsyncIterator[FramePart | WrittenFrame]:
        """Yield the parts in the order of the survey, then the frame."""
        parts = await asyncio.to_thread(lambda: tuple(frame.parts_of(task)))
        for part in parts:
            yield part
        texts = {(part.kind, part.chapter_number): part.text for part in parts}
        yield WrittenFrame(
            title=texts[FramePartKind.TITLE, 0],
            introduction=texts[FramePartKind.INTRODUCTION, 0],
            chapters=tuple(
                ChapterHead(
                    title=texts[FramePartKind.CHAPTER_TITLE, number], text=texts[FramePartKind.CHAPTER_TEXT, number]
                )
                for number in range(1, len(task.outline) + 1)
            ),
            closing=texts[FramePartKind.CLOSING, 0],
            unknown_key_count=0,
            removed_link_count=0,
            model=BUILTIN,
            usage=_USAGE,
        )


def _gap(language: str) -> str:
    """Return what stands between two sentences."""
    return "" if phrases_of(language).language == "ja" else " "
