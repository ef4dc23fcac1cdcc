"""Several engines in order: who stands in after what, what is told of it, and what is paid."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
from scripted_models import PRICE, caller_for

from services.common.deadlines import Deadline
from services.common.errors import BudgetReached, NoSearchTerms, NotReady, PaperRouteError, Unpriced, UpstreamFailed
from services.common.paid.caller import Caller
from services.common.paid.faults import REACTIONS, FaultKind, ProviderFault
from services.common.paid.usage import Usage
from services.common.papers import Paper
from services.generation.extractive.engine import ExtractiveEngine
from services.generation.llm.chat_model import Refused, Tally, Unusable
from services.generation.llm.fallback import FallbackEngine
from services.generation.tasks import (
    FramePart,
    FramePartKind,
    PaperSummary,
    PlanTask,
    Restarted,
    SearchPlan,
    SummaryTask,
    WrittenFrame,
    WrittenSection,
)

QUESTION = PlanTask(question="How is RAG evaluated?", language="", max_search_terms=3, sample_seed=0)
UNREADABLE = PlanTask(question="검색 증강 생성은 어떻게 평가합니까?", language="", max_search_terms=3, sample_seed=0)
REFUSED = Refused("a:m", "because https://evil.example", Usage(model="a:m", cost_nano_usd=PRICE))


class Played:
    """An engine that pays for one call, gives out its events, then fails or not."""

    def __init__(self, name: str, failure: Exception | None = None, events: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.failure = failure
        self.events = events
        self.callers: list[Caller] = []
        self.tally: Tally | None = None
        self.is_closed = False

    def tallied(self, tally: Tally) -> "Played":
        self.tally = tally
        return self

    async def _begin(self, caller: Caller) -> None:
        self.callers.append(caller)
        assert self.tally is not None
        self.tally.usages.append(Usage(model=self.name, cost_nano_usd=PRICE))

    def _usage(self) -> tuple[Usage, ...]:
        return (Usage(model=self.name, cost_nano_usd=PRICE),)

    async def plan_search(self, task: Any, caller: Caller) -> SearchPlan:
        await self._begin(caller)
        if self.failure:
            raise self.failure
        return SearchPlan(search_terms=("x",), language="en", model=self.name, usage=self._usage())

    async def summarize_paper(self, task: Any, caller: Caller) -> PaperSummary:
        await self._begin(caller)
        if self.failure:
            raise self.failure
        return PaperSummary(summary="x", model=self.name, usage=self._usage())

    async def write_section(self, task: Any, caller: Caller) -> AsyncIterator[Any]:
        async with contextlib.aclosing(self._play(caller)) as events:
            async for event in events:
                yield event
        yield WrittenSection(
            title="t", text="x", cited_keys=(), unknown_key_count=0, removed_link_count=0, model=self.name,
            usage=self._usage(),
        )  # fmt: skip

    async def write_frame(self, task: Any, caller: Caller) -> AsyncIterator[Any]:
        async with contextlib.aclosing(self._play(caller)) as events:
            async for event in events:
                yield event
        yield WrittenFrame(
            title="t", introduction="i", chapters=(), closing="c", unknown_key_count=0, removed_link_count=0,
            model=self.name, usage=self._usage(), fallback_reason="a part of its own",
        )  # fmt: skip

    async def _play(self, caller: Caller) -> AsyncGenerator[Any, None]:
        try:
            await self._begin(caller)
            for event in self.events:
                yield event
            if self.failure:
                raise self.failure
        finally:
            self.is_closed = True


class Stalled(Played):
    """An engine that never comes back."""

    async def _begin(self, caller: Caller) -> None:
        await super()._begin(caller)
        await asyncio.Event().wait()


def fault(kind: FaultKind) -> ProviderFault:
    return ProviderFault(kind, "a:m", "what the provider said: sk-secret https://evil.example")


def chain(*engines: Played, last: Any = None) -> FallbackEngine:
    return FallbackEngine(engines, last or ExtractiveEngine())


NEXT = [
    pytest.param(REFUSED, "a:m declined to answer", id="refused"),
    pytest.param(Unusable("a:m", "bad", ()), "a:m did not answer in the form asked for", id="unusable"),
    *(
        pytest.param(fault(kind), f"a:m did not answer ({kind.value})", id=kind.value)
        for kind in FaultKind
        if REACTIONS[kind].stands_in
    ),
]


@pytest.mark.parametrize(("failure", "reason"), NEXT)
async def test_the_next_model_stands_in(failure: Exception, reason: str):
    """Marked with why, in our own words: a provider's may hold anything."""
    plan = await chain(Played("a:m", failure), Played("b:m")).plan_search(QUESTION, caller_for())

    assert (plan.model, plan.fallback_reason) == ("b:m", reason)
    assert [(each.model, each.cost_nano_usd) for each in plan.usage] == [("a:m", PRICE), ("b:m", PRICE)]


