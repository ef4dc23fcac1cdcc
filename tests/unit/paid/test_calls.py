"""Paid calls: what is sent, who pays, what is recorded, and what is left of a call whose caller has gone."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ledgers import COST, MODEL, TOKENS, WORST_COST, Ledgers, OpenGovernor, Provider, a_call, a_caller, a_reply

from services.common.deadlines import Deadline
from services.common.errors import BudgetReached, NotReady, Unpriced, UpstreamFailed
from services.common.paid.caller import Scope
from services.common.paid.calls import Outcome
from services.common.paid.faults import FaultKind, ProviderFault
from services.common.paid.ledger import key_of
from services.common.paid.ledger_values import CallState, ListedCall
from services.common.paid.usage import TokenUsage, Usage, usage_message

BROKEN = ProviderFault(FaultKind.TRUNCATED, MODEL, "the stream ended", tokens=TOKENS)
OVERLOADED = ProviderFault(FaultKind.OVERLOADED, MODEL, "busy")


def states(calls: Sequence[ListedCall]) -> list[CallState]:
    return [call.state for call in calls]


async def under_way(task: "asyncio.Task[Any]", provider: Provider) -> None:
    """Wait until a call was sent."""
    asked = asyncio.create_task(provider.asked.wait())
    await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED, timeout=20)
    assert asked.done()


async def settled(ledgers: Ledgers, survey_id: str = "survey-1") -> Sequence[ListedCall]:
    """Return a survey's calls once none is in flight."""
    async with asyncio.timeout(20):
        while True:
            calls = await ledgers.listed(survey_id)
            if calls and CallState.IN_FLIGHT not in states(calls):
                return calls
            await asyncio.sleep(0.01)


