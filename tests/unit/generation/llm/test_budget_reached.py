"""A result says whether the budget kept any call of its task from being made, whichever it was."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from scripted_models import PRICE, Script, caller_for, model_of

from services.common.papers import Paper
from services.common.providers.chat import ChatRequest
from services.generation.extractive.engine import ExtractiveEngine
from services.generation.llm.engine import LlmEngine
from services.generation.llm.fallback import FallbackEngine
from services.generation.tasks import PlanTask, SummaryTask, WrittenFrame, WrittenSection

ENGLISH = "It freezes the weights of a model and trains two small matrices beside them, which costs little memory."
PLAN = json.dumps({"search_terms": ["RAG evaluation"], "language": "en"})


def engine_of(*scripts: Script) -> FallbackEngine:
    models = [model_of(script, name=f"model{number}") for number, script in enumerate(scripts, start=1)]
    return FallbackEngine([LlmEngine(model) for model in models], ExtractiveEngine())


async def last_of(events: AsyncIterator[Any]) -> Any:
    return [event async for event in events][-1]


@pytest.mark.parametrize(
    ("calls", "candidates", "is_reached"),
    [
        pytest.param(0, 1, True, id="the only call"),
        pytest.param(2, 3, True, id="one candidate of three"),
        pytest.param(3, 3, False, id="nothing"),
    ],
)
async def test_a_plan(calls: int, candidates: int, is_reached: bool):
    task = PlanTask(
        question="How is RAG evaluated?", language="", max_search_terms=3, sample_seed=0, plan_candidates=candidates
    )
    plan = await engine_of([PLAN]).plan_search(task, caller_for("plan", limit=calls * PRICE))

    assert plan.budget_reached is is_reached
    assert plan.model == ("model1:m" if calls else "extractive:builtin")


@pytest.mark.parametrize(
    ("calls", "language", "model", "is_reached"),
    [
        pytest.param(0, "en", "extractive:builtin", True, id="the only call"),
        pytest.param(1, "en", "model1:m", False, id="nothing"),
        pytest.param(1, "ja", "model1:m", True, id="asking again in the language"),
        pytest.param(2, "ja", "model1:m", False, id="not asking again"),
    ],
)
async def test_a_summary(paper: Callable[..., Paper], calls: int, language: str, model: str, is_reached: bool):
    task = SummaryTask(paper=paper("FooNet: a paper", "We propose FooNet."), language=language, summary_seconds=30)
    summary = await engine_of([ENGLISH]).summarize_paper(task, caller_for("summarize", limit=calls * PRICE))

    assert (summary.model, summary.budget_reached) == (model, is_reached)


async def test_a_model_that_stands_in(paper: Callable[..., Paper]):
    """The first was paid for and of no use; there is no money for the second."""
    task = SummaryTask(paper=paper("FooNet: a paper", "We propose FooNet."), language="en", summary_seconds=30)
    engine = engine_of([" "], [ENGLISH])
    summary = await engine.summarize_paper(task, caller_for("summarize", limit=PRICE))

    assert summary.model == "extractive:builtin"
    assert summary.budget_reached
    assert [usage.cost_nano_usd for usage in summary.usage if usage.model == "model1:m"] == [PRICE]


@pytest.mark.parametrize(
    ("calls", "repairs", "is_reached"),
    [
        pytest.param(0, 0, True, id="the first call"),
        pytest.param(1, 0, True, id="a repair"),
        pytest.param(2, 1, False, id="nothing"),
    ],
)
async def test_a_section(
    paper: Callable[..., Paper], route_of: Callable[..., Any], calls: int, repairs: int, is_reached: bool
):
    papers = [paper(f"Adapting, part {n}", "We freeze weights.", paper_id=f"2501.0000{n}") for n in (1, 2)]
    (task,) = route_of(papers).sections()

    def script(request: ChatRequest) -> str:
        is_first = '"P1"' in request.prompt
        return f"# Adapting\n\n{ENGLISH} [{'P1' if is_first else 'P2'}]"

    events = engine_of(script).write_section(task, caller_for("write", item="1.1", limit=calls * PRICE))
    section = await last_of(events)

    assert isinstance(section, WrittenSection)
    assert section.budget_reached is is_reached
    assert section.model == ("model1:m" if calls else "extractive:builtin")
    assert section.repair_count == repairs


@pytest.mark.parametrize(("calls", "is_reached"), [pytest.param(0, True, id="the call"), (1, False)])
async def test_a_frame(paper: Callable[..., Paper], route_of: Callable[..., Any], calls: int, is_reached: bool):
    task = route_of([paper("Name1: a paper", "We propose Name1.")], chapters=1, most=2).frame()
    head = {"number": 1, "title": "A chapter", "text": "It holds [P1]."}
    answer = {"title": "A title", "introduction": "It begins [P1].", "chapters": [head], "closing": "It ends."}
    frame = await last_of(engine_of([json.dumps(answer)]).write_frame(task, caller_for("frame", limit=calls * PRICE)))

    assert isinstance(frame, WrittenFrame)
    assert (frame.model, frame.budget_reached) == ("extractive:builtin" if is_reached else "model1:m", is_reached)
