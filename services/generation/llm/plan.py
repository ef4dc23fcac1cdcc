"""From a question to search terms, by a language model: asked once, or several times for the plan they agree on."""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, field_validator

from services.common.errors import NotReady, PaperRouteError, UpstreamFailed
from services.common.languages import LANGUAGES
from services.common.markdown import plain
from services.common.paid.caller import Caller, Scope
from services.common.paid.faults import ProviderFault
from services.common.paid.usage import Usage, summed
from services.common.providers.chat import ChatRequest
from services.generation.extractive.search_terms import MAX_TERM_CHARACTERS, language_of
from services.generation.llm.chat_model import MAX_SEED, ChatModel, Formed, Refused, Unusable, setting_of
from services.generation.llm.language import is_in_language
from services.generation.llm.paper_text import marked_by_itself, shown
from services.generation.llm.prompts import prompt
from services.generation.llm.text_vectors import TextVectors
from services.generation.tasks import PlanTask, SearchPlan

logger = logging.getLogger(__name__)

MAX_OUTPUT_TOKENS = 400
"""Ten terms take about 100."""
MAX_QUESTION_CHARACTERS = 4_000

_YEAR = r"(?:19|20)\d\d"
_YEARS = re.compile(
    rf"(?<![\w-])(?:(?:since|after|before|until|from|in)\s+)?{_YEAR}s?(?:\s*(?:[-–—/]|to)\s*(?:{_YEAR}|\d\d))?(?![\w-])",
    re.IGNORECASE,
)
_FIELDS = re.compile(r"\b(?:ti|au|abs|co|jr|cat|rn|id|all|submittedDate|lastUpdatedDate):")
_OPERATORS = re.compile(r"(?<![\w-])(?:AND|OR|NOT|ANDNOT)(?![\w-])")
_MARKS = re.compile(
    r"[\"“”„«»「」『』`()\[\]{}<>*?!|~^;,:]|(?<!\w)&|&(?!\w)|(?<!\w)['‘’]|['‘’](?!\w)|(?<![^\s+-])[+-](?=\w)"
)
_READABLE = re.compile(r"[A-Za-z]")
_FOREIGN = re.compile(r"[^\W\d_\u0041-\u024f\u0370-\u03ff\u1e00-\u1eff]")
"""A letter that is neither Latin nor Greek: the term is not English."""
_OTHER_SUBTAGS = {"fil": "tl", "in": "id", "iw": "he", "nb": "no", "nn": "no"}
"""Subtags that models use for languages we know under another one."""


class TextEmbedder(Protocol):
    """Makes vectors of texts."""

    async def embed_texts(self, texts: Sequence[str], caller: Caller) -> TextVectors:
        """Return a vector for each text.

        Raises:
            UpstreamFailed: they cannot be had.
        """
        ...


