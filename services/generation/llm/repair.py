"""Papers that a section passed over: asked for once more by name, a paragraph a time, as long as that helps."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.common.errors import PaperRouteError
from services.common.paid.caller import Caller, Scope
from services.common.paid.faults import ProviderFault
from services.common.paid.usage import Usage
from services.common.providers.chat import ChatRequest
from services.generation.llm.chat_model import ChatModel, Refused
from services.generation.llm.citing import Cleaned
from services.generation.llm.draft import finished, lines_of, sample_of, seed_of
from services.generation.llm.language import is_in_language
from services.generation.llm.paper_text import marked_by_itself, shown
from services.generation.llm.prompts import prompt
from services.generation.llm.wording import wording_of
from services.generation.tasks import KeyedPaper, SectionTask

MAX_ROUNDS = 3
ROOM_TOKENS = 300
PAPER_TOKENS = 300
"""Room for what is said of one paper, in any language."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """What one round brought; an empty text where it named no paper in the section's language."""

    body: Cleaned
    usage: tuple[Usage, ...]


async def repaired(
    model: ChatModel,
    task: SectionTask,
    heading: str,
    missing: Sequence[KeyedPaper],
    caller: Caller,
    *,
    is_other_language: bool,
) -> AsyncIterator[Repaired]:
    """Yield what each round brought: a paragraph about papers that were missing until then.

    The rounds end when no paper is missing, when one adds no key, after `MAX_ROUNDS`, and when a call fails: what was
    written before was paid for and stays.

    Args:
        model: asked for each round.
        task: the section's.
        heading: of the section.
        missing: papers it does not name.
        caller: of the section; each round pays as a step of its own.
        is_other_language: whether the section is not in its language anyway; otherwise no such paragraph is taken.
    """
    for number in range(1, MAX_ROUNDS + 1):
        left_s = caller.deadline.timeout_s(float("inf"))
        if not missing or not left_s:
            return
        try:
            async with asyncio.timeout(left_s):
                result = await _round(model, task, heading, missing, caller.for_step(f"repair {number}"))
        except Refused as refusal:
            yield Repaired(body=_NOTHING, usage=(refusal.usage,))
            return
        except (ProviderFault, PaperRouteError, TimeoutError):
            return
        is_fitting = is_other_language or is_in_language(result.body.text, task.language)
        if not result.body.cited_keys or not is_fitting:
            yield Repaired(body=_NOTHING, usage=result.usage)
            return
        yield result
        missing = [each for each in missing if each.key not in result.body.cited_keys]


_NOTHING = Cleaned(text="", cited_keys=(), unknown_key_count=0, removed_link_count=0)


async def _round(
    model: ChatModel, task: SectionTask, heading: str, missing: Sequence[KeyedPaper], caller: Caller
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
