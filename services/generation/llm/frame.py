"""The frame by a language model: one answer in a form, every text of it cleaned; what is missing, the extractive one.

A paper is shown by its title and the first sentence of its summary: the sections tell the rest.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, Field, field_validator
from pydantic_core import from_json

from services.common.errors import PaperRouteError
from services.common.paid.caller import Caller, Scope
from services.common.paid.faults import ProviderFault
from services.common.paid.settings import BUILTIN
from services.common.paid.usage import Usage, summed
from services.common.providers.chat import ChatRequest, Turn
from services.generation.extractive import frame as extractive
from services.generation.extractive.sentences import sentences_of
from services.generation.llm.chat_model import MAX_SEED, ChatModel, Refused, Unusable
from services.generation.llm.citing import Cleaned, cleaned, title_of
from services.generation.llm.language import is_in_language
from services.generation.llm.paper_text import MAX_TITLE_CHARACTERS, marked_by_itself, shown
from services.generation.llm.prompts import prompt
from services.generation.llm.support import flags_of
from services.generation.llm.wording import once_more_in, wording_of
from services.generation.tasks import (
    ChapterHead,
    Flag,
    FramePart,
    FramePartKind,
    FrameTask,
    KeyedPaper,
    SectionTask,
    WrittenFrame,
)

MAX_PAPERS = 500
"""Most papers shown; of more, every second or third."""
MAX_SENTENCE_CHARACTERS = 300
MAX_FRAME_TITLE_CHARACTERS = 200
MAX_NAMED = 6
"""Most missing parts that are named."""
ROOM_TOKENS = 2_500
"""For title, introduction and closing in any language, with room for a model that cannot but reason."""
CHAPTER_TOKENS = 300
"""For one chapter's head."""

_Place = tuple[FramePartKind, int]
"""A part of the frame: what it is, and its chapter from 1, or 0."""
_TITLES = (FramePartKind.TITLE, FramePartKind.CHAPTER_TITLE)


class HeadForm(BaseModel):
    """Title and text of a chapter."""

    number: int
    title: str
    text: str


class FrameForm(BaseModel):
    """What stands around the sections of a survey."""

    title: str
    introduction: str
    chapters: list[HeadForm]
    closing: str


class _LooseHead(BaseModel):
    number: int
    title: str = ""
    text: str = ""


class _LooseFrame(BaseModel):
    """What can be told of an answer that breaks the form."""

    title: str = ""
    introduction: str = ""
    chapters: list[_LooseHead] = []
    closing: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """What a model said, by part, cleaned; parts it has nothing for are missing."""

    texts: Mapping[_Place, str]
    unknown_key_count: int
    removed_link_count: int
    usage: tuple[Usage, ...]
    answer: str
    """JSON, as the model is shown it again."""

    def is_in(self, language: str) -> bool:
        """Return whether all of it together can be in a language."""
        return is_in_language("\n".join(self.texts.values()), language)


@functools.cache
def form_for(chapter_count: int) -> type[FrameForm]:
    """Return the form of a frame with so many chapters."""

    class Frame(FrameForm):
        chapters: list[HeadForm] = Field(min_length=chapter_count, max_length=chapter_count)

        @field_validator("chapters")
        @classmethod
        def _in_order(cls, chapters: list[HeadForm]) -> list[HeadForm]:
            """Return the chapters by their numbers; numbers that make no sense give way to the order of the answer."""
            wanted = range(1, chapter_count + 1)
            ordered = sorted(chapters, key=lambda each: each.number)
            if [each.number for each in ordered] == [*wanted]:
                return ordered
            return [each.model_copy(update={"number": number}) for number, each in zip(wanted, chapters, strict=True)]

    return Frame


async def write_frame(model: ChatModel, task: FrameTask, caller: Caller) -> AsyncIterator[FramePart | WrittenFrame]:
    """Yield the parts in the order of the survey, then the frame.

    Raises:
        Unusable: the answer has no part that can be used.
        Refused, ProviderFault, NotReady, BudgetReached, Unpriced: as ChatModel.ask.
    """
    draft = await _drafted(model, task, caller)
    wanted = _places(len(task.outline))
    missing = [place for place in wanted if place not in draft.texts]
    texts = dict(draft.texts)
    if missing:
        parts = await asyncio.to_thread(lambda: tuple(extractive.parts_of(task)))
        texts |= {_place_of(part): part.text for part in parts if _place_of(part) in missing}
    for kind, number in wanted:
        yield FramePart(kind=kind, chapter_number=number, text=texts[kind, number])
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
        unknown_key_count=draft.unknown_key_count,
        removed_link_count=draft.removed_link_count,
        model=model.name,
        usage=draft.usage,
        flags=await asyncio.to_thread(_flags_of, draft, task),
        fallback_reason=_told_missing(model.name, missing),
        is_other_language=not draft.is_in(task.language),
    )


async def _drafted(model: ChatModel, task: FrameTask, caller: Caller) -> _Draft:
    """Return what the model said, asked for once more where it was in another language."""
    request = _request_of(task)
    draft = await _asked(model, task, request, caller)
    if draft.is_in(task.language):
        return draft
    turn = Turn(answer=draft.answer, correction=once_more_in(task.language))
    try:
        again = await _asked(model, task, replace(request, turns=(turn,)), caller.for_step("language"))
    except Refused as refusal:
        return replace(draft, usage=summed([*draft.usage, refusal.usage]))
    except Unusable as error:
        return replace(draft, usage=summed([*draft.usage, *error.usage]))
    except (ProviderFault, PaperRouteError):
        return draft
    return replace(again, usage=summed([*draft.usage, *again.usage]))