class PlanForm(BaseModel):
    """Search terms for a question, and the question's language."""

    search_terms: list[str]
    language: str

    @field_validator("search_terms")
    @classmethod
    def _clean(cls, terms: list[str]) -> list[str]:
        found = clean_terms(terms)
        if not found:
            raise ValueError("at least one English term, beside years, operators and field names")
        return list(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chosen:
    plan: PlanForm
    usage: tuple[Usage, ...]


async def plan_search(model: ChatModel, task: PlanTask, caller: Caller, embedder: TextEmbedder | None) -> SearchPlan:
    """Return the search terms of a question.

    Args:
        model: asked `task.plan_candidates` times, side by side.
        task: the question.
        caller: who pays.
        embedder: compares several candidates by their meaning; without it they are compared by their spelling alone.

    Raises:
        NotReady: the model cannot be used, or does not answer in the form asked for.
        Refused, ProviderFault, BudgetReached, Unpriced: as ChatModel.ask, when no candidate is left.
    """
    if task.plan_candidates == 1:
        formed = await _candidate(model, task, caller, 0)
        chosen = _Chosen(plan=formed.value, usage=formed.usage)
    else:
        chosen = await _agreed(model, task, caller, embedder)
    return SearchPlan(
        search_terms=tuple(chosen.plan.search_terms[: task.max_search_terms]),
        language=task.language or _language_of(chosen.plan.language, task.question),
        model=model.name,
        usage=chosen.usage,
    )


def clean_terms(terms: Sequence[str]) -> tuple[str, ...]:
    """Return English terms of at most 80 characters, each once whatever its case and hyphens, in the same order.

    Years, operators, quotes and field names are taken out; a term with letters of another script is left out.
    """
    found: dict[str, str] = {}
    for term in terms:
        cleaned = _clean_term(term)
        if _READABLE.search(cleaned) and not _FOREIGN.search(cleaned):
            found.setdefault(" ".join(re.findall(r"\w+", cleaned.casefold())), cleaned)
    return tuple(found.values())


def _clean_term(term: str) -> str:
    text = _FIELDS.sub(" ", plain(term[:1_000]))
    for pattern in (_OPERATORS, _MARKS, _YEARS):
        text = pattern.sub(" ", text)
    words = " ".join(text.split()).strip(" ./'-").lstrip("+")
    if len(words) <= MAX_TERM_CHARACTERS:
        return words
    return words[: MAX_TERM_CHARACTERS + 1].rpartition(" ")[0] or words[:MAX_TERM_CHARACTERS]


async def _candidate(model: ChatModel, task: PlanTask, caller: Caller, number: int) -> Formed[PlanForm]:
    """Return one answer.

    Raises:
        NotReady: it does not fit the form, or the model cannot be used.
    """
    template = prompt("plan.v1")
    seed = task.sample_seed + number
    request = ChatRequest(
        model="",
        system=template.filled({"count": task.max_search_terms}),
        prompt=marked_by_itself([{"question": shown(task.question, MAX_QUESTION_CHARACTERS)}]),
        max_output_tokens=MAX_OUTPUT_TOKENS,
        seed=seed % MAX_SEED,
    )
    try:
        return await model.ask_form(
            request,
            PlanForm,
            caller,
            scope=Scope.TENANT,
            prompt_id=template.prompt_id,
            sample=f"candidate {number} seed {task.sample_seed}",
        )
    except Unusable as error:
        advice = f"no search terms in the form asked for; name another model in {setting_of(caller.stage)}"
        raise NotReady(model.name, advice) from error


async def _agreed(model: ChatModel, task: PlanTask, caller: Caller, embedder: TextEmbedder | None) -> _Chosen:
    """Return the candidate that agrees best with the others; those that fail are left out while one remains."""
    from services.generation.llm.consensus import most_central

    callers = [caller.for_step(f"candidate {number + 1}") for number in range(task.plan_candidates)]
    answers = await asyncio.gather(
        *(_candidate(model, task, each, number) for number, each in enumerate(callers)), return_exceptions=True
    )
    formed = [answer for answer in answers if isinstance(answer, Formed)]
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    unexpected = [each for each in failures if not isinstance(each, Refused | ProviderFault | PaperRouteError)]
    if unexpected or not formed:
        raise (unexpected or failures)[0]
    if failures:
        logger.warning("left out %d of %d plans: %s", len(failures), len(answers), failures[0])
    texts = [", ".join(each.value.search_terms) for each in formed]
    vectors = await _vectors_of(texts, caller, embedder)
    usage = [usage for each in formed for usage in each.usage]
    best = most_central(texts, vectors.vectors if vectors else None)
    return _Chosen(plan=formed[best].value, usage=summed([*usage, *(vectors.usage if vectors else ())]))


async def _vectors_of(texts: Sequence[str], caller: Caller, embedder: TextEmbedder | None) -> TextVectors | None:
    """Return vectors; None where they cannot be had, or where there is nothing to choose between."""
    if embedder is None or len(set(texts)) == 1:
        return None
    try:
        return await embedder.embed_texts(texts, caller)
    except UpstreamFailed as error:
        logger.warning("compared %d plans by their spelling alone: %s", len(texts), error)
        return None


def _language_of(answered: str, question: str) -> str:
    """Return the model's word for the question's language where it is one we know and the script agrees with it."""
    subtag = answered.strip().lower().replace("_", "-").partition("-")[0]
    language = _OTHER_SUBTAGS.get(subtag, subtag)
    return language if language in LANGUAGES and is_in_language(question, language) else language_of(question)
