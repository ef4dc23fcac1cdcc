"""Several engines in order: when one cannot do a task the next one stands in, at last the one that always can."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Protocol, TypeVar

from services.common.deadlines import Deadline
from services.common.errors import BudgetReached, NoSearchTerms, PaperRouteError, UpstreamFailed
from services.common.paid.caller import Caller
from services.common.paid.faults import ProviderFault
from services.common.paid.settings import BUILTIN
from services.common.paid.usage import Usage, summed
from services.generation.llm.chat_model import Refused, Tally, Unusable
from services.generation.tasks import (
    Engine,
    FramePart,
    FrameTask,
    PaperSummary,
    PlanTask,
    Restarted,
    SearchPlan,
    SectionTask,
    SummaryTask,
    WrittenFrame,
    WrittenSection,
)

logger = logging.getLogger(__name__)
Event = TypeVar("Event")
Result = SearchPlan | PaperSummary | WrittenSection | WrittenFrame
_RESULTS = (SearchPlan, PaperSummary, WrittenSection, WrittenFrame)

TRY_SHARE = 0.6
"""Share of the time left that an engine may take while others wait behind it."""
LAST_SHARE, LAST_MOST_S = 0.2, 3.0
"""What is kept for the last engine, which works on this machine: a share of the time left, at most so many seconds."""


class _Then(Enum):
    """What is done when an engine gives up."""

    NEXT = "the next engine tries"
    LAST = "the last engine does it: no other could be paid or recorded either"


_REACTIONS: Mapping[type[Exception], tuple[_Then, str]] = {
    Refused: (_Then.NEXT, "{name} declined to answer"),
    Unusable: (_Then.NEXT, "{name} did not answer in the form asked for"),
    ProviderFault: (_Then.NEXT, "{name} did not answer ({kind})"),
    TimeoutError: (_Then.NEXT, "{name} took too long"),
    BudgetReached: (_Then.LAST, "the budget does not allow a call of {name}"),
    UpstreamFailed: (_Then.LAST, "calls cannot be recorded now"),
}
"""Who stands in after what, and what is told of it, without a word of the provider's or the model's own.

