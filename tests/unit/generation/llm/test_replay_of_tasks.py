"""Tasks asked again, over the real ledger: who pays, who is served what, and what another tenant never gets."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from real_engines import engines_of_environment, point_at
from scripted_models import caller_for
from standins.provider_server import ProviderStandIn
from standins.provider_writers import CitingWriter

from services.common.papers import Paper
from services.generation.engines import Engines
from services.generation.tasks import PlanTask, SummaryTask

MODEL = "openai:gpt-6-luna"
QUESTION = PlanTask(question="How is LoRA used?", language="", max_search_terms=3, sample_seed=0, plan_candidates=10)


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProviderStandIn]:
    async with ProviderStandIn(writer=CitingWriter()) as standin:
        point_at(standin, monkeypatch)
        yield standin


@pytest.fixture
async def engines(provider: ProviderStandIn) -> AsyncIterator[Engines]:
    async with engines_of_environment() as made:
        yield made


@pytest.fixture
def done(engines: Engines, lora: Any, paper: Callable[..., Paper]) -> Callable[..., Any]:
    async def result_of(task: str, **caller: Any) -> Any:
        engine, who = engines.of(MODEL), caller_for(task, **caller)
        if task == "plan":
            return await engine.plan_search(QUESTION, who)
        if task == "summarize":
            return await engine.summarize_paper(SummaryTask(paper=paper(), language="en", summary_seconds=30), who)
        write = (
            engine.write_section(lora.section(1, 1), who) if task == "write" else engine.write_frame(lora.frame(), who)
        )
        return [event async for event in write][-1]

    return result_of


def cost(result: Any) -> int:
    return sum(usage.cost_nano_usd for usage in result.usage)


def avoided(result: Any) -> int:
    return sum(usage.avoided_cost_nano_usd for usage in result.usage)


@pytest.mark.parametrize(("task", "calls"), [("plan", 10), ("summarize", 1), ("write", 1), ("frame", 1)])
async def test_a_rerun_pays_nothing_and_says_what_it_cost(
    task: str, calls: int, done: Callable[..., Any], provider: ProviderStandIn
):
    """The survey that paid sees its cost again, so that a rerun adds up to what was really spent."""
    first = await done(task)
    again = await done(task)
    elsewhere = await done(task, survey_id="another")

    assert first.model == MODEL
    assert len(provider.requests) == calls
    assert cost(first) == cost(again) > 0
    assert (cost(elsewhere), avoided(elsewhere)) == (0, cost(first))


@pytest.mark.parametrize(
    ("task", "is_shared"), [("plan", False), ("summarize", True), ("write", False), ("frame", False)]
)
async def test_only_what_holds_no_question_serves_another_tenant(
    task: str, is_shared: bool, done: Callable[..., Any], provider: ProviderStandIn
):
    await done(task, tenant="a")
    asked = len(provider.requests)

    await done(task, tenant="b")

    assert (len(provider.requests) == asked) is is_shared


@pytest.mark.parametrize("task", ["plan", "summarize", "write", "frame"])
async def test_without_money_nothing_is_sent(task: str, done: Callable[..., Any], provider: ProviderStandIn):
    result = await done(task, limit=10)

    assert result.model == "extractive:builtin"
    assert result.fallback_reason == f"the budget does not allow a call of {MODEL}"
    assert not provider.requests
