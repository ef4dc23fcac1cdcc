"""A section in structured form: sentences under the keys of its papers, for models whose prose names no paper."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from services.common.paid.caller import Caller, Scope
from services.common.paid.usage import Usage
from services.common.providers.chat import ChatRequest
from services.generation.llm.chat_model import ChatModel, Unusable
from services.generation.llm.citing import Cleaned, cleaned, keys_in, title_of
from services.generation.llm.draft import MAX_HEADING_CHARACTERS, Drafted, lines_of, sample_of, seed_of
from services.generation.llm.paper_text import marked_by_itself, shown
from services.generation.llm.prompts import prompt
from services.generation.llm.wording import wording_of
from services.generation.tasks import SectionTask

SENTENCES_A_PARAGRAPH = 4
ROOM_TOKENS = 400
PAPER_TOKENS = 350
"""Room for what is said of one paper, in any language, with the JSON around it."""

_FULL_STOPS = {"ja": "。", "zh": "。", "hi": "।", "bn": "।", "ur": "۔", "th": ""}
_NO_SPACES = frozenset({"ja", "zh"})
_ENDS = ".!?…。！？।۔؟"


class KeyedSentence(BaseModel):
    """What is said of one paper; `form_for` allows the keys of one section only."""

    key: str
    sentence: str


class StructuredForm(BaseModel):
    """What a model answers."""

    heading: str
    sentences: Sequence[KeyedSentence]


@dataclass(frozen=True, kw_only=True, slots=True)
class Structured:
    """A section that was written in structured form."""

    drafted: Drafted
    usage: tuple[Usage, ...]


def form_for(keys: Sequence[str]) -> type[StructuredForm]:
    """Return the form of a section about these papers: any other key breaks it."""
    allowed = list(keys)

    class Sentence(KeyedSentence):
        key: Annotated[str, Field(json_schema_extra={"enum": allowed})]

        @field_validator("key")
        @classmethod
        def _known(cls, key: str) -> str:
            bare = key.strip("[]【】 ")
            if bare not in allowed:
                raise ValueError(f"one of {', '.join(allowed)}")
            return bare

    class StructuredSection(StructuredForm):
        sentences: Sequence[Sentence]

        @field_validator("sentences")
        @classmethod
        def _some(cls, sentences: Sequence[Sentence]) -> Sequence[Sentence]:
            if not sentences:
                raise ValueError("at least one for each paper")
            return sentences

    return StructuredSection


async def write_structured(model: ChatModel, task: SectionTask, caller: Caller) -> Structured:
    """Return a section asked for in structured form.

    Raises:
        Unusable: the answer does not fit the form, not even after a correction.
        Refused, ProviderFault, NotReady, BudgetReached, Unpriced: as ChatModel.ask.
    """
    template = prompt("structured.v1")
    keys = [each.key for each in task.papers]
    request = ChatRequest(
        model="",
        system=template.filled(wording_of(task.language)),
        prompt=marked_by_itself([{"question": shown(task.question)}, *lines_of(task.papers)]),
        max_output_tokens=ROOM_TOKENS + PAPER_TOKENS * len(keys),
        seed=seed_of(task),
    )
    formed = await model.ask_form(
        request,
        form_for(keys),
        caller.for_step("structured"),
        scope=Scope.TENANT,
        prompt_id=template.prompt_id,
        sample=sample_of(task),
    )
    drafted = rendered(formed.value, keys, task.language)
    if not drafted.body.text:
        raise Unusable(model.name, "no sentence about a paper", formed.usage)
    return Structured(drafted=drafted, usage=formed.usage)


def rendered(form: StructuredForm, keys: Sequence[str], language: str) -> Drafted:
    """Return the sentences as prose, each with its key, a few a paragraph."""
    parts = [_cited(each, keys, language) for each in form.sentences]
    said = [part for part in parts if part.text]
    gap = "" if language in _NO_SPACES else " "
    paragraphs = [
        gap.join(part.text for part in said[start : start + SENTENCES_A_PARAGRAPH])
        for start in range(0, len(said), SENTENCES_A_PARAGRAPH)
    ]
    text = "\n\n".join(paragraphs)
    heading = title_of(form.heading, keys)
    return Drafted(
        heading=heading.text if len(heading.text) <= MAX_HEADING_CHARACTERS else "",
        body=Cleaned(
            text=text,
            cited_keys=keys_in(text),
            unknown_key_count=sum(part.unknown_key_count for part in [*parts, heading]),
            removed_link_count=sum(part.removed_link_count for part in [*parts, heading]),
        ),
    )


def _cited(each: KeyedSentence, keys: Sequence[str], language: str) -> Cleaned:
    """Return a sentence with its key before its full stop, where the model has not put it itself."""
    part = cleaned(" ".join(each.sentence.split()), keys)
    if not part.text or each.key in part.cited_keys:
        return part
    words = part.text.rstrip(_ENDS)
    end = part.text[len(words) :] or _FULL_STOPS.get(language, ".")
    gap = "" if language in _NO_SPACES else " "
    return replace(part, text=f"{words}{gap}[{each.key}]{end}")
