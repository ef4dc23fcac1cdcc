"""A tenant's month as the budgets of its surveys keep it: in portions, released at the end, never beyond the limit."""

import asyncio
from typing import Any

import pytest
from paperroute.v1 import survey_pb2 as pb
from played_ledgers import PlayedLedgers, a_running_job
from survey_rows import Gateways, Unsteady

from gateway.document.draft import Draft
from gateway.money import usage
from gateway.money.budget import SurveyBudget
from gateway.money.worst import Worst
from gateway.store import months
from gateway.store.months import Sums
from services.common.errors import BudgetReached, UpstreamFailed

WRITE = pb.STAGE_WRITE


def worst(least: int, item: str = "1.1", most: int | None = None) -> Worst:
    return Worst(item=item, least=least, most=most or 2 * least)


class Counted:
    """A database that counts its transactions."""

    def __init__(self, gateways: Gateways) -> None:
        self._database = gateways.database
        self.run_count = 0

    async def run(self, work: Any) -> Any:
        self.run_count += 1
        return await self._database.run(work)


async def sums(gateways: Gateways, tenant: str = "tenant-a") -> Sums:
    return await gateways.database.read(
        lambda connection: months.sums_of(connection, tenant, months.month_now(connection))
    )


async def granted(budget: SurveyBudget, least: int, item: str = "1.1") -> int | None:
    async with budget.call(WRITE, worst(least, item)) as found:
        return found


async def test_calls_that_wait_at_the_same_time_are_one_transaction(gateways: Gateways):
    ledgers, database = PlayedLedgers(), Counted(gateways)
    budget = await ledgers.budget(None, month_limit=10**9, database=database)
    open_ = asyncio.Barrier(160)

    async def call(number: int) -> None:
        async with budget.call(WRITE, worst(100, f"1.{number}")):
            await open_.wait()

    await asyncio.gather(*(call(number) for number in range(160)))

    assert database.run_count <= 2
    held = await sums(gateways)
    assert 160 * 100 <= held.reserved <= 160 * 200


async def test_a_survey_gives_back_at_its_end_what_it_did_not_spend(gateways: Gateways):
    ledgers = PlayedLedgers()
    budget = await ledgers.budget(None, month_limit=10_000, database=gateways.database)
    async with budget.call(WRITE, worst(1_000)):
        ledgers.spend("write", "1.1", 300)
        left_behind = ledgers.begin("write", "1.1 repair 1", 200)
    await budget.close()
    assert await sums(gateways) == Sums(spent=500, reserved=0)  # what is under way yet at its worst

    ledgers.finish(left_behind, 50)
    job = a_running_job()
    draft = Draft(survey_id=job.survey_id, spec=job.spec, labels={})
    report = draft.reports[WRITE] = pb.StageReport(stage=WRITE)
    report.usage.add(model="own:a", call_count=2, cost_nano_usd=350)
    for _ in range(2):
        await gateways.database.run(lambda connection: usage.record(connection, job, draft))

    assert await sums(gateways) == Sums(spent=350, reserved=0)


async def test_the_smaller_of_both_limits_counts(file_gateways: Gateways):
    ledgers = PlayedLedgers()
    by_survey = await ledgers.budget(500, month_limit=10_000, database=file_gateways.database)
    by_month = await ledgers.budget(50_000, month_limit=600, database=file_gateways.database, survey_id="survey-2")

    assert await granted(by_survey, 700) == 500
    await by_survey.close()
    assert await granted(by_month, 700) == 600


async def test_a_month_that_is_spent_grants_nothing(file_gateways: Gateways):
    ledgers = PlayedLedgers()
    await file_gateways.database.run(lambda connection: months.charge(connection, "tenant-a", "survey-0", 1_000))
    budget = await ledgers.budget(None, month_limit=1_000, database=file_gateways.database)

    assert await granted(budget, 100) == 0


async def test_calls_that_cost_nothing_take_nothing(file_gateways: Gateways):
    """Surveys of the built-in engine go on in a month that is spent, without a transaction."""
    ledgers, database = PlayedLedgers(), Counted(file_gateways)
    budget = await ledgers.budget(None, month_limit=0, database=database)

    assert await granted(budget, 0) == 0
    await budget.close()
    assert database.run_count == 0


