"""Budgets of surveys: who is granted what, who waits, and that nothing is lost or spent twice."""

import asyncio
import contextlib
import random
from typing import Any

import grpc
import pytest
from paperroute.v1 import survey_pb2 as pb
from played_ledgers import Answer, PlayedLedgers, rpc_error
from virtual_time import VirtualTime, clock

from gateway.money.budget import LOOSE_S, MAX_IDLE_S, SurveyBudget, within_budget
from gateway.money.worst import Worst
from services.common.errors import BudgetReached, NoSearchTerms, PaperRouteError, UpstreamFailed, status_of

__all__ = ["clock"]

SUMMARIZE, WRITE, PLAN, EMBED = pb.STAGE_SUMMARIZE, pb.STAGE_WRITE, pb.STAGE_PLAN, pb.STAGE_EMBED


def worst(least: int, most: int | None = None, item: str = "2.3") -> Worst:
    return Worst(item=item, least=least, most=most or least)


def told(error: PaperRouteError) -> grpc.aio.AioRpcError:
    """Return the failure of a service of ours."""
    status = status_of(error)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(error.code, grpc.aio.Metadata(), trailing, error.message)


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


class Held:
    """A call under way that holds its grant until it is told to end."""

    def __init__(self, budget: SurveyBudget, stage: Any, wanted: Worst) -> None:
        self.granted: int | None = None
        self.is_granted = False
        self._end = asyncio.Event()
        self._failure: BaseException | None = None
        self.task = asyncio.create_task(self._run(budget, stage, wanted))

    async def end(self, failure: BaseException | None = None) -> None:
        self._failure = failure
        self._end.set()
        await asyncio.wait([self.task])

    async def _run(self, budget: SurveyBudget, stage: Any, wanted: Worst) -> None:
        async with budget.call(stage, wanted) as granted:
            self.granted, self.is_granted = granted, True
            await self._end.wait()
            if self._failure:
                raise self._failure


@pytest.fixture
def ledgers() -> PlayedLedgers:
    return PlayedLedgers()


async def test_without_a_limit_nothing_is_counted(ledgers: PlayedLedgers):
    budget = await ledgers.budget(None, attempt=5)

    async with budget.call(PLAN, worst(10)) as granted:
        assert granted is None
    assert budget.left is None
    assert ledgers.reading_count == 0


@pytest.mark.parametrize(
    ("limit", "granted"),
    [
        pytest.param(100_000, 600, id="plenty: the most it can use"),
        pytest.param(5_000, 200, id="some: twice the least"),
        pytest.param(900, 100, id="little: the least"),
        pytest.param(100, 100, id="all of it"),
        pytest.param(99, 99, id="less than the least: what is left"),
        pytest.param(0, 0, id="nothing"),
    ],
)
async def test_a_call_is_granted_by_what_there_is(ledgers: PlayedLedgers, limit: int, granted: int):
    budget = await ledgers.budget(limit)

    async with budget.call(WRITE, worst(100, 600)) as found:
        assert found == granted
        assert budget.left == limit - granted


async def test_a_call_that_could_pass_the_limit_waits_for_those_under_way(ledgers: PlayedLedgers):
    budget = await ledgers.budget(250)
    first, second, third = (Held(budget, WRITE, worst(100, item=f"1.{n}")) for n in range(3))
    await settle()
    assert [each.is_granted for each in (first, second, third)] == [True, True, False]

    ledgers.spend("write", "1.0", 40)
    await first.end()
    await asyncio.wait([third.task], timeout=0.2)

    assert third.granted == 100
    await second.end()
    await third.end()


async def test_what_a_call_took_is_read_and_not_guessed(ledgers: PlayedLedgers):
    """Its answer need not know of all it cost."""
    budget = await ledgers.budget(300)
    async with budget.call(WRITE, worst(200, item="1.1")):
        ledgers.spend("write", "1.1", 120)
        ledgers.spend("write", "1.1 repair 1", 60)
    async with budget.call(WRITE, worst(200, item="1.2")) as granted:
        assert granted == 300 - 180


