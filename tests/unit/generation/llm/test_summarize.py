"""A paper's summary by a model: prose and nothing else, of about the time asked for, in the language asked for."""

from collections.abc import Callable
from typing import Any

import pytest
from scripted_models import CUT, PRICE, REFUSAL, MemoryCalls, caller_for, model_of, provider_of, reply

from services.common.errors import BudgetReached
from services.common.languages import LANGUAGES
from services.common.paid.caller import Priority, Scope
from services.common.paid.faults import FaultKind, ProviderFault
from services.common.papers import Paper
from services.common.providers.chat import Finish
from services.generation.llm.chat_model import Refused, Text, Unusable
from services.generation.llm.engine import LlmEngine
from services.generation.llm.summarize import summarize_paper, summary_in
from services.generation.llm.wording import length_in, length_of
from services.generation.tasks import SummaryStyle, SummaryTask

ENGLISH = "Adapters forget what the base model knew. FooNet freezes the base and trains a low-rank part."
JAPANESE = "適応学習では元のモデルの知識が失われるという問題がある。FooNetは低ランク行列のみを学習する。"
Made = Callable[..., SummaryTask]


@pytest.fixture
def task(paper: Callable[..., Paper]) -> Made:
    def made(title: str = "FooNet: a paper", abstract: str = "We propose FooNet.", **fields: Any) -> SummaryTask:
        values = {"language": "en", "summary_seconds": 30, **fields}
        return SummaryTask(paper=paper(title, abstract), **values)

    return made


async def summarized(model: Any, task: SummaryTask, **caller: Any) -> Any:
    return await summarize_paper(model, task, caller_for("summarize", **caller))


def told(text: str, *, is_truncated: bool = False) -> Text:
    return Text(text=text, is_truncated=is_truncated, usage=None)  # type: ignore[arg-type] # not read here


async def test_prompt_holds_the_paper_alone(task: Made):
    """No question, no survey, nobody's name: so that one recorded summary serves every survey and every tenant."""
    calls = MemoryCalls()
    model = model_of([ENGLISH], calls=calls)

    await summarized(model, task(), tenant="tenant-a", survey_id="survey-a")
    again = await summarized(model, task(), tenant="tenant-b", survey_id="survey-b")

    assert again.usage[0].cost_nano_usd == 0
    (call, caller), *others = calls.calls
    assert not others
    assert call.scope is Scope.PUBLIC
    assert caller.priority is Priority.BULK
    assert b"tenant-a" not in call.payload
    assert b"survey-a" not in call.payload


@pytest.mark.parametrize("style", SummaryStyle)
@pytest.mark.parametrize("language", ["en", "ja", "de", "xx"])
async def test_prompt_names_language_style_and_length(task: Made, style: SummaryStyle, language: str):
    model = model_of([ENGLISH])

    await summarized(model, task(language=language, style=style))

    system = provider_of(model).requests[0].system
    assert LANGUAGES.get(language, "xx") in system
    assert ("problem" in system) is (style is SummaryStyle.PROBLEM_METHOD)
    assert ("だ・である" in system) is (language == "ja")
    assert {"en": "119 words", "ja": "250 characters"}.get(language, "95 words") in system


@pytest.mark.parametrize("seconds", [5, 30, 120])
def test_length_is_what_is_read_in_that_time(seconds: int):
    assert length_of("en", seconds) == round(238 * seconds / 60)
    assert length_of("ja", seconds) == round(500 * seconds / 60)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("One.\n\nTwo.\nThree.", "One. Two. Three.", id="lines"),
        pytest.param("# Summary\n\n- One.\n- Two.\n1. Three.", "Summary One. Two. Three.", id="lists"),
        pytest.param("**FooNet** is *new* and `fast`, __really__.", "FooNet is new and fast, really.", id="emphasis"),
        pytest.param("Has a*b, x_1 and snake_case_name.", "Has a*b, x_1 and snake_case_name.", id="no-emphasis"),
        pytest.param("See [it](https://evil.example), https://evil.example/x now.", "See it, now.", id="links"),
        pytest.param("FooNet [P1] beats [P2, P3] and 【P4】.", "FooNet beats and.", id="keys"),
        pytest.param("A <b>bold</b> <img src=x> claim.", "A bold claim.", id="tags"),
        pytest.param("Zero\u200bwidth and \u202ebidi\u202c.", "Zerowidth and bidi.", id="invisible"),
        pytest.param(" \n ", "", id="blank"),
        pytest.param("[P1]", "", id="only-a-key"),
    ],
)  # fmt: skip
def test_what_is_left_is_one_line_of_text(task: Made, text: str, wanted: str):
    assert summary_in(told(text), task()) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One sentence. Another one that", "One sentence."),
        ("A single sentence that", "A single sentence that…"),
        ("A whole one.", "A whole one."),
        ("最初の文である。次の文の途中", "最初の文である。"),
        ("यह पहला वाक्य है। दूसरा", "यह पहला वाक्य है।"),
    ],
)
def test_a_cut_answer_ends_with_its_last_sentence(task: Made, text: str, wanted: str):
    assert summary_in(told(text, is_truncated=True), task()) == wanted