Whatever is not listed is not made good by another engine and goes to the caller: NotReady (key, name, form of a plan)
and Unpriced, which name the setting to change.
"""


class TalliedEngine(Engine, Protocol):
    """An engine that can say what a task took although it failed."""

    name: str
    """"provider:model"."""

    def tallied(self, tally: Tally) -> Engine:
        """Return the same engine with a tally of its own, for one task."""
        ...


class FallbackEngine:
    """Does every task with the first engine that can."""

    def __init__(self, engines: Sequence[TalliedEngine], last: Engine) -> None:
        """Take the engines in order, and the one that needs nothing and nobody."""
        self._engines = tuple(engines)
        self._last = last

    async def plan_search(self, task: PlanTask, caller: Caller) -> SearchPlan:
        """Return English search terms.

        Raises:
            NoSearchTerms: no model answered, and the last engine understands no word of the question.
        """
        tries = _Tries(caller)
        try:
            return await self._answer(tries, caller, lambda engine, mine: engine.plan_search(task, mine))
        except NoSearchTerms as error:
            raise NoSearchTerms(f"{tries.told()}, and {BUILTIN} knows none of its words") from error

    async def summarize_paper(self, task: SummaryTask, caller: Caller) -> PaperSummary:
        """Return a summary."""
        return await self._answer(_Tries(caller), caller, lambda engine, mine: engine.summarize_paper(task, mine))

    async def write_section(self, task: SectionTask, caller: Caller) -> AsyncIterator[str | Restarted | WrittenSection]:
        """Yield the text in pieces, from the beginning again with each engine, then the section."""
        has_text = False
        attempts = self._events(_Tries(caller), caller, lambda engine, mine: engine.write_section(task, mine))
        async with contextlib.aclosing(attempts) as events:
            async for event in events:
                if has_text or not isinstance(event, Restarted):
                    yield event
                has_text = isinstance(event, str) or (has_text and not isinstance(event, Restarted))

    async def write_frame(self, task: FrameTask, caller: Caller) -> AsyncIterator[FramePart | WrittenFrame]:
        """Yield the parts, then the frame: those of one engine only, since each part may come once."""
        ready: list[FramePart | WrittenFrame] = []
        attempts = self._events(_Tries(caller), caller, lambda engine, mine: engine.write_frame(task, mine))
        async with contextlib.aclosing(attempts) as events:
            async for event in events:
                if isinstance(event, Restarted):
                    ready.clear()
                else:
                    ready.append(event)
        for part in ready:
            yield part

    async def _answer(
        self, tries: "_Tries", caller: Caller, ask: Callable[[Engine, Caller], Awaitable[Event]]
    ) -> Event:
        attempts = self._events(tries, caller, lambda engine, mine: _as_events(ask(engine, mine)))
        async with contextlib.aclosing(attempts) as events:
            return await anext(event async for event in events if not isinstance(event, Restarted))

    async def _events(
        self, tries: "_Tries", caller: Caller, start: Callable[[Engine, Caller], AsyncIterator[Event]]
    ) -> AsyncGenerator[Event | Restarted, None]:
        """Yield what the engines yield, and Restarted each time one has given up."""
        for place, engine in enumerate(self._engines):
            tally = Tally()
            mine = replace(caller, deadline=_deadline_of(caller, waiting=len(self._engines) - place - 1))
            try:
                async with contextlib.aclosing(_until(mine.deadline, start(engine.tallied(tally), mine))) as events:
                    async for event in events:
                        yield tries.completed(event)
            except tuple(_REACTIONS) as error:
                then = tries.failed(engine.name, error, tally)
            else:
                return
            yield Restarted(reason=tries.reasons[-1])
            if then is _Then.LAST:
                break
        async for event in start(self._last, caller):
            yield tries.completed(event)


class _Tries:
    """What became of the tries of one task."""

    def __init__(self, caller: Caller) -> None:
        self._purse = caller.purse
        self.reasons: list[str] = []
        self._usages: list[Usage] = []

    def failed(self, name: str, error: Exception, tally: Tally) -> _Then:
        """Note that an engine gave up and return who is next."""
        then, told = next(reaction for kind, reaction in _REACTIONS.items() if isinstance(error, kind))
        kind = _first_kind(error) if isinstance(error, ProviderFault) else ""
        self.reasons.append(told.format(name=name, kind=kind))
        self._usages += tally.usages
        is_ours = isinstance(error, ProviderFault | PaperRouteError)  # a refusal holds the model's own words
        logger.warning("%s gave way: %s", name, error if is_ours else self.reasons[-1])
        return then

    def told(self) -> str:
        """Return why the first engine did not do it, in English."""
        return "; ".join(self.reasons)

    def completed(self, event: Event) -> Event:
        """Return a result with what only the whole task knows; anything else as it is.

        That is the usage of the tries before it, why it came to them, and whether the budget kept any of its calls from
        being made: first calls, candidates, repairs and retries alike.
        """
        if not isinstance(event, _RESULTS):
            return event
        reasons = filter(None, [*self.reasons, event.fallback_reason])
        return replace(
            event,
            usage=summed([*self._usages, *event.usage]),
            fallback_reason="; ".join(reasons),
            budget_reached=self._purse.is_reached,
        )


def _first_kind(fault: ProviderFault) -> str:
    """Return what went wrong: of a wait that would have been too long, what it was for."""
    while isinstance(fault.__cause__, ProviderFault):
        fault = fault.__cause__
    return fault.kind.value


def _deadline_of(caller: Caller, *, waiting: int) -> Deadline:
    """Return until when an engine may try, such that those behind it and the last one have time left."""
    left_s = caller.deadline.timeout_s(float("inf"))
    for_all_s = left_s - min(LAST_MOST_S, LAST_SHARE * left_s)
    return Deadline.after(TRY_SHARE * for_all_s if waiting else for_all_s)


async def _until(deadline: Deadline, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    """Yield events until a moment, then close them.

    Raises:
        TimeoutError: it has come.
    """
    try:
        while True:
            async with asyncio.timeout(deadline.at_s - time.monotonic()):
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            yield event
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


async def _as_events(answer: Awaitable[Event]) -> AsyncIterator[Event]:
    yield await answer
