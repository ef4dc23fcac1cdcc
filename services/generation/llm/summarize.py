"""A paper's summary by a language model: prose of a fixed reading time, with nothing in it but text.

The prompt holds the paper alone, so that a recorded summary serves every survey and every tenant.
"""

import re
from dataclasses import replace

from services.common.errors import PaperRouteError
from services.common.markdown import plain
from services.common.paid.caller import Caller, Priority, Scope
from services.common.paid.faults import ProviderFault
from services.common.paid.usage import Usage, summed
from services.common.providers.chat import ChatRequest, Turn
from services.generation.extractive.sentences import sentences_of
from services.generation.llm.chat_model import ChatModel, Refused, Text, Unusable
from services.generation.llm.citing import cleaned
from services.generation.llm.language import is_in_language
from services.generation.llm.paper_text import MAX_TITLE_CHARACTERS, marked_by_itself, shown
from services.generation.llm.prompts import Prompt, prompt
from services.generation.llm.wording import length_in, length_of, once_more_in, unit_of, wording_of
from services.generation.tasks import PaperSummary, SummaryStyle, SummaryTask

TOO_LONG = 2
"""A summary of more than so many times the length asked for is cut."""
TOKENS_PER_UNIT = 4
"""Room for the output, by word or character: twice the length asked for, at two tokens each."""
ROOM_TOKENS = 300

_PROMPTS = {
    SummaryStyle.PLAIN: "summarize-plain.v1",
    SummaryStyle.PROBLEM_METHOD: "summarize-problem-method.v1",
}
_EMPHASIS = re.compile(r"(?<![\w*_])([*_]{1,3})(?=\S)(.+?)(?<=\S)\1(?![\w*_])")
_ENDED = re.compile(r"[.!?。！？।۔؟…][\"'”’)\]」』]*$")
_OTHER_ENDS = re.compile(r"(?<=[।۔؟])\s+")


async def summarize_paper(model: ChatModel, task: SummaryTask, caller: Caller) -> PaperSummary:
    """Return the summary of a paper with an abstract.

    Raises:
        Unusable: the answer has no text.
        Refused, ProviderFault, NotReady, BudgetReached, Unpriced: as ChatModel.ask.
    """
    caller = replace(caller, priority=Priority.BULK)
    template = prompt(_PROMPTS[task.style])
    request = _request_of(task, template)
    answer = await model.ask(request, caller, scope=Scope.PUBLIC, prompt_id=template.prompt_id)
    summary = summary_in(answer, task)
    paid: tuple[Usage, ...] = ()
    if not summary:
        raise Unusable(model.name, "an empty summary", (answer.usage,))
    if not is_in_language(summary, task.language):
        again, paid = await _once_more(model, task, answer, caller)
        summary = again or summary
    return PaperSummary(summary=summary, model=model.name, usage=summed([answer.usage, *paid]))


def summary_in(answer: Text, task: SummaryTask) -> str:
    """Return the summary that an answer holds: one line of plain text; empty where there is none.

    Markup, list marks, links and keys are removed, a sentence that was cut is left out, and what is far too long ends
    with an earlier sentence.
    """
    text = _as_plain(answer.text)
    if answer.is_truncated:
        text = _without_cut_sentence(text)
    most = TOO_LONG * length_of(task.language, task.summary_seconds)
    return _shortened(text, task.language, most)


def _request_of(task: SummaryTask, template: Prompt) -> ChatRequest:
    length = length_of(task.language, task.summary_seconds)
    values = {**wording_of(task.language), "length": f"{length} {unit_of(task.language)}"}
    paper = {"title": shown(task.paper.title, MAX_TITLE_CHARACTERS), "abstract": shown(task.paper.abstract)}
    return ChatRequest(
        model="",
        system=template.filled(values),
        prompt=marked_by_itself([paper]),
        max_output_tokens=ROOM_TOKENS + TOKENS_PER_UNIT * length,
    )


async def _once_more(
    model: ChatModel, task: SummaryTask, answer: Text, caller: Caller
) -> tuple[str, tuple[Usage, ...]]:
    """Return the summary asked for again in its language, empty where it cannot be had, and what that took."""
    template = prompt(_PROMPTS[task.style])
    turn = Turn(answer=answer.text, correction=once_more_in(task.language))
    request = replace(_request_of(task, template), turns=(turn,))
    try:
        again = await model.ask(request, caller.for_step("language"), scope=Scope.PUBLIC, prompt_id=template.prompt_id)
    except Refused as refusal:
        return "", (refusal.usage,)
    except (ProviderFault, PaperRouteError):
        return "", ()
    return summary_in(again, task), (again.usage,)


def _as_plain(text: str) -> str:
    prose = cleaned(text, ()).text.replace("\\<", "< ").replace("\\:", ":").replace("`", "")
    return plain(_EMPHASIS.sub(r"\2", prose))


def _without_cut_sentence(text: str) -> str:
    """Return a text that was cut without its last, unfinished sentence; with an ellipsis where that is all."""
    if not text or _ENDED.search(text):
        return text
    ends = _sentence_ends(text)
    return text[: ends[-2]] if len(ends) > 1 else f"{text}…"


def _shortened(text: str, language: str, most: int) -> str:
    """Return a text that is longer than `most` up to the last sentence's end within it, else up to a word's."""
    if length_in(text, language) <= most:
        return text
    within = [end for end in _sentence_ends(text) if length_in(text[:end], language) <= most]
    if within:
        return text[: within[-1]]
    kept = text[:most] if unit_of(language) == "characters" else " ".join(text.split()[:most])
    return f"{kept}…"


def _sentence_ends(text: str) -> list[int]:
    """Return the places behind the sentences of a text in one line."""
    ends, start = [], 0
    for sentence in (part for each in sentences_of(text) for part in _OTHER_ENDS.split(each)):
        start = text.index(sentence, start) + len(sentence)
        ends.append(start)
    return ends
