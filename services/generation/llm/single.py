"""The published baseline by a language model: a whole survey in one call, which names what the model likes to name."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.common.paid.caller import Caller
from services.common.paid.usage import summed
from services.common.providers.chat import ChatRequest
from services.generation.llm.chat_model import ChatModel
from services.generation.llm.draft import Drafted, Drafts, heading_of, lines_of, seed_of
from services.generation.llm.language import is_in_language
from services.generation.llm.paper_text import marked_by_itself, shown
from services.generation.llm.prompts import prompt
from services.generation.llm.support import flags_of
from services.generation.llm.wording import wording_of
from services.generation.tasks import Restarted, SectionTask, WrittenSection

MAX_OUTPUT_TOKENS = 8_000
"""Some four times what the published surveys took."""


async def write_single(
    model: ChatModel, task: SectionTask, caller: Caller
) -> AsyncIterator[str | Restarted | WrittenSection]:
    """Yield the text in pieces, then the survey as one section; nothing is asked for again but its language.

    Raises:
        Refused, ProviderFault, NotReady, BudgetReached, Unpriced: as ChatModel.ask.
    """
    async with contextlib.aclosing(Drafts(model, task, prompt("single.v1"))) as drafts:
        draft = await drafts.begun(_request_of(task), caller)
        async for event in draft.pieces():
            if isinstance(event, Drafted):
                drafted = event
            else:
                yield event
        body = drafted.body
        yield WrittenSection(
            title=await heading_of(drafted.heading, task),
            text=body.text,
            cited_keys=body.cited_keys,
            unknown_key_count=body.unknown_key_count,
            removed_link_count=body.removed_link_count,
            model=model.name,
            usage=summed(await drafts.usages()),
            flags=await asyncio.to_thread(flags_of, body.text, task),
            is_other_language=not is_in_language(body.text, task.language),
        )


def _request_of(task: SectionTask) -> ChatRequest:
    return ChatRequest(
        model="",
        system=prompt("single.v1").filled(wording_of(task.language)),
        prompt=marked_by_itself([{"question": shown(task.question)}, *lines_of(task.papers)]),
        max_output_tokens=MAX_OUTPUT_TOKENS,
        seed=seed_of(task),
    )