async def test_a_call_that_goes_on_after_its_answer_counts_at_its_worst(ledgers: PlayedLedgers, clock: VirtualTime):
    """A model that took too long, for which another one stood in, is paid for all the same."""
    budget = await ledgers.budget(300)
    async with budget.call(WRITE, worst(200, item="1.1")):
        left_behind = ledgers.begin("write", "1.1", 150)
        ledgers.spend("write", "1.1 repair 1", 50)
    waiting = Held(budget, WRITE, worst(200, item="1.2"))
    await asyncio.sleep(2.5)
    assert not waiting.is_granted

    ledgers.finish(left_behind, 30)
    await asyncio.sleep(1.5)

    assert waiting.granted == 200
    await waiting.end()


async def test_a_call_that_broke_counts_whole_until_its_service_must_have_noticed(
    ledgers: PlayedLedgers, clock: VirtualTime
):
    budget = await ledgers.budget(300)
    broken = Held(budget, WRITE, worst(200, item="1.1"))
    await settle()
    await broken.end(rpc_error())
    began = clock.now

    async with budget.call(WRITE, worst(200, item="1.2")) as granted:
        assert granted == 200
    assert LOOSE_S <= clock.now - began < LOOSE_S + 1


async def test_a_failure_that_a_service_told_of_counts_what_it_took_at_once(ledgers: PlayedLedgers, clock: VirtualTime):
    budget = await ledgers.budget(300)
    refused = Held(budget, WRITE, worst(200, item="1.1"))
    await settle()
    await refused.end(told(UpstreamFailed("overloaded", "later")))
    began = clock.now

    async with budget.call(WRITE, worst(200, item="1.2")) as granted:
        assert granted == 200
    assert clock.now - began < 0.5


async def test_a_cancelled_waiter_leaves_nothing(ledgers: PlayedLedgers):
    budget = await ledgers.budget(100)
    first = Held(budget, WRITE, worst(100, item="1.1"))
    waiters = [Held(budget, WRITE, worst(100, item=f"1.{n}")) for n in range(2, 6)]
    await settle()
    for each in waiters[:3]:
        each.task.cancel()
    await asyncio.wait([each.task for each in waiters[:3]])
    await first.end()
    await asyncio.wait([waiters[3].task], timeout=0.2)

    assert waiters[3].granted == 100
    await waiters[3].end()
    async with budget.call(WRITE, worst(100, item="2.1")) as granted:
        assert granted == 100


async def test_a_waiter_cancelled_at_the_moment_of_its_grant_leaves_nothing(ledgers: PlayedLedgers):
    budget = await ledgers.budget(100)
    first = Held(budget, WRITE, worst(100, item="1.1"))
    waiter = Held(budget, WRITE, worst(100, item="1.2"))
    await settle()
    serving = budget._serving
    assert serving is not None
    first._end.set()
    async with asyncio.timeout(20):
        while not budget._account._open_items["write", "1.2"]:
            await asyncio.sleep(0)
    waiter.task.cancel()
    await asyncio.wait([waiter.task, first.task])

    async with budget.call(WRITE, worst(100, item="1.3")) as granted:
        assert granted == 100


async def test_sections_go_before_summaries_and_second_tries_last(ledgers: PlayedLedgers):
    """What others wait for comes first; every section gets its text before one is made better."""
    budget = await ledgers.budget(100)
    order: list[str] = []

    async def call(name: str, stage: Any, above: int | None = None) -> None:
        async with budget.call(stage, worst(60, 90, item=name), above=above):
            order.append(name)
            await asyncio.sleep(0)

    first = Held(budget, PLAN, worst(100, item=""))
    await settle()
    tasks = [
        asyncio.create_task(call("again", WRITE, 50)),
        asyncio.create_task(call("summary 1", SUMMARIZE)),
        asyncio.create_task(call("summary 2", SUMMARIZE)),
        asyncio.create_task(call("section", WRITE)),
    ]
    await settle()
    await first.end()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)

    assert order == ["section", "summary 1", "summary 2", "again"]


async def test_when_nothing_can_come_back_nobody_waits(ledgers: PlayedLedgers, clock: VirtualTime):
    budget = await ledgers.budget(100)
    async with budget.call(WRITE, worst(100, item="1.1")):
        ledgers.spend("write", "1.1", 90)
    began = clock.now
    granted = []
    for number in range(50):
        async with budget.call(WRITE, worst(100, item=f"2.{number}")) as each:
            granted.append(each)

    assert max(granted) == 10
    assert clock.now - began < 1
    assert ledgers.reading_count < 10


