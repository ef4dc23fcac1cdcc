"""The frame by a model: one answer in a form, every text cleaned, what is missing made good."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from scripted_models import CUT, PRICE, REFUSAL, MemoryCalls, caller_for, model_of, provider_of, reply

from services.common.paid.caller import Scope
from services.common.paid.faults import FaultKind, ProviderFault
from services.common.papers import Paper
from services.common.providers.chat import ChatRequest, Finish
from services.generation.llm.chat_model import Refused, Unusable
from services.generation.llm.frame import write_frame
from services.generation.tasks import FramePart, FramePartKind, FrameTask, WrittenFrame


@pytest.fixture
def task(route_of: Callable[..., Any], paper: Callable[..., Paper]) -> Callable[..., FrameTask]:
    def made(*, chapters: int = 2, count: int = 6, **fields: Any) -> FrameTask:
        papers = [
            paper(f"Name{number}: a paper", f"We propose Name{number}. It is good.") for number in range(1, count + 1)
        ]
        frame: FrameTask = route_of(papers, chapters=chapters, most=2).frame(**fields)
        return frame

    return made


def head(number: int, **fields: Any) -> dict[str, Any]:
    return {"number": number, "title": f"Chapter of {number}", "text": f"It joins [P{number}].", **fields}


def answer(count: int = 2, **fields: Any) -> str:
    heads = [head(number) for number in range(1, count + 1)]
    values = {"title": "A title", "introduction": "It begins with [P1].", "chapters": heads, "closing": "It ends."}
    return json.dumps({**values, **fields}, ensure_ascii=False)


async def written(model: Any, task: FrameTask) -> tuple[list[FramePart], WrittenFrame]:
    events = [event async for event in write_frame(model, task, caller_for("frame"))]
    assert isinstance(events[-1], WrittenFrame)
    return [event for event in events[:-1] if isinstance(event, FramePart)], events[-1]


async def test_each_part_comes_once_and_makes_up_the_frame(task: Callable[..., FrameTask]):
    parts, frame = await written(model_of([answer()]), task())

    assert [(part.kind.value, part.chapter_number) for part in parts] == [
        ("title", 0),
        ("introduction", 0),
        ("chapter_title", 1),
        ("chapter_text", 1),
        ("chapter_title", 2),
        ("chapter_text", 2),
        ("closing", 0),
    ]
    texts = [frame.title, frame.introduction]
    for chapter in frame.chapters:
        texts += [chapter.title, chapter.text]
    assert [part.text for part in parts] == [*texts, frame.closing]
    assert frame.introduction == "It begins with [P1]."
    assert (frame.model, frame.fallback_reason, frame.is_other_language) == ("scripted:m", "", False)


async def test_prompt_shows_of_each_paper_its_title_and_one_sentence(task: Callable[..., FrameTask]):
    """The sections tell the rest; at 160 papers every further sentence is paid 160 times."""
    calls = MemoryCalls()
    model = model_of([answer()], calls=calls)

    await written(model, task())

    prompt = provider_of(model).requests[0].prompt
    assert prompt.count("We propose Name3.") == 1
    assert "It is good." not in prompt
    assert [line["key"] for line in map(json.loads, prompt.splitlines()[1:-1]) if "key" in line] == [
        f"P{number}" for number in range(1, 7)
    ]
    assert calls.calls[0][0].scope is Scope.TENANT


async def test_only_papers_that_were_shown_can_be_named(task: Callable[..., FrameTask]):
    """Keys of papers that were dropped from the route are as unknown as invented ones."""
    shown = task()
    shorter = task(papers=shown.papers[:3])
    said = answer(introduction="See [P1], [P5] and [P99], or [P2, P6].", title="On [P1] and [P98]")

    _, frame = await written(model_of([said]), shorter)

    assert frame.introduction == "See [P1], and, or [P2]."
    assert frame.title == "On and"
    assert frame.unknown_key_count == 4


async def test_links_and_markup_are_removed_and_counted(task: Callable[..., FrameTask]):
    said = answer(
        title="# **A title** <b>",
        introduction="- See [here](https://evil.example).\n- <img src=x onerror=y>Then https://evil.example/a.",
        closing="## Closing\n\nIt ends.",
    )

    _, frame = await written(model_of([said]), task())

    assert frame.title == "A title"
    assert frame.introduction == "See here.\n\nThen"
    assert frame.closing.endswith("It ends.")
    assert "#" not in frame.closing
    assert frame.removed_link_count == 4


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        pytest.param([head(2), head(1)], ["Chapter of 1", "Chapter of 2"], id="another-order"),
        pytest.param([head(0), head(1)], ["Chapter of 0", "Chapter of 1"], id="counted-from-0"),
        pytest.param([head(7), head(7)], ["Chapter of 7", "Chapter of 7"], id="numbers-without-sense"),
    ],
)
async def test_chapters_find_their_place(said: list[Any], numbers: list[str], task: Callable[..., FrameTask]):
    model = model_of([answer(chapters=said)])

    _, frame = await written(model, task())

    assert [chapter.title for chapter in frame.chapters] == numbers
    assert len(provider_of(model).requests) == 1


@pytest.mark.parametrize("bad", ["", "no JSON", "[]", answer(1), answer(3), "{}"])
async def test_a_form_that_is_broken_is_corrected_once(bad: str, task: Callable[..., FrameTask]):
    model = model_of([bad, answer()])

    _, frame = await written(model, task())

    assert frame.fallback_reason == ""
    assert frame.usage[0].call_count == 2


@pytest.mark.parametrize(
    ("bad", "missing"),
    [
        pytest.param(answer(1), "chapter title 2, chapter text 2", id="chapter"),
        pytest.param(answer()[:-6], "closing", id="cut-in-the-closing"),
        pytest.param('{"title": "A title", "closing": "It ends."}', "introduction, chapter title 1", id="fields"),
        pytest.param(reply(answer()[:60], Finish.LENGTH), "chapter title 1", id="no-room"),
        pytest.param(answer(introduction="[P99]"), "introduction", id="empty-after-cleaning"),
    ],
)  # fmt: skip
async def test_parts_that_cannot_be_had_are_the_extractive_ones(bad: Any, missing: str, task: Callable[..., FrameTask]):
    """What was paid for is kept, and the frame says what is not the model's."""
    _, frame = await written(model_of([bad]), task())

    texts = [frame.title, frame.introduction, frame.closing]
    for chapter in frame.chapters:
        texts += [chapter.title, chapter.text]
    assert all(texts)
    assert len(frame.chapters) == 2
    assert frame.title == "A title"
    assert missing in frame.fallback_reason
    assert "extractive:builtin" in frame.fallback_reason