@pytest.mark.parametrize("language", ["en", "ja"])
def test_an_answer_far_too_long_ends_with_an_earlier_sentence(task: Made, language: str):
    sentence = {"en": "This is a sentence of seven words.", "ja": "これは十五文字ほどの文である。"}[language]
    text = (" " if language == "en" else "").join([sentence] * 60)

    summary = summary_in(told(text), task(language=language))

    target = length_of(language, 30)
    assert 1.5 * target < length_in(summary, language) <= 2 * target
    assert summary.endswith(sentence)


@pytest.mark.parametrize(("language", "word"), [("en", "word "), ("ja", "語")])
def test_a_text_without_sentences_is_cut_all_the_same(task: Made, language: str, word: str):
    summary = summary_in(told(word * 5_000), task(language=language))

    assert length_in(summary.rstrip("…"), language) == 2 * length_of(language, 30)


def test_twice_the_length_is_let_be(task: Made):
    text = " ".join(["word"] * 200) + "."

    assert summary_in(told(text), task()) == text


async def test_another_language_is_asked_for_once_more(task: Made):
    model = model_of([ENGLISH, JAPANESE])

    summary = await summarized(model, task(language="ja"))

    assert summary.summary == JAPANESE
    assert summary.usage[0].call_count == 2
    turn = provider_of(model).requests[1].turns[0]
    assert turn.answer == ENGLISH
    assert "Japanese" in turn.correction
    assert "日本語" in turn.correction


async def test_what_stays_in_another_language_is_kept(task: Made):
    model = model_of([ENGLISH])

    assert (await summarized(model, task(language="ja"))).summary == ENGLISH
    assert len(provider_of(model).requests) == 2


@pytest.mark.parametrize(
    ("second", "paid"),
    [
        (REFUSAL, 2 * PRICE),
        (CUT, 3 * PRICE),
        (ProviderFault(FaultKind.OVERLOADED, "scripted:m", "busy"), PRICE),
        (BudgetReached(1), PRICE),
    ],
)
async def test_a_summary_that_is_there_is_not_lost_with_the_second_try(task: Made, second: Any, paid: int):
    summary = await summarized(model_of([ENGLISH, second]), task(language="ja"))

    assert summary.summary == ENGLISH
    assert summary.usage[0].cost_nano_usd == paid


@pytest.mark.parametrize("empty", ["", " \n", "[P1]", CUT])
async def test_an_answer_without_text_is_no_summary(task: Made, empty: Any):
    with pytest.raises(Unusable, match="scripted:m"):
        await summarized(model_of([empty]), task())


async def test_a_refusal_is_for_others_to_make_good(task: Made):
    with pytest.raises(Refused):
        await summarized(model_of([REFUSAL]), task())


async def test_a_paper_without_an_abstract_is_not_sent(task: Made):
    """A model would write from memory what it takes the paper to be."""
    model = model_of([ENGLISH])

    summary = await LlmEngine(model).summarize_paper(task(abstract=" \n "), caller_for("summarize"))

    assert summary.model == "extractive:builtin"
    assert summary.summary == "FooNet: a paper"
    assert summary.fallback_reason == "the paper has no abstract"
    assert not provider_of(model).requests


async def test_a_huge_abstract_is_shown_in_part(task: Made):
    """200 kB of text must not cost 200 kB of tokens."""
    model = model_of([ENGLISH])

    await summarized(model, task(abstract="word " * 40_000))

    assert len(provider_of(model).requests[0].prompt) < 7_000


async def test_a_cut_summary_is_used(task: Made):
    model = model_of([reply("One sentence. And then", Finish.LENGTH)])

    assert (await summarized(model, task())).summary == "One sentence."