async def test_lost_calls_are_waited_for_no_longer_than_they_may_last(ledgers: PlayedLedgers, clock: VirtualTime):
    """One in flight elsewhere that never ends must not hold up the survey for ever."""
    ledgers.begin("write", "1.1", 80)
    budget = await ledgers.budget(100, attempt=2)
    began = clock.now

    async with budget.call(WRITE, worst(100, item="1.2")) as granted:
        assert granted == 20
    assert MAX_IDLE_S <= clock.now - began < MAX_IDLE_S + 2


async def test_after_a_kill_the_ledgers_tell_what_was_spent(ledgers: PlayedLedgers):
    """In flight and lost calls at their worst, whether or not their cost becomes known."""
    ledgers.spend("summarize", "2501.00001", 30)
    lost = ledgers.begin("write", "1.1", 25)
    lost.outcome = 7
    ledgers.finish(ledgers.begin("write", "1.1", 99), 5)
    budget = await ledgers.budget(100, attempt=2)

    assert budget.left == 40


async def test_a_budget_whose_ledgers_cannot_be_read_is_not_opened(ledgers: PlayedLedgers, clock: VirtualTime):
    ledgers.is_away = True

    with pytest.raises(UpstreamFailed):
        await ledgers.budget(100, attempt=2)


async def test_ledgers_that_do_not_answer_keep_grants_whole(ledgers: PlayedLedgers, clock: VirtualTime):
    budget = await ledgers.budget(100)
    async with budget.call(WRITE, worst(80, item="1.1")):
        pass
    ledgers.is_away = True

    async with budget.call(WRITE, worst(80, item="1.2")) as granted:
        assert granted == 20


async def test_a_survey_s_own_grants_are_not_counted_twice(ledgers: PlayedLedgers):
    """What is under way stands in the ledger as well: while one call waits, the others' share does not shrink."""
    budget = await ledgers.budget(1_000)
    held = [Held(budget, SUMMARIZE, worst(100, item=f"p{n}")) for n in range(10)]
    await settle()
    assert all(each.is_granted for each in held)
    for number in range(10):
        ledgers.begin("summarize", f"p{number}", 100)
    late = Held(budget, SUMMARIZE, worst(100, item="p10"))
    ledgers.finish(ledgers.calls[0], 10)
    await held[0].end()
    await asyncio.wait([late.task], timeout=0.2)
    assert not late.is_granted  # 90 are there

    ledgers.finish(ledgers.calls[1], 10)
    await held[1].end()
    await asyncio.wait([late.task], timeout=0.2)

    assert late.granted == 100
    for each in (*held[2:], late):
        await each.end()


class Service:
    """Answers by what it is granted."""

    def __init__(self, enough: int, *, failure: PaperRouteError | None = None) -> None:
        self.enough, self.failure = enough, failure
        self.grants: list[int | None] = []

    async def __call__(self, granted: int | None) -> Answer:
        self.grants.append(granted)
        if granted is None or granted >= self.enough:
            return Answer()
        if self.failure:
            raise told(self.failure)
        return Answer(budget_reached=True)


async def test_a_service_that_wants_more_is_asked_again_as_long_as_there_is_more(ledgers: PlayedLedgers):
    budget, service = await ledgers.budget(10_000), Service(4_000)
    answer = await within_budget(budget, WRITE, worst(400, 1_000), service)

    assert not answer.budget_reached
    assert service.grants == [800, 3_200, 10_000]
    assert not budget.reached


async def test_a_service_gets_all_that_is_left_and_no_more(ledgers: PlayedLedgers):
    budget, service = await ledgers.budget(1_000), Service(4_000)
    answer = await within_budget(budget, WRITE, worst(400, 1_000), service)

    assert answer.budget_reached
    assert service.grants == [400, 1_000]
    assert budget.reached


async def test_a_service_that_cannot_do_without_fails_when_there_is_no_more(ledgers: PlayedLedgers):
    budget, service = await ledgers.budget(1_000), Service(4_000, failure=BudgetReached(5))

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await within_budget(budget, EMBED, worst(400, 500, item=""), service)

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert service.grants == [400, 1_000]
    assert budget.reached


async def test_an_encoder_of_unknown_price_is_tried_without_money_first(ledgers: PlayedLedgers):
    """The service's own choice costs nothing most of the time."""
    budget, service = await ledgers.budget(1_000), Service(300, failure=BudgetReached(0))
    await within_budget(budget, EMBED, worst(0, item=""), service)

    assert service.grants == [0, 500]