async def test_at_last_the_extractive_engine_does_it():
    engines = Played("a:m", REFUSED), Played("b:m", fault(FaultKind.OVERLOADED))

    plan = await chain(*engines).plan_search(QUESTION, caller_for())

    assert plan.model == "extractive:builtin"
    assert plan.fallback_reason == "a:m declined to answer; b:m did not answer (overloaded)"
    assert [each.cost_nano_usd for each in plan.usage] == [PRICE, PRICE, 0]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (BudgetReached(1), "the budget does not allow a call of a:m"),
        (UpstreamFailed("ledger", "gone"), "calls cannot be recorded now"),
    ],
)
async def test_after_the_budget_nothing_is_paid_any_more(failure: Exception, reason: str):
    second = Played("b:m")

    plan = await chain(Played("a:m", failure), second).plan_search(QUESTION, caller_for())

    assert (plan.model, plan.fallback_reason) == ("extractive:builtin", reason)
    assert not second.callers


@pytest.mark.parametrize("failure", [NotReady("a:m", "set OPENAI_API_KEY"), Unpriced("a:m")])
@pytest.mark.parametrize("task", ["plan", "summary", "section", "frame"])
async def test_what_the_operator_must_change_is_told_and_nobody_stands_in(
    failure: PaperRouteError, task: str, lora: Any, paper: Callable[..., Paper]
):
    second = Played("b:m")

    with pytest.raises(type(failure), match="a:m"):
        await result_of(chain(Played("a:m", failure), second), task, lora, paper)

    assert not second.callers


async def result_of(engine: FallbackEngine, task: str, lora: Any, paper: Callable[..., Paper], **caller: Any) -> Any:
    """Return the last event of a task."""
    who = caller_for(task, **caller)
    if task == "plan":
        return await engine.plan_search(QUESTION, who)
    if task == "summary":
        return await engine.summarize_paper(SummaryTask(paper=paper(), language="en", summary_seconds=30), who)
    write = (
        engine.write_section(lora.section(1, 1), who) if task == "section" else engine.write_frame(lora.frame(), who)
    )
    return [event async for event in write][-1]


@pytest.mark.parametrize(("failure", "reason"), NEXT)
@pytest.mark.parametrize("task", ["plan", "summary", "section", "frame"])
async def test_each_fault_in_each_task_ends_with_a_result_that_says_so(
    failure: Exception, reason: str, task: str, lora: Any, paper: Callable[..., Paper]
):
    result = await result_of(chain(Played("a:m", failure)), task, lora, paper)

    assert (result.model, result.fallback_reason) == ("extractive:builtin", reason)
    assert [each.cost_nano_usd for each in result.usage] == [PRICE, 0]


async def test_an_engine_that_stalls_leaves_time_for_the_others(lora: Any, paper: Callable[..., Paper]):
    """Each may take a part of what is left; the extractive engine still answers in time."""
    engines = Stalled("a:m"), Stalled("b:m")

    result = await asyncio.wait_for(result_of(chain(*engines), "section", lora, paper, seconds=1.5), timeout=20)

    assert result.fallback_reason == "a:m took too long; b:m took too long"
    first, second = (engine.callers[0].deadline.at_s for engine in engines)
    assert first < second
    assert all(engine.is_closed for engine in engines)