class Texts:
    """Takes text as it is written."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def text(self, piece: str) -> None:
        self.events.append(piece)

    def restart(self, reason: str) -> None:
        self.events.append(f"<{reason}>")


async def test_a_call_is_paid_for_once(ledgers: Ledgers) -> None:
    provider = Provider()
    first = await ledgers.calls().run(a_call(), a_caller(), provider.send)
    again = await ledgers.calls().run(a_call(), a_caller(), provider.send)

    assert provider.count == 1
    assert (first.body, again.body) == (b"an answer", b"an answer")
    assert (first.is_recorded, again.is_recorded) == (False, True)
    assert first.usage == again.usage
    assert (first.usage.cost_nano_usd, first.usage.avoided_cost_nano_usd) == (COST, 0)


async def test_another_survey_is_served_for_nothing_and_sees_what_it_did_not_pay(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider()
    await calls.run(a_call(), a_caller(), provider.send)

    usage = (await calls.run(a_call(), a_caller("survey-2"), provider.send)).usage

    assert provider.count == 1
    assert usage == Usage(
        model=MODEL,
        call_count=0,
        cost_nano_usd=0,
        avoided_cost_nano_usd=COST,
        served_call_count=1,
        served_input_tokens=TOKENS.input_tokens,
        served_output_tokens=TOKENS.output_tokens,
    )
    assert len(await file_ledgers.listed()) == 1
    assert await file_ledgers.listed("survey-2") == ()


async def test_a_tenant_never_gets_an_answer_to_anothers_question(file_ledgers: Ledgers) -> None:
    calls = file_ledgers.calls()
    mine, theirs = Provider([a_reply("mine")]), Provider([a_reply("theirs")])
    await calls.run(a_call(), a_caller(tenant="tenant-a"), mine.send)

    answer = await calls.run(a_call(), a_caller(tenant="tenant-b"), theirs.send)

    assert answer.body == b"theirs"
    assert answer.usage.avoided_cost_nano_usd == 0


async def test_tenants_share_answers_made_of_public_records(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider()
    call = a_call(scope=Scope.PUBLIC)
    await calls.run(call, a_caller(tenant="tenant-a"), provider.send)

    assert (await calls.run(call, a_caller(tenant="tenant-b"), provider.send)).is_recorded


async def test_with_the_cache_off_only_the_surveys_own_answers_are_served(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider()
    await calls.run(a_call(), a_caller("survey-1"), provider.send)

    answers = [
        await calls.run(a_call(), a_caller("survey-2", cache_off=True), provider.send),
        await calls.run(a_call(), a_caller("survey-2", cache_off=True), provider.send),
        await calls.run(a_call(), a_caller("survey-3", cache_off=True), provider.send),
    ]

    assert [answer.is_recorded for answer in answers] == [False, True, False]
    assert answers[1].usage.cost_nano_usd == COST


async def test_ten_samples_of_one_prompt_are_ten_calls(ledgers: Ledgers) -> None:
    calls, provider = ledgers.calls(), Provider()
    for _ in range(2):
        await asyncio.gather(
            *(
                calls.run(a_call(sample=f"candidate {number}"), a_caller(item=f"candidate {number}"), provider.send)
                for number in range(10)
            )
        )

    assert provider.count == 10
    assert len(await ledgers.listed()) == 10


async def test_callers_that_ask_the_same_at_once_send_it_once(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider.shut()
    tasks = [asyncio.create_task(calls.run(a_call(), a_caller(f"survey-{i}"), provider.send)) for i in range(5)]
    await under_way(tasks[0], provider)
    provider.gate.set()
    answers = await asyncio.gather(*tasks)

    assert provider.count == 1
    assert [answer.is_recorded for answer in answers] == [False, True, True, True, True]
    assert [answer.usage.cost_nano_usd for answer in answers] == [COST, 0, 0, 0, 0]
    assert [answer.usage.avoided_cost_nano_usd for answer in answers] == [0, COST, COST, COST, COST]


async def test_processes_that_ask_the_same_at_once_send_it_once(ledgers: Ledgers) -> None:
    here, there, provider = ledgers.calls(), ledgers.calls(), Provider.shut()
    first = asyncio.create_task(here.run(a_call(), a_caller(), provider.send))
    await under_way(first, provider)
    second = asyncio.create_task(there.run(a_call(), a_caller("survey-2"), provider.send))
    await asyncio.wait([second], timeout=0.2)
    assert not second.done()

    provider.gate.set()

    assert not (await first).is_recorded
    assert (await second).is_recorded
    assert provider.count == 1


@pytest.mark.parametrize(
    ("counted", "cost"),
    [
        pytest.param(TokenUsage(input_tokens=-5, output_tokens=-1), 0, id="less than nothing"),
        pytest.param(TokenUsage(input_tokens=100, cached_input_tokens=80, cache_write_tokens=70), 150_000, id="parts"),
        pytest.param(TokenUsage(output_tokens=1, reasoning_tokens=3), 30_000, id="reasoning beside the output"),
        pytest.param(TokenUsage(input_tokens=10**40), 10**13, id="nonsense"),
    ],
)
async def test_whatever_a_server_counts_the_call_is_recorded(ledgers: Ledgers, counted: TokenUsage, cost: int) -> None:
    """A count that cannot be must not lose an answer that was paid for, nor give money back."""
    calls, provider = ledgers.calls(), Provider([a_reply(tokens=counted)])

    answer = await calls.run(a_call(), a_caller(), provider.send)

    assert answer.usage.cost_nano_usd == cost
    usage_message(answer.usage)  # fits into the message
    (call,) = await ledgers.listed()
    assert (call.state, call.usage) == (CallState.OK, answer.usage)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.REFUSED, CallState.REFUSED),
        (Outcome.TRUNCATED, CallState.TRUNCATED),
        (Outcome.MALFORMED, CallState.MALFORMED),
    ],
)
async def test_what_is_no_good_answer_is_paid_for_and_asked_anew(
    file_ledgers: Ledgers, outcome: Outcome, state: CallState
) -> None:
    calls, provider = file_ledgers.calls(), Provider([a_reply("no", outcome=outcome)])
    first = await calls.run(a_call(), a_caller(), provider.send)
    second = await calls.run(a_call(), a_caller(), provider.send)

    assert (first.body, first.outcome, first.usage.cost_nano_usd) == (b"no", outcome, COST)
    assert (second.body, second.outcome) == (b"an answer", Outcome.OK)
    assert states(await file_ledgers.listed()) == [state, CallState.OK]


async def test_who_waited_for_a_call_that_brought_nothing_asks_for_itself(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider.shut([a_reply("no", outcome=Outcome.REFUSED)])
    first = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
    await under_way(first, provider)
    second = asyncio.create_task(calls.run(a_call(), a_caller("survey-2"), provider.send))
    provider.gate.set()

    assert (await first).outcome is Outcome.REFUSED
    assert (await second).usage.cost_nano_usd == COST
    assert provider.count == 2


async def test_nothing_is_sent_beyond_the_budget(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider()
    caller = a_caller(budget=WORST_COST - 1)

    with pytest.raises(BudgetReached):
        await calls.run(a_call(), caller, provider.send)

    assert provider.count == 0
    assert await file_ledgers.listed() == ()


async def test_a_recorded_answer_needs_no_budget_but_counts_in_it(file_ledgers: Ledgers) -> None:
    """What the payer gets back of an earlier run is part of what this run may cost."""
    calls, provider = file_ledgers.calls(), Provider()
    await calls.run(a_call("one"), a_caller(), provider.send)
    caller = a_caller(budget=WORST_COST + COST - 1)

    assert (await calls.run(a_call("one"), caller, provider.send)).is_recorded
    with pytest.raises(BudgetReached):
        await calls.run(a_call("two"), caller, provider.send)
    assert (await calls.run(a_call("one"), replace(caller, item="other"), provider.send)).is_recorded


async def test_calls_side_by_side_stay_within_the_budget(file_ledgers: Ledgers) -> None:
    """Each could take all of it: only as many are under way as the budget allows at worst."""
    calls, provider = file_ledgers.calls(), Provider.shut()
    caller = a_caller(budget=3 * WORST_COST)
    tasks = [asyncio.create_task(calls.run(a_call(f"{i}"), caller, provider.send)) for i in range(8)]
    while sum(task.done() for task in tasks) < 5:
        await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)

    provider.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert sum(isinstance(result, BudgetReached) for result in results) == 5
    assert provider.count == 3
    caller.purse.reserve(MODEL, 3 * (WORST_COST - COST))  # what they did not take is there again
    with pytest.raises(BudgetReached):
        caller.purse.reserve(MODEL, 1)


async def test_a_broken_attempt_is_not_repeated_beyond_the_budget(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider([BROKEN])
    with pytest.raises(BudgetReached):
        await calls.run(a_call(), a_caller(budget=WORST_COST + COST - 1), provider.send)

    assert provider.count == 1
    (call,) = await file_ledgers.listed()
    assert (call.state, call.usage.cost_nano_usd) == (CallState.TRUNCATED, COST)


async def test_a_budget_needs_a_price(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(prices=""), Provider()
    with pytest.raises(Unpriced):
        await calls.run(a_call(), a_caller(budget=10**9), provider.send)
    assert provider.count == 0

    usage = (await calls.run(a_call(), a_caller(), provider.send)).usage

    assert usage.cost_nano_usd is None


async def test_each_attempt_that_broke_is_recorded_with_its_cost(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider([BROKEN, OVERLOADED])
    caller = a_caller(budget=10 * WORST_COST)

    answer = await calls.run(a_call(), caller, provider.send)

    listed = await file_ledgers.listed()
    assert sorted(states(listed), key=str) == [CallState.OK, CallState.TRUNCATED]
    assert sum(call.usage.cost_nano_usd or 0 for call in listed) == 2 * COST
    assert answer.usage.cost_nano_usd == 2 * COST
    assert answer.usage.call_count == 1
    caller.purse.reserve(MODEL, 10 * WORST_COST - 2 * COST)
    with pytest.raises(BudgetReached):
        caller.purse.reserve(MODEL, 1)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        pytest.param([BROKEN] * 3, [CallState.TRUNCATED] * 3, id="paid for each time"),
        pytest.param([OVERLOADED] * 5, [CallState.FAILED], id="not paid for"),
        pytest.param([BROKEN, *[OVERLOADED] * 5], [CallState.FAILED, CallState.TRUNCATED], id="both"),
    ],
)
async def test_a_call_that_never_succeeds_is_recorded_and_its_budget_free_again(
    file_ledgers: Ledgers, faults: list[Exception], expected: list[CallState]
) -> None:
    calls, provider = file_ledgers.calls(), Provider(faults)
    caller = a_caller(budget=10 * WORST_COST)
    with pytest.raises(ProviderFault) as failure:
        await calls.run(a_call(), caller, provider.send)

    assert failure.value is faults[-1]
    listed = await file_ledgers.listed()
    assert states(listed) == expected
    paid = sum(call.usage.cost_nano_usd or 0 for call in listed)
    assert paid == COST * faults.count(BROKEN)
    caller.purse.reserve(MODEL, 10 * WORST_COST - paid)


async def test_a_call_that_cannot_be_sent_leaves_nothing(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider([NotReady("openai", "its key is missing; set OPENAI_API_KEY")])
    caller = a_caller(budget=WORST_COST)
    with pytest.raises(NotReady):
        await calls.run(a_call(), caller, provider.send)

    assert await file_ledgers.listed() == ()
    assert (await calls.run(a_call(), caller, provider.send)).usage.cost_nano_usd == COST


async def test_text_is_passed_on_as_it_is_written_and_begins_anew_after_a_fault(file_ledgers: Ledgers) -> None:
    provider, sink = Provider(["half", BROKEN, "whole", a_reply("whole")]), Texts()

    answer = await file_ledgers.calls().run(a_call(), a_caller(), provider.send, sink)

    assert sink.events == ["half", "<truncated>", "whole"]
    assert answer.body == b"whole"


async def test_a_text_that_had_not_begun_does_not_begin_anew(file_ledgers: Ledgers) -> None:
    provider, sink = Provider([OVERLOADED, "whole", a_reply("whole")]), Texts()

    await file_ledgers.calls().run(a_call(), a_caller(), provider.send, sink)

    assert sink.events == ["whole"]


async def test_a_recorded_answer_is_not_played_into_the_sink(file_ledgers: Ledgers) -> None:
    calls, provider, sink = file_ledgers.calls(), Provider(), Texts()
    await calls.run(a_call(), a_caller(), provider.send)

    assert (await calls.run(a_call(), a_caller(), provider.send, sink)).is_recorded
    assert sink.events == []


async def test_a_call_goes_on_when_its_caller_is_cancelled_and_is_billed_to_it(file_ledgers: Ledgers) -> None:
    calls, provider, sink = file_ledgers.calls(), Provider.shut(["late", a_reply("late")]), Texts()
    caller = a_caller(budget=WORST_COST)
    task = asyncio.create_task(calls.run(a_call(), caller, provider.send, sink))
    await under_way(task, provider)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    provider.gate.set()

    (call,) = await settled(file_ledgers)
    assert (call.state, call.usage.cost_nano_usd) == (CallState.OK, COST)
    assert sink.events == []
    assert (await calls.run(a_call(), a_caller(), provider.send)).is_recorded
    assert provider.count == 1
    caller.purse.reserve(MODEL, WORST_COST - COST)


async def test_a_call_goes_on_after_its_callers_deadline(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider.shut()
    with pytest.raises(ProviderFault) as failure:
        await calls.run(a_call(), a_caller(seconds=0.5), provider.send)
    assert failure.value.kind is FaultKind.TIMEOUT
    assert states(await file_ledgers.listed()) == [CallState.IN_FLIGHT]

    provider.gate.set()

    (call,) = await settled(file_ledgers)
    assert (call.state, call.usage.cost_nano_usd) == (CallState.OK, COST)


class ImpatientGovernor(OpenGovernor):
    """Gives up at the deadline, as the real one does."""

    async def run(self, send: Any, *, deadline: Deadline, **rest: Any) -> Any:
        try:
            async with asyncio.timeout(deadline.timeout_s(60) - 0.2):
                return await send()
        except TimeoutError:
            raise ProviderFault(FaultKind.TIMEOUT, MODEL, "the deadline") from None


async def test_a_governor_that_gives_up_does_not_lose_what_was_sent(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(ImpatientGovernor()), Provider.shut()
    with pytest.raises(ProviderFault):
        await calls.run(a_call(), a_caller(seconds=0.6), provider.send)

    provider.gate.set()

    assert states(await settled(file_ledgers)) == [CallState.OK]


class LateGovernor(OpenGovernor):
    """Gives up at the very moment of the answer."""

    async def run(self, send: Any, **rest: Any) -> Any:
        await send()
        raise ProviderFault(FaultKind.TIMEOUT, MODEL, "the deadline")


async def test_an_answer_at_the_moment_of_the_deadline_is_not_lost(file_ledgers: Ledgers) -> None:
    answer = await file_ledgers.calls(LateGovernor()).run(a_call(), a_caller(), Provider().send)

    assert answer.body == b"an answer"
    assert states(await file_ledgers.listed()) == [CallState.OK]


async def test_who_joins_a_call_that_its_caller_left_gets_the_answer(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider.shut()
    first = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
    await under_way(first, provider)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(calls.run(a_call(), a_caller("survey-2"), provider.send))
    provider.gate.set()

    assert (await second).usage.avoided_cost_nano_usd == COST
    assert provider.count == 1


class ShutGovernor(OpenGovernor):
    """Lets nothing through: all calls wait for their turn."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def run(self, send: Any, **rest: Any) -> Any:
        self.reached.set()
        await asyncio.Event().wait()


