"""The tasks a survey is made of, and what an engine answers: the same for every provider and for none."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.common.paid.caller import Caller
from services.common.paid.usage import Usage
from services.common.papers import Paper


class SummaryStyle(Enum):
    """What a language model is asked to say of a paper."""

    PLAIN = "plain"
    PROBLEM_METHOD = "problem-method"


class SectionForm(Enum):
    """What is to be written about papers."""

    SECTION = "section"
    """A section that names each of its papers."""
    SINGLE = "single"
    """The published baseline: a whole survey in one call."""


class FlagKind(Enum):
    """What is wrong with a flagged sentence."""

    UNSUPPORTED = "unsupported"
    """A number or a name of it stands in no title, abstract or summary of the papers it cites."""
    FROM_MEMORY = "from_memory"
    """A method's name of it stands in none of the papers the model was shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A sentence that the papers it cites do not bear out."""

    kind: FlagKind
    sentence: str
    terms: tuple[str, ...]
    """What was not found."""
    keys: tuple[str, ...]
    """Keys the sentence cites."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanTask:
    """A question that papers are to be searched for."""

    question: str
    language: str
    """Wanted for the survey; empty means that of the question."""
    max_search_terms: int
    sample_seed: int
    plan_candidates: int = 1
    """How often a language model is asked; the plan that agrees best with the others is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """What to search for and what to write in."""

    search_terms: tuple[str, ...]
    """English, best first, at least one."""
    language: str
    model: str
    usage: tuple[Usage, ...]
    fallback_reason: str = ""
    """Why it was not the first model asked for, in English; empty when it was."""
    budget_reached: bool = False
    """Whether a call was left out because it could have cost more than the caller may spend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryTask:
    """A paper to summarize; the question is not part of it, so that a summary serves every survey."""

    paper: Paper
    language: str
    summary_seconds: int
    """Reading time."""
    style: SummaryStyle = SummaryStyle.PROBLEM_METHOD


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperSummary:
    """A summary: plain text in one line, never empty."""

    summary: str
    model: str
    usage: tuple[Usage, ...]
    fallback_reason: str = ""
    """Why it was not the first model asked for, in English; empty when it was."""
    budget_reached: bool = False
    """Whether a call was left out because it could have cost more than the caller may spend."""


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
    form: SectionForm = SectionForm.SECTION


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
    flags: tuple[Flag, ...] = ()
    repair_count: int = 0
    fallback_reason: str = ""
    """Why it was not the first model asked for, in English; empty when it was."""
    is_other_language: bool = False
    """Whether the text stayed in another language than asked for."""
    budget_reached: bool = False
    """Whether a call was left out because it could have cost more than the caller may spend."""


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
    flags: tuple[Flag, ...] = ()
    fallback_reason: str = ""
    """Why it was not the first model asked for, in English; empty when it was."""
    is_other_language: bool = False
    """Whether a text stayed in another language than asked for."""
    budget_reached: bool = False
    """Whether a call was left out because it could have cost more than the caller may spend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarted:
    """The pieces of a section so far are void."""

    reason: str


class Engine(Protocol):
    """Does the tasks; whether a language model does the writing is its own affair.

    Every method may raise NotReady (the model cannot be used: key, name, form), BudgetReached, Unpriced and
    UpstreamFailed (it does not answer); the extractive engine raises none of them.
    """

    async def plan_search(self, task: PlanTask, caller: Caller) -> SearchPlan:
        """Return English search terms.

        Raises:
            NoSearchTerms: nothing in the question can be searched for.
        """
        ...

    async def summarize_paper(self, task: SummaryTask, caller: Caller) -> PaperSummary:
        """Return a summary that states problem and method."""
        ...

    def write_section(self, task: SectionTask, caller: Caller) -> AsyncIterator[str | Restarted | WrittenSection]:
        """Yield the text in pieces that never cut a key, then the section.

        The pieces since the last Restarted make up its `text`, but for keys and links that only the whole shows to be
        no citations.
        """
        ...

    def write_frame(self, task: FrameTask, caller: Caller) -> AsyncIterator[FramePart | WrittenFrame]:
        """Yield each part as it is ready, each once, then the frame."""
        ...


def place_of(key: str) -> int:
    """Return the place on the route, from 0, that a key names: 11 for "P12"."""
    return int(key[1:]) - 1
