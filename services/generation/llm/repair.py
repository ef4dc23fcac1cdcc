"""Papers that a section passed over: asked for by name, a paragraph a time, at last as sentences under their keys."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from services.common.errors import PaperRouteError
from services.common.paid.caller import Caller, Scope
from services.common.paid.faults import ProviderFault
from services.common.paid.usage import Usage
from services.common.providers.chat import ChatRequest
from services.generation.llm.chat_model import ChatModel, Refused, Unusable
from services.generation.llm.citing import Cleaned
from services.generation.llm.draft import finished, lines_of, sample_of, seed_of
from services.generation.llm.language import is_in_language
from services.generation.llm.paper_text import marked_by_itself, shown
from services.generation.llm.prompts import prompt
from services.generation.llm.structured import write_structured
from services.generation.llm.wording import wording_of
from services.generation.tasks import KeyedPaper, SectionTask

MAX_ROUNDS = 3
_ROUNDS = range(1, MAX_ROUNDS + 1)
ROOM_TOKENS = 300
PAPER_TOKENS = 300
"""Room for what is said of one paper, in any language."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """What one call brought; an empty text where it named no paper in the section's language."""

    body: Cleaned
    usage: tuple[Usage, ...]
    is_refused: bool = False


_Ask = Callable[[Sequence[KeyedPaper]], Awaitable[Repaired]]
"""Asks for the papers that are missing."""


async def repaired(
    model: ChatModel,
    task: SectionTask,
    heading: str,
    missing: Sequence[KeyedPaper],
    caller: Caller,
    *,
    is_other_language: bool,
) -> AsyncIterator[Repaired]:
    """Yield what each call brought: a paragraph about papers that were missing until then.

    The rounds end when one adds no key and after `MAX_ROUNDS`; what is missing even then is asked for once in
    structured form, which leaves a model no choice. All ends when no paper is missing, and when a call fails: what was
    written before was paid for and stays.

    Args:
        model: asked for each round.
        task: the section's.
        heading: of the section.
        missing: papers it does not name.
        caller: of the section; each round pays as a step of its own.
        is_other_language: whether the section is not in its language anyway; otherwise no such paragraph is taken.
    """
    asks = [
        *(partial(_round, model, task, heading, caller.for_step(f"repair {number}")) for number in _ROUNDS),
        partial(_structured, model, task, caller.for_step("repair")),
    ]
    place, last = 0, len(asks) - 1
    while missing and place <= last:
        result = await _tried(asks[place], missing, caller)
        if result is None:
            return
        is_taken = bool(result.body.cited_keys) and (
            is_other_language or is_in_language(result.body.text, task.language)
        )
        yield result if is_taken else replace(result, body=_NOTHING)
        if result.is_refused:
            return
        missing = [each for each in missing if not is_taken or each.key not in result.body.cited_keys]
        place = place + 1 if is_taken or place == last else last


_NOTHING = Cleaned(text="", cited_keys=(), unknown_key_count=0, removed_link_count=0)


async def _tried(ask: _Ask, missing: Sequence[KeyedPaper], caller: Caller) -> Repaired | None:
    """Return what a call brought; None where it failed or no time is left for it."""
    left_s = caller.deadline.timeout_s(float("inf"))
    if not left_s:
        return None
    try:
        async with asyncio.timeout(left_s):
            return await ask(missing)
    except Refused as refusal:
        return Repaired(body=_NOTHING, usage=(refusal.usage,), is_refused=True)
    except Unusable as answer:
        return Repaired(body=_NOTHING, usage=answer.usage)
    except (ProviderFault, PaperRouteError, TimeoutError):
        return None


async def _round(
    model: ChatModel, task: SectionTask, heading: str, caller: Caller, missing: Sequence[KeyedPaper]
) -> Repaired:
    template = prompt("repair.v1")
    request = ChatRequest(
        model="",
        system=template.filled(wording_of(task.language)),
        prompt=marked_by_itself([{"question": shown(task.question), "section": shown(heading)}, *lines_of(missing)]),
        max_output_tokens=ROOM_TOKENS + PAPER_TOKENS * len(missing),
        seed=seed_of(task),
    )
    answer = await model.ask(request, caller, scope=Scope.TENANT, prompt_id=template.prompt_id, sample=sample_of(task))
    return Repaired(body=finished(answer, [each.key for each in missing]).body, usage=(answer.usage,))


async def _structured(model: ChatModel, task: SectionTask, caller: Caller, missing: Sequence[KeyedPaper]) -> Repaired:
    written = await write_structured(model, replace(task, papers=tuple(missing)), caller)
    return Repaired(body=written.drafted.body, usage=written.usage)
