"""A section by a language model: prose that is streamed, checked against its closed set of keys, and repaired."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from services.common.paid.caller import Caller
from services.common.paid.usage import Usage, summed
from services.common.providers.chat import ChatRequest
from services.generation.llm.chat_model import ChatModel
from services.generation.llm.citing import Cleaned
from services.generation.llm.draft import Drafted, Drafts, heading_of, lines_of, seed_of
from services.generation.llm.language import is_in_language
from services.generation.llm.paper_text import marked_by_itself, shown
from services.generation.llm.prompts import prompt
from services.generation.llm.repair import repaired
from services.generation.llm.structured import write_structured
from services.generation.llm.support import flags_of
from services.generation.llm.wording import wording_of
from services.generation.tasks import OutlineSection, Restarted, SectionTask, WrittenSection, place_of

ROOM_TOKENS = 600
PAPER_TOKENS = 350
"""Room for what is said of one paper, in any language; a text that was cut all the same ends with a whole sentence."""
OUTLINE_CHARACTERS = 4_000
"""About 1,000 tokens: with the rules before it enough for providers to cache, and no more, since not all do."""
NAME_CHARACTERS = (60, 40, 28, 20, 14)
"""Longest name of a paper in the outline; the first with which all of it fits."""


async def write_section(
    model: ChatModel, task: SectionTask, caller: Caller
) -> AsyncIterator[str | Restarted | WrittenSection]:
    """Yield the text in pieces, then the section.

    Raises:
        Refused, Unusable, ProviderFault, NotReady, BudgetReached, Unpriced: as ChatModel.ask; none once there is a text
            that names a paper.
    """
    async with contextlib.aclosing(Drafts(model, task, prompt("section.v1"))) as drafts:
        draft = await drafts.begun(_request_of(task), caller)
        async for event in draft.pieces():
            if isinstance(event, Drafted):
                drafted = event
            else:
                yield event
        usages: list[Usage] = []
        repair_count = 0
        if not drafted.body.cited_keys:
            if drafted.body.text:
                yield Restarted(reason="the text named no paper")
            structured = await write_structured(model, task, caller)
            drafted, repair_count = structured.drafted, 1
            usages += structured.usage
            yield drafted.body.text
        body, title = drafted.body, await heading_of(drafted.heading, task)
        missing = [each for each in task.papers if each.key not in body.cited_keys]
        is_other = not is_in_language(body.text, task.language)
        async for repair in repaired(model, task, title, missing, caller, is_other_language=is_other):
            repair_count += 1
            usages += repair.usage
            if repair.body.text:
                yield f"\n\n{repair.body.text}"
                body = _joined(body, repair.body)
        yield WrittenSection(
            title=title,
            text=body.text,
            cited_keys=body.cited_keys,
            unknown_key_count=body.unknown_key_count,
            removed_link_count=body.removed_link_count,
            model=model.name,
            usage=summed([*await drafts.usages(), *usages]),
            flags=await asyncio.to_thread(flags_of, body.text, task),
            repair_count=repair_count,
            is_other_language=is_other,
        )


def _joined(body: Cleaned, more: Cleaned) -> Cleaned:
    return Cleaned(
        text=f"{body.text}\n\n{more.text}",
        cited_keys=(*body.cited_keys, *more.cited_keys),
        unknown_key_count=body.unknown_key_count + more.unknown_key_count,
        removed_link_count=body.removed_link_count + more.removed_link_count,
    )


def _request_of(task: SectionTask) -> ChatRequest:
    outline = [{"question": shown(task.question)}, *_outline_lines(task)]
    return ChatRequest(
        model="",
        system=prompt("section.v1").filled(wording_of(task.language)),
        shared=marked_by_itself(outline),
        prompt=f"Section {task.chapter_number}.{task.section_number}\n{marked_by_itself(lines_of(task.papers))}",
        max_output_tokens=ROOM_TOKENS + PAPER_TOKENS * len(task.papers),
        seed=seed_of(task),
    )


def _outline_lines(task: SectionTask) -> list[dict[str, str]]:
    """Return each section with the names of its papers, as long as all of them fit; the same for all sections."""
    for longest in NAME_CHARACTERS:
        lines = _lines_with(task, longest)
        if sum(len(line["papers"]) for line in lines) <= OUTLINE_CHARACTERS:
            return lines
    return _lines_with(task, 0)


def _lines_with(task: SectionTask, longest: int) -> list[dict[str, str]]:
    """Return each section with names of at most so many characters; for 0, with those of two papers alone."""
    lines = []
    for chapter_number, chapter in enumerate(task.outline, start=1):
        for number, section in enumerate(chapter, start=1):
            title = {"title": shown(section.title, NAME_CHARACTERS[0])} if section.title else {}
            papers = _named(section, task.route_titles, longest)
            lines.append({"section": f"{chapter_number}.{number}", **title, "papers": papers})
    return lines


def _named(section: OutlineSection, titles: Sequence[str], longest: int) -> str:
    if longest and not section.title:
        return "; ".join(f"{key} {_short(titles[place_of(key)], longest)}" for key in section.keys)
    ends = dict.fromkeys((section.keys[0], section.keys[-1]))
    if section.title:
        return "-".join(ends)
    return " to ".join(f"{key} {_short(titles[place_of(key)], NAME_CHARACTERS[-1])}" for key in ends)


def _short(title: str, longest: int) -> str:
    """Return the name in a title, what stands before its colon, cut at a word where it is too long."""
    whole = shown(title)
    name = whole.partition(":")[0].strip() or whole
    return name if len(name) <= longest else name[:longest].rpartition(" ")[0] or name[:longest]