async def test_what_another_survey_gives_back_is_waited_for(file_gateways: Gateways):
    ledgers = PlayedLedgers()
    first = await ledgers.budget(None, month_limit=1_000, database=file_gateways.database)
    second = await ledgers.budget(None, month_limit=1_000, database=file_gateways.database, survey_id="survey-2")
    async with first.call(WRITE, worst(800)):
        waiting = asyncio.create_task(granted(second, 700))
        await asyncio.wait([waiting], timeout=0.6)
        assert not waiting.done()
    await first.close()

    assert (await asyncio.wait_for(waiting, 10) or 0) >= 700


async def test_a_run_that_is_taken_over_begins_with_what_the_ledgers_hold(gateways: Gateways):
    """What the dead one had set aside is free again."""
    ledgers = PlayedLedgers()
    dead = await ledgers.budget(None, month_limit=1_000, database=gateways.database)
    async with dead.call(WRITE, worst(900)):
        ledgers.spend("write", "1.1", 200)
    again = await ledgers.budget(None, month_limit=1_000, database=gateways.database, attempt=2)

    assert await granted(again, 700, "1.2") == 700
    await again.close()
    assert await sums(gateways) == Sums(spent=200, reserved=0)
    await dead.close()  # it lives yet, and says what it knew
    assert await sums(gateways) == Sums(spent=200, reserved=0)


async def test_last_month_s_cost_is_not_this_month_s(gateways: Gateways, monkeypatch: pytest.MonkeyPatch):
    ledgers, now = PlayedLedgers(), "2026-11"
    monkeypatch.setattr(months, "month_now", lambda _connection: now)
    ledgers.spend("write", "1.1", 900)
    await gateways.database.run(lambda connection: months.charge(connection, "tenant-a", "survey-1", 900))
    now = "2026-12"
    budget = await ledgers.budget(None, month_limit=1_000, database=gateways.database, attempt=2)

    assert await granted(budget, 1_000, "1.2") == 1_000


async def test_a_database_that_is_away_for_a_moment_is_asked_again(
    file_gateways: Gateways, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.money.month_share.RETRY_DELAYS_S", (0.0, 0.0))
    database = Unsteady(file_gateways.database)
    budget = await PlayedLedgers().budget(None, month_limit=1_000, database=database)
    database.fail(2, is_done_first=True)

    assert await asyncio.gather(*(granted(budget, 100, f"1.{n}") for n in range(3))) == [100] * 3


async def test_a_database_that_stays_away_is_told_to_all_who_wait(
    file_gateways: Gateways, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.money.month_share.RETRY_DELAYS_S", (0.0, 0.0))
    database = Unsteady(file_gateways.database)
    budget = await PlayedLedgers().budget(None, month_limit=1_000, database=database)
    database.fail(3)
    results = await asyncio.gather(*(granted(budget, 100, f"1.{n}") for n in range(3)), return_exceptions=True)

    assert [type(each) for each in results] == [UpstreamFailed] * 3
    assert await granted(budget, 100, "1.9") == 100


async def test_what_is_left_of_the_month_is_told(gateways: Gateways):
    ledgers = PlayedLedgers()
    budgets = ledgers.budgets(gateways.database)
    await gateways.database.run(lambda connection: months.charge(connection, "tenant-a", "survey-0", 400))
    budget = await ledgers.budget(None, month_limit=1_000, database=gateways.database)
    async with budget.call(WRITE, worst(300)):
        assert 0 < (await budgets.month_left("tenant-a", 1_000) or 0) <= 300
    await budget.close()

    assert await budgets.month_left("tenant-a", 1_000) == 600
    assert await budgets.month_left("tenant-a", 300) == 0
    assert await budgets.month_left("tenant-b", 1_000) == 1_000
    assert await budgets.month_left("tenant-a", None) is None


async def test_a_new_survey_is_refused_only_when_the_month_is_spent(file_gateways: Gateways):
    """What is set aside for others may come back."""
    ledgers = PlayedLedgers()
    budgets = ledgers.budgets(file_gateways.database)
    await file_gateways.database.run(lambda connection: months.charge(connection, "tenant-a", "survey-0", 400))
    budget = await ledgers.budget(None, month_limit=1_000, database=file_gateways.database)
    async with budget.call(WRITE, worst(600)):
        await budgets.check_month("tenant-a", 1_000)
    await budgets.check_month("tenant-a", None)
    await budgets.check_month("tenant-a", 401)

    with pytest.raises(BudgetReached):
        await budgets.check_month("tenant-a", 400)
    with pytest.raises(BudgetReached):
        await budgets.check_month("tenant-b", 0)