async def _asked(model: ChatModel, task: FrameTask, request: ChatRequest, caller: Caller) -> _Draft:
    """Return what one answer says, corrected once where it breaks the form, then taken for what it has.

    Raises:
        Unusable: it has nothing.
    """
    try:
        formed = await model.ask_form(
            request,
            form_for(len(task.outline)),
            caller,
            scope=Scope.TENANT,
            prompt_id=prompt("frame.v1").prompt_id,
            sample=f"seed {task.sample_seed}",
        )
    except Unusable as error:
        draft = _draft_of(_loose(error.text), task, error.usage)
        if not draft.texts:
            raise
        return draft
    return _draft_of(formed.value, task, formed.usage)


def _draft_of(frame: FrameForm | _LooseFrame, task: FrameTask, usage: tuple[Usage, ...]) -> _Draft:
    """Return the parts of an answer, each cleaned; only papers that were shown may be named."""
    said: dict[_Place, str] = {
        (FramePartKind.TITLE, 0): frame.title,
        (FramePartKind.INTRODUCTION, 0): frame.introduction,
        (FramePartKind.CLOSING, 0): frame.closing,
    }
    for head in frame.chapters:
        said |= {
            (FramePartKind.CHAPTER_TITLE, head.number): head.title,
            (FramePartKind.CHAPTER_TEXT, head.number): head.text,
        }
    keys = {each.key for each in _shown_papers(task)}
    wanted = _places(len(task.outline))
    parts = {place: _cleaned(place, text, keys) for place, text in said.items() if place in wanted}
    return _Draft(
        texts={place: part.text for place, part in parts.items() if part.text},
        unknown_key_count=sum(part.unknown_key_count for part in parts.values()),
        removed_link_count=sum(part.removed_link_count for part in parts.values()),
        usage=usage,
        answer=frame.model_dump_json(),
    )


def _cleaned(place: _Place, text: str, keys: Collection[str]) -> Cleaned:
    if place[0] not in _TITLES:
        return cleaned(text, keys)
    title = title_of(text, keys)
    if len(title.text) <= MAX_FRAME_TITLE_CHARACTERS:
        return title
    start = title.text[:MAX_FRAME_TITLE_CHARACTERS]
    return replace(title, text=start.rpartition(" ")[0] or start)


def _flags_of(draft: _Draft, task: FrameTask) -> tuple[Flag, ...]:
    """Return the sentences of the model that the papers do not bear out, as of a section about all of them."""
    shown_as = SectionTask(
        question=task.question,
        language=task.language,
        outline=task.outline,
        chapter_number=1,
        section_number=1,
        papers=_shown_papers(task),
        route_titles=(),
        sample_seed=task.sample_seed,
    )
    texts = (draft.texts.get(place, "") for place in _places(len(task.outline)) if place[0] not in _TITLES)
    return tuple(flag for text in texts for flag in flags_of(text, shown_as))


def _loose(text: str) -> _LooseFrame:
    """Return what can be told of an answer that breaks the form, also of one that was cut."""
    try:
        return _LooseFrame.model_validate(from_json(text[max(0, text.find("{")) :], allow_partial=True))
    except ValueError:
        return _LooseFrame()


def _request_of(task: FrameTask) -> ChatRequest:
    count = len(task.outline)
    return ChatRequest(
        model="",
        system=prompt("frame.v1").filled({**wording_of(task.language), "count": count}),
        prompt=marked_by_itself([{"question": shown(task.question)}, *_lines_of(task)]),
        max_output_tokens=ROOM_TOKENS + CHAPTER_TOKENS * count,
        seed=task.sample_seed % MAX_SEED,
    )


def _lines_of(task: FrameTask) -> Iterator[dict[str, str]]:
    """Yield the chapters with their sections and the papers shown of each."""
    papers = {each.key: each for each in _shown_papers(task)}
    for chapter_number, chapter in enumerate(task.outline, start=1):
        yield {"chapter": str(chapter_number)}
        for number, section in enumerate(chapter, start=1):
            name = {"title": shown(section.title, MAX_TITLE_CHARACTERS)} if section.title else {}
            yield {"section": f"{chapter_number}.{number}", **name}
            yield from (_line_of(papers[key]) for key in section.keys if key in papers)


def _line_of(keyed: KeyedPaper) -> dict[str, str]:
    line = {"key": keyed.key, "title": shown(keyed.paper.title, MAX_TITLE_CHARACTERS)}
    first = next(iter(sentences_of(shown(keyed.summary))), "")
    return {**line, "does": shown(first, MAX_SENTENCE_CHARACTERS)} if first else line


def _shown_papers(task: FrameTask) -> tuple[KeyedPaper, ...]:
    step = -(-len(task.papers) // MAX_PAPERS)
    return task.papers[:: max(1, step)]


def _places(chapter_count: int) -> list[_Place]:
    """Return all parts of a frame in the order of the survey."""
    heads = [
        (kind, number)
        for number in range(1, chapter_count + 1)
        for kind in (FramePartKind.CHAPTER_TITLE, FramePartKind.CHAPTER_TEXT)
    ]
    return [(FramePartKind.TITLE, 0), (FramePartKind.INTRODUCTION, 0), *heads, (FramePartKind.CLOSING, 0)]


def _place_of(part: FramePart) -> _Place:
    return part.kind, part.chapter_number


def _told_missing(model: str, missing: Sequence[_Place]) -> str:
    """Return what the extractive engine had to write, in English; empty for nothing."""
    if not missing:
        return ""
    names = [f"{kind.value.replace('_', ' ')} {number or ''}".strip() for kind, number in missing]
    rest = len(names) - MAX_NAMED
    named = ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return f"{model} did not give {named}; {BUILTIN} wrote it"
