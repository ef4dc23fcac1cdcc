"""The tasks a survey is made of, and what an engine answers: the same for every provider and for none."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.common.papers import Paper


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the calls of one model took and cost; the fields are those of the message ModelUsage."""

    model: str
    """As it was called, "provider:model"."""
    call_count: int = 1
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int | None
    """None means unpriced, which is not zero."""
    avoided_cost_nano_usd: int = 0
    is_estimated: bool = False
    """Whether we counted the tokens, because the provider did not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanTask:
    """A question that papers are to be searched for."""

    question: str
    language: str
    """Wanted for the survey; empty means that of the question."""
    max_search_terms: int
    sample_seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """What to search for and what to write in."""

    search_terms: tuple[str, ...]
    """English, best first, at least one."""
    language: str
    model: str
    usage: tuple[Usage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryTask:
    """A paper to summarize; the question is not part of it, so that a summary serves every survey."""

    paper: Paper
    language: str
    summary_seconds: int
    """Reading time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperSummary:
    """A summary: plain text in one line, never empty."""

    summary: str
    model: str
    usage: tuple[Usage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyedPaper:
    """A paper, its name in the text ("P12") and its summary."""

    key: str
    paper: Paper
    summary: str

    @property
    def place(self) -> int:
        """Place on the route, from 0."""
        return place_of(self.key)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutlineSection:
    """The keys a section is about, in the order of the route, and its title where it has one."""

    keys: tuple[str, ...]
    title: str = ""


Outline = tuple[tuple[OutlineSection, ...], ...]
"""The sections of each chapter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionTask:
    """A section to write about the papers given, and nothing else."""

    question: str
    language: str
    outline: Outline
    chapter_number: int
    """From 1."""
    section_number: int
    """Within its chapter, from 1."""
    papers: tuple[KeyedPaper, ...]
    """The closed set the text may name; keys of the outline's section, in its order."""
    route_titles: tuple[str, ...]
    """Of all places on the route: that of "P12" is the twelfth."""
    sample_seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenSection:
    """A section; `text` is Markdown in which papers are named "[P12]"."""

    title: str
    text: str
    cited_keys: tuple[str, ...]
    unknown_key_count: int
    removed_link_count: int
    model: str
    usage: tuple[Usage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameTask:
    """The frame to write around the sections of an outline."""

    question: str
    language: str
    outline: Outline
    papers: tuple[KeyedPaper, ...]
    """All that are left on the route, in order."""
    search_terms: tuple[str, ...]
    sample_seed: int


class FramePartKind(Enum):
    """What a part of the frame is."""

    TITLE = "title"
    INTRODUCTION = "introduction"
    CHAPTER_TITLE = "chapter_title"
    CHAPTER_TEXT = "chapter_text"
    CLOSING = "closing"


@dataclass(frozen=True, kw_only=True, slots=True)
class FramePart:
    """A part of the frame that is ready."""

    kind: FramePartKind
    chapter_number: int = 0
    """From 1; 0 for a part of the whole survey."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChapterHead:
    """Title and a few sentences across the sections of a chapter."""

    title: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenFrame:
    """The frame; titles are plain text in one line, the rest is Markdown in which papers are named "[P12]"."""

    title: str
    introduction: str
    chapters: tuple[ChapterHead, ...]
    """One for each chapter of the outline, in order."""
    closing: str
    unknown_key_count: int
    removed_link_count: int
    model: str
    usage: tuple[Usage, ...]


class Engine(Protocol):
    """Does the tasks; whether a language model does the writing is its own affair."""

    async def plan_search(self, task: PlanTask) -> SearchPlan:
        """Return English search terms.

        Raises:
            NoSearchTerms: nothing in the question can be searched for.
        """
        ...

    async def summarize_paper(self, task: SummaryTask) -> PaperSummary:
        """Return a summary that states problem and method."""
        ...

    def write_section(self, task: SectionTask) -> AsyncIterator[str | WrittenSection]:
        """Yield the text in pieces that never cut a key, then the section; the pieces make up its `text`."""
        ...

    def write_frame(self, task: FrameTask) -> AsyncIterator[FramePart | WrittenFrame]:
        """Yield each part as it is ready, each once, then the frame."""
        ...


def place_of(key: str) -> int:
    """Return the place on the route, from 0, that a key names: 11 for "P12"."""
    return int(key[1:]) - 1