async def test_a_question_that_no_model_could_be_asked_is_planned_again_with_more(ledgers: PlayedLedgers):
    budget = await ledgers.budget(1_000)
    short, hopeless = Service(700, failure=NoSearchTerms("x")), Service(10**9, failure=NoSearchTerms("x"))
    await within_budget(budget, PLAN, worst(400, 800, item=""), short)
    with pytest.raises(grpc.aio.AioRpcError):
        await within_budget(budget, PLAN, worst(0, item=""), hopeless)

    assert short.grants == [400, 1_000]
    assert hopeless.grants == [0]


async def test_what_came_the_first_time_is_kept_when_the_second_fails(ledgers: PlayedLedgers):
    budget = await ledgers.budget(10_000)
    first = Answer(budget_reached=True)

    async def call(granted: int | None) -> Answer:
        if granted != 800:
            raise rpc_error()
        return first

    assert await within_budget(budget, WRITE, worst(400, 1_000), call) is first
    assert budget.reached


async def test_without_a_limit_a_service_is_asked_once(ledgers: PlayedLedgers):
    service = Service(1)
    budget = await ledgers.budget(None)
    await within_budget(budget, WRITE, budget.worst_of(None), service)  # type: ignore[arg-type]

    assert service.grants == [None]


class Chaos:
    """Surveys whose services break, answer late and go on after their answer, and whose callers leave."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.ledgers = PlayedLedgers(reading_s=self.chance.choice([0.0, 0.003, 0.2]))
        self.loose: set[asyncio.Task[None]] = set()

    async def model_call(self, stage: str, item: str, spent: list[int], granted: int) -> None:
        most = self.chance.randint(1, max(1, granted // 2))
        if spent[0] + most > granted:
            return
        spent[0] += most
        call = self.ledgers.begin(stage, item, most)
        await asyncio.sleep(self.chance.choice([0.0, 0.1, 3.0, 40.0]))
        cost = self.chance.choice([0, most // 3, most])
        spent[0] -= most - cost
        self.ledgers.finish(call, cost)

    async def service(self, stage: str, item: str, granted: int | None) -> Answer:
        assert granted is not None
        spent = [0]
        for number in range(self.chance.randint(1, 6)):
            step = f"{item} repair {number}" if number else item
            task = asyncio.create_task(self.model_call(stage, step, spent, granted))
            self.loose.add(task)
            if self.chance.random() < 0.8:
                await asyncio.wait([task], timeout=20)
        if self.chance.random() < 0.1:
            raise rpc_error()
        return Answer(budget_reached=self.chance.random() < 0.2)

    async def one(self, budget: SurveyBudget, item: str) -> None:
        await asyncio.sleep(self.chance.choice([0.0, 0.0, 1.0, 9.0]))
        stage, name = self.chance.choice([(SUMMARIZE, "summarize"), (WRITE, "write")])
        wanted = worst(self.chance.randint(0, 150), self.chance.randint(150, 900), item=item)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await within_budget(budget, stage, wanted, lambda granted: self.service(name, item, granted))

    async def run(self, limit: int, attempt: int, *, is_killed: bool) -> None:
        budget = await self.ledgers.budget(limit, attempt=attempt)
        tasks = [asyncio.create_task(self.one(budget, f"1.{number}")) for number in range(40)]
        for task in self.chance.sample(tasks, 6):
            asyncio.get_running_loop().call_later(self.chance.uniform(0, 10), task.cancel)
        if is_killed:  # its services notice at once; what they sent goes on
            await asyncio.wait(tasks, timeout=self.chance.uniform(0, 15))
            for task in tasks:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 8_000)
        await budget.close()


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_no_more_is_spent_than_allowed_and_nobody_waits_for_ever(seed: int, clock: VirtualTime):
    chaos = Chaos(seed)
    limit = chaos.chance.choice([0, 500, 2_000, 10_000, 100_000])

    await chaos.run(limit, 1, is_killed=True)
    await chaos.run(limit, 2, is_killed=False)
    await asyncio.gather(*chaos.loose)

    assert chaos.ledgers.total() <= limit
    assert all(call.usage.HasField("cost_nano_usd") for call in chaos.ledgers.calls)