async def test_calls_know_the_moment_until_which_their_engine_may_try():
    """So that a call ends with a fault of its own before it is cut off."""
    alone, first, caller = Played("a:m"), Played("b:m"), caller_for(seconds=100)

    await chain(alone).plan_search(QUESTION, caller)
    await chain(first, Played("c:m")).plan_search(QUESTION, caller)

    end = caller.deadline.at_s
    assert alone.callers[0].deadline.at_s == pytest.approx(end - 3.2, abs=0.1)
    assert first.callers[0].deadline.at_s == pytest.approx(end - 100 + 0.6 * 96.8, abs=0.1)


async def test_without_time_the_extractive_engine_does_it_at_once():
    caller = Caller(tenant="t", survey_id="s", stage="plan", item="", deadline=Deadline.after(-1))

    plan = await chain(Stalled("a:m"), Stalled("b:m")).plan_search(QUESTION, caller)

    assert plan.model == "extractive:builtin"


async def events_of(engine: FallbackEngine, lora: Any) -> list[Any]:
    return [event async for event in engine.write_section(lora.section(1, 1), caller_for("write"))]


async def test_text_that_was_sent_is_declared_void(lora: Any):
    engine = chain(Played("a:m", fault(FaultKind.TRUNCATED), ("One. ", "Two. ")), Played("b:m", events=("All. ",)))

    events = await events_of(engine, lora)

    assert events[:4] == ["One. ", "Two. ", Restarted(reason="a:m did not answer (truncated)"), "All. "]
    assert isinstance(events[4], WrittenSection)
    assert len(events) == 5


async def test_nothing_is_declared_void_where_nothing_was_sent(lora: Any):
    engine = chain(Played("a:m", REFUSED), Played("b:m", REFUSED), Played("c:m", events=("All. ",)))

    assert [type(event) for event in await events_of(engine, lora)] == [str, WrittenSection]


async def test_what_an_engine_declared_void_itself_is_not_declared_again(lora: Any):
    told = "One. ", Restarted(reason="its own")
    engine = chain(Played("a:m", REFUSED, told), Played("b:m", events=("All. ",)))

    assert (await events_of(engine, lora))[:3] == [*told, "All. "]


async def test_parts_of_a_frame_come_once_though_an_engine_failed_among_them(lora: Any):
    part = FramePart(kind=FramePartKind.TITLE, text="half")
    engine = chain(Played("a:m", fault(FaultKind.TRUNCATED), (part,)), Played("b:m", events=(part,)))

    events = [event async for event in engine.write_frame(lora.frame(), caller_for("frame"))]

    assert [type(event) for event in events] == [FramePart, WrittenFrame]


async def test_reasons_add_up(lora: Any, paper: Callable[..., Paper]):
    """What the engine that did it says of its own work is not lost."""
    frame = await result_of(chain(Played("a:m", REFUSED), Played("b:m")), "frame", lora, paper)

    assert frame.fallback_reason == "a:m declined to answer; a part of its own"


async def test_a_question_nobody_understands_is_told_with_what_became_of_the_models():
    with pytest.raises(NoSearchTerms, match=r"a:m declined to answer.*extractive:builtin"):
        await chain(Played("a:m", REFUSED)).plan_search(UNREADABLE, caller_for())


async def test_an_engine_whose_reader_goes_is_closed(lora: Any):
    """A survey that is cancelled must not leave a stream open."""
    first = Played("a:m", events=("One. ", "Two. "))
    section = chain(first).write_section(lora.section(1, 1), caller_for("write"))

    async for _ in section:
        break
    await section.aclose()  # type: ignore[attr-defined] # it is a generator

    assert first.is_closed


async def test_a_bug_is_no_reason_to_stand_in():
    with pytest.raises(ZeroDivisionError):
        await chain(Played("a:m", ZeroDivisionError()), Played("b:m")).plan_search(QUESTION, caller_for())


async def test_logs_say_what_happened(caplog: pytest.LogCaptureFixture):
    await chain(Played("a:m", fault(FaultKind.OVERLOADED))).plan_search(QUESTION, caller_for())

    assert ["a:m gave way" in record.getMessage() for record in caplog.records] == [True]