@pytest.mark.parametrize("bad", ["", "no JSON", "{}", '{"title": ""}', '{"chapters": 3}'])
async def test_an_answer_with_nothing_in_it_is_for_another_engine(bad: str, task: Callable[..., FrameTask]):
    with pytest.raises(Unusable):
        await written(model_of([bad]), task())


JAPANESE = {
    "title": "低ランク適応の動向",
    "introduction": "本稿は低ランク適応に関する論文を概観する。[P1]が出発点である。",
    "closing": "今後は評価の標準化が課題である。",
}


def japanese() -> str:
    heads = [head(n, title=f"第{n}の話題", text=f"ここでは手法を比較する。[P{n}]が代表例である。") for n in (1, 2)]
    return answer(**JAPANESE, chapters=heads)


async def test_another_language_is_asked_for_once_more(task: Callable[..., FrameTask]):
    model = model_of([answer(), japanese()])

    _, frame = await written(model, task(language="ja"))

    assert frame.title == "低ランク適応の動向"
    assert not frame.is_other_language
    assert frame.usage[0].call_count == 2
    turn = provider_of(model).requests[1].turns[0]
    assert json.loads(turn.answer)["title"] == "A title"
    assert "Japanese" in turn.correction


@pytest.mark.parametrize(
    "second", [answer(), REFUSAL, CUT, ProviderFault(FaultKind.OVERLOADED, "scripted:m", "busy"), "no JSON"]
)
async def test_what_stays_in_another_language_is_kept_and_marked(second: Any, task: Callable[..., FrameTask]):
    _, frame = await written(model_of([answer(), second]), task(language="ja"))

    assert frame.title == "A title"
    assert frame.is_other_language
    assert frame.usage[0].cost_nano_usd >= PRICE


async def test_sentences_that_no_paper_bears_out_are_flagged(task: Callable[..., FrameTask]):
    said = answer(introduction="Name1 is proposed [P1]. It gains 37.5 points [P2]. ZetaNet did it before.")

    _, frame = await written(model_of([said]), task())

    assert [(flag.kind.value, flag.terms, flag.keys) for flag in frame.flags] == [
        ("unsupported", ("37.5",), ("P2",)),
        ("from_memory", ("ZetaNet",), ()),
    ]


async def test_a_refusal_is_for_others_to_make_good(task: Callable[..., FrameTask]):
    with pytest.raises(Refused):
        await written(model_of([REFUSAL]), task())


async def test_a_long_title_ends_with_a_word(task: Callable[..., FrameTask]):
    _, frame = await written(model_of([answer(title="word " * 100)]), task())

    assert len(frame.title) <= 200
    assert frame.title.endswith("word")


async def test_a_route_too_long_for_a_prompt_is_shown_in_even_steps(task: Callable[..., FrameTask]):
    def told(request: ChatRequest) -> str:
        return answer(4)

    model = model_of(told)

    await written(model, task(chapters=4, count=1_200))

    keys = [
        line["key"]
        for line in map(json.loads, provider_of(model).requests[0].prompt.splitlines()[1:-1])
        if "key" in line
    ]
    assert len(keys) == 400
    assert keys[:3] == ["P1", "P4", "P7"]


def test_places_cover_all_kinds():
    """A new part of the frame must be asked for as well."""
    assert {kind.value for kind in FramePartKind} == {
        "title",
        "introduction",
        "chapter_title",
        "chapter_text",
        "closing",
    }