async def test_a_call_that_was_not_sent_is_given_up_with_its_caller(file_ledgers: Ledgers) -> None:
    """Nobody pays for what nobody waits for; and who asks the same meanwhile asks for itself."""
    governor, provider = ShutGovernor(), Provider()
    calls = file_ledgers.calls(governor)
    caller = a_caller(budget=WORST_COST)
    task = asyncio.create_task(calls.run(a_call(), caller, provider.send))
    await governor.reached.wait()
    task.cancel()
    await asyncio.wait([task])

    other = await file_ledgers.calls().run(a_call(), a_caller("survey-2"), provider.send)

    assert other.usage.cost_nano_usd == COST
    assert await file_ledgers.listed() == ()
    assert provider.count == 1
    caller.purse.reserve(MODEL, WORST_COST)


async def test_a_caller_that_leaves_while_its_call_is_claimed_leaves_nothing(
    file_ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, provider = file_ledgers.calls(), Provider()
    claim = calls._ledger.claim

    async def claimed_too_late(*arguments: Any) -> Any:
        found = await claim(*arguments)
        task.cancel()
        await asyncio.wait([task])
        return found

    monkeypatch.setattr(calls._ledger, "claim", claimed_too_late)
    task = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
    await asyncio.wait([task])
    await calls.close()

    assert task.cancelled()
    assert provider.count == 0
    assert await file_ledgers.listed() == ()


async def test_a_call_whose_caller_left_is_not_tried_again(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider.shut([BROKEN])
    task = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
    await under_way(task, provider)
    task.cancel()
    await asyncio.wait([task])
    provider.gate.set()

    (call,) = await settled(file_ledgers)
    assert (call.state, call.usage.cost_nano_usd) == (CallState.TRUNCATED, COST)
    assert provider.count == 1


async def test_no_attempt_takes_for_ever(file_ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.paid.sending.MAX_CALL_S", 0.05)
    calls, provider = file_ledgers.calls(), Provider.shut()

    with pytest.raises(ProviderFault) as failure:
        await calls.run(a_call(), a_caller(), provider.send)

    assert failure.value.kind is FaultKind.TIMEOUT
    assert provider.count == 2  # once more, as the table of reactions says
    assert states(await file_ledgers.listed()) == [CallState.FAILED] * 2


SILENT = ProviderFault(FaultKind.TIMEOUT, MODEL, "no answer")


async def test_an_attempt_that_timed_out_counts_at_its_worst(file_ledgers: Ledgers) -> None:
    """The provider may bill for it: the next attempt may cost what is left besides, and the ledger says how much."""
    calls, caller = file_ledgers.calls(), a_caller(budget=2 * WORST_COST)
    await calls.run(a_call(), caller, Provider([SILENT]).send)

    assert caller.purse.left_nano_usd == WORST_COST - COST
    answered, silent = await file_ledgers.listed()
    assert (answered.state, answered.usage.cost_nano_usd) == (CallState.OK, COST)
    assert (silent.state, silent.usage.cost_nano_usd, silent.worst_nano_usd) == (CallState.FAILED, None, WORST_COST)


async def test_an_attempt_that_timed_out_is_not_repeated_beyond_the_budget(file_ledgers: Ledgers) -> None:
    provider, caller = Provider([SILENT]), a_caller(budget=2 * WORST_COST - 1)
    with pytest.raises(BudgetReached):
        await file_ledgers.calls().run(a_call(), caller, provider.send)

    assert provider.count == 1
    assert caller.purse.left_nano_usd == WORST_COST - 1
    assert caller.purse.is_reached


async def test_a_retry_after_a_timeout_shows_a_cost(file_ledgers: Ledgers) -> None:
    """What nobody knows does not hide what is known."""
    answer = await file_ledgers.calls().run(a_call(), a_caller(), Provider([SILENT]).send)

    assert answer.usage.cost_nano_usd == COST


async def test_a_timeout_on_a_gpu_costs_the_time_it_took(file_ledgers: Ledgers) -> None:
    calls = file_ledgers.calls(prices='{"own:*": {"gpu_usd_per_hour": 3600}}')
    await calls.run(a_call(), a_caller(), Provider([SILENT]).send)

    assert all(call.usage.cost_nano_usd is not None for call in await file_ledgers.listed())


async def test_a_call_that_was_given_up_stays_reserved_until_its_cost_is_known(file_ledgers: Ledgers) -> None:
    """Otherwise the model that stands in would spend money that the first one takes yet."""
    calls, provider, caller = file_ledgers.calls(), Provider.shut(), a_caller(seconds=0.5, budget=2 * WORST_COST - 1)
    with pytest.raises(ProviderFault):
        await calls.run(a_call(), caller, provider.send)
    patient = replace(caller, deadline=Deadline.after(30))
    with pytest.raises(BudgetReached):
        await calls.run(a_call("another"), patient, provider.send)

    provider.gate.set()
    await settled(file_ledgers)

    assert caller.purse.left_nano_usd == 2 * WORST_COST - 1 - COST
    assert (await calls.run(a_call("another"), patient, provider.send)).usage.cost_nano_usd == COST


async def test_a_call_that_died_with_its_process_counts_at_its_worst_for_who_takes_it_over(ledgers: Ledgers) -> None:
    """A request that is made again after a kill may not cost twice what it was allowed."""
    dead = ledgers.calls()
    key = key_of(a_call(), a_caller())
    await dead._ledger.claim(key, a_call(), a_caller(), WORST_COST)
    await ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")
    mine, other = a_caller(budget=2 * WORST_COST), a_caller("survey-2", budget=2 * WORST_COST)

    await ledgers.calls().run(a_call(), mine, Provider().send)
    await ledgers.calls().run(a_call("another"), other, Provider().send)

    assert mine.purse.left_nano_usd == WORST_COST - COST
    assert other.purse.left_nano_usd == 2 * WORST_COST - COST


async def test_a_call_under_way_elsewhere_for_the_same_survey_counts_while_it_is_waited_for(ledgers: Ledgers) -> None:
    """A request that is made again, to another worker, may not spend what its first try takes yet."""
    here, there, provider = ledgers.calls(), ledgers.calls(), Provider.shut()
    first = asyncio.create_task(here.run(a_call(), a_caller(budget=WORST_COST), provider.send))
    await under_way(first, provider)
    impatient, other = a_caller(budget=WORST_COST, seconds=0.6), a_caller("survey-2", budget=WORST_COST, seconds=0.6)
    for caller in (impatient, other):
        with pytest.raises(ProviderFault):
            await there.run(a_call(), caller, provider.send)
    assert (impatient.purse.left_nano_usd, other.purse.left_nano_usd) == (0, WORST_COST)

    patient = a_caller(budget=WORST_COST)
    second = asyncio.create_task(there.run(a_call(), patient, provider.send))
    await asyncio.wait([second], timeout=0.2)
    assert patient.purse.left_nano_usd == 0
    provider.gate.set()
    await asyncio.gather(first, second)

    assert patient.purse.left_nano_usd == WORST_COST - COST


async def test_no_prompt_costs_more_than_was_reserved_for_it(file_ledgers: Ledgers) -> None:
    """A token has at least one byte, whatever a model's tokens are like."""
    call = a_call("\N{PILE OF POO}" * 300)
    tokens = TokenUsage(input_tokens=1_200, output_tokens=80)
    caller = a_caller(budget=10 * WORST_COST)
    await file_ledgers.calls().run(call, caller, Provider([a_reply(tokens=tokens)]).send)

    (listed,) = await file_ledgers.listed()
    assert listed.usage.cost_nano_usd is not None
    assert listed.worst_nano_usd is not None
    assert listed.usage.cost_nano_usd <= listed.worst_nano_usd


async def test_an_estimate_of_ours_is_no_more_than_was_asked_for(file_ledgers: Ledgers) -> None:
    """A provider that does not count its tokens still keeps to the limit it was sent."""
    guessed = TokenUsage(input_tokens=10_000, output_tokens=10_000, is_estimated=True)
    answer = await file_ledgers.calls().run(a_call(), a_caller(), Provider([a_reply(tokens=guessed)]).send)

    assert answer.usage.cost_nano_usd == WORST_COST


async def test_closing_waits_for_what_is_under_way(file_ledgers: Ledgers) -> None:
    calls, provider = file_ledgers.calls(), Provider.shut()
    task = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
    await under_way(task, provider)
    task.cancel()
    await asyncio.wait([task])
    closing = asyncio.create_task(calls.close())
    provider.gate.set()
    await closing

    assert states(await file_ledgers.listed()) == [CallState.OK]


async def test_what_closing_cuts_short_is_left_to_its_lease(
    file_ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been paid for: nobody knows, and the row must not say otherwise."""
    monkeypatch.setattr("services.common.paid.calls.DRAIN_S", 0.05)
    calls, provider = file_ledgers.calls(), Provider.shut()
    task = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
    await under_way(task, provider)
    await calls.close()

    with pytest.raises(UpstreamFailed):
        await task
    assert states(await file_ledgers.listed()) == [CallState.IN_FLIGHT]
    await file_ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")
    assert states(await file_ledgers.listed()) == [CallState.LOST]


async def test_a_lease_that_ran_out_is_taken_over_by_who_waits(ledgers: Ledgers) -> None:
    dead, provider = ledgers.calls(), Provider.shut()
    first = asyncio.create_task(dead.run(a_call(), a_caller(), provider.send))
    await under_way(first, provider)
    waiting = asyncio.create_task(ledgers.calls().run(a_call(), a_caller("survey-2"), Provider().send))
    await asyncio.wait([waiting], timeout=0.1)
    assert not waiting.done()

    await ledgers.sql("UPDATE {call} SET lease_until = started_at - 1")

    assert (await waiting).usage.cost_nano_usd == COST
    assert states(await ledgers.listed()) == [CallState.LOST]
    provider.gate.set()
    await first
    assert states(await ledgers.listed()) == [CallState.EXPIRED]


async def test_a_ledger_that_is_away_for_a_moment_loses_nothing(
    file_ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is paid for: it is recorded once the ledger is back."""
    monkeypatch.setattr("services.common.paid.ledger.FINISH_DELAYS_S", (0.0, 0.0, 0.0))
    calls, provider = file_ledgers.calls(), Provider.shut()
    task = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
    await under_way(task, provider)
    database = calls._ledger._database
    run, failures = database.run, [UpstreamFailed("the ledger", "away")] * 2

    async def away(work: Any) -> Any:
        if failures:
            raise failures.pop()
        return await run(work)

    monkeypatch.setattr(database, "run", away)
    provider.gate.set()

    assert (await task).body == b"an answer"
    assert failures == []
    assert states(await file_ledgers.listed()) == [CallState.OK]


async def test_an_answer_reaches_its_caller_although_it_could_not_be_recorded(
    file_ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.paid.ledger.FINISH_DELAYS_S", (0.0,))
    calls, provider = file_ledgers.calls(), Provider.shut()
    task = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
    await under_way(task, provider)

    async def away(work: Any) -> Any:
        raise UpstreamFailed("the ledger", "away")

    with monkeypatch.context() as patch:
        patch.setattr(calls._ledger._database, "run", away)
        provider.gate.set()
        assert (await task).usage.cost_nano_usd == COST


async def test_nothing_is_sent_without_a_ledger(file_ledgers: Ledgers) -> None:
    folder = file_ledgers.shared.data_dir
    folder.mkdir()
    (folder / "generation.sqlite3").write_bytes(b"this is no database at all" * 100)
    calls, provider = file_ledgers.calls(), Provider()

    with pytest.raises(NotReady) as failure:
        await calls.run(a_call(), a_caller(), provider.send)

    assert "generation.sqlite3" in failure.value.message
    assert provider.count == 0


_WORKER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledgers import Ledgers, a_call, a_caller, a_reply
from services.common.settings import SharedSettings

async def main():
    calls = Ledgers(SharedSettings(data_dir=Path(sys.argv[1]))).calls()
    sent = open(sys.argv[3], "a", buffering=1)
    gate = asyncio.Semaphore(6)

    async def one(number):
        async def send(sink):
            sent.write(f"{number}\\n")
            await asyncio.sleep(0.02)
            return a_reply(f"answer {number}")

        async with gate:
            answer = await calls.run(a_call(f"prompt {number}"), a_caller(item=f"{number}"), send)
        print(number, answer.usage.cost_nano_usd, answer.is_recorded, flush=True)

    await asyncio.gather(*(one(number) for number in range(50)))
    await calls.close()

asyncio.run(main())
"""


async def test_killed_in_the_middle_of_fifty_calls_the_rerun_pays_for_none_that_was_recorded(
    file_ledgers: Ledgers, tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    here = Path(__file__).parents[2]
    command = [sys.executable, "-c", _WORKER, str(file_ledgers.shared.data_dir), str(here), str(sent)]
    environment = os.environ | {"PYTHONPATH": str(here.parent)}

    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(15):  # so many calls have brought their answers
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.read()
    process.wait()
    process.stdout.close()

    before = await file_ledgers.sql("SELECT item, state FROM {call}")
    recorded = {row["item"] for row in before if row["state"] == "ok"}
    lost = {row["item"] for row in before if row["state"] == "in_flight"}
    assert 15 <= len(recorded) < 50
    assert len(lost) <= 6
    await file_ledgers.sql("UPDATE {call} SET lease_until = started_at - 1 WHERE state = 'in_flight'")
    first_run = sent.read_text().split()

    rerun = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=True, timeout=60
    )

    second_run = sent.read_text().split()[len(first_run) :]
    assert sorted(second_run, key=int) == sorted({str(number) for number in range(50)} - recorded, key=int)
    answers = {line.split()[0]: line.split()[1:] for line in rerun.stdout.splitlines()}
    assert {item for item, (_, is_recorded) in answers.items() if is_recorded == "True"} == recorded
    assert {cost for cost, _ in answers.values()} == {str(COST)}
    listed = await file_ledgers.listed()
    assert sum(call.usage.cost_nano_usd or 0 for call in listed) == 50 * COST
    assert {call.item for call in listed if call.state is CallState.LOST} == lost
