"""A tenant's month: what is spent and set aside always adds up, and never beyond the limit."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from survey_rows import Gateways

from gateway.store import months
from gateway.store.months import Account, Held, Sums


class Month:
    """One tenant's month, with a clock that can be set."""

    def __init__(self, gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gateways = gateways
        self.now = "2026-11"
        monkeypatch.setattr(months, "month_now", lambda _connection: self.now)

    async def begin(
        self, survey_id: str = "s1", total: int = 0, tenant: str = "t", attempt: int = 1
    ) -> tuple[Account, int]:
        return await self.gateways.database.run(lambda each: months.begin(each, tenant, survey_id, attempt, total))

    async def hold(
        self, account: Account, *, limit: int = 1_000, spent: int = 0, kept: int = 0, least: int, most: int = 0
    ) -> Held:
        return await self.gateways.database.run(
            lambda each: months.hold(
                each, account, limit_nano_usd=limit, spent_nano_usd=spent, kept=kept, least=least, most=most
            )
        )

    async def charge(self, survey_id: str, total: int) -> None:
        await self.gateways.database.run(lambda each: months.charge(each, "t", survey_id, total))

    async def sums(self, month: str = "2026-11", tenant: str = "t") -> Sums:
        return await self.gateways.database.read(lambda each: months.sums_of(each, tenant, month))

    async def rows(self) -> dict[tuple[str, str], tuple[int, int]]:
        rows = await self.gateways.sql("SELECT * FROM reservation")
        return {(row["survey_id"], row["month"]): (row["spent_nano_usd"], row["reserved_nano_usd"]) for row in rows}

    async def check_sums(self) -> None:
        """The tenant's row is what its surveys' rows add up to."""
        summed = await self.gateways.sql(
            "SELECT tenant, month, sum(spent_nano_usd) AS spent, sum(reserved_nano_usd) AS reserved FROM reservation"
            " GROUP BY tenant, month"
        )
        for row in summed:
            assert await self.sums(row["month"], row["tenant"]) == Sums(
                spent=int(row["spent"]), reserved=int(row["reserved"])
            )


@pytest.fixture
def month(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> Month:
    return Month(gateways, monkeypatch)


async def test_a_survey_gets_what_it_needs_and_a_part_of_the_rest(month: Month):
    account, before = await month.begin()
    held = await month.hold(account, least=200, most=900)

    assert before == 0
    assert held == Held(reserved=300, left=700, others=0)  # 200, and an eighth of 800
    assert await month.sums() == Sums(spent=0, reserved=300)


async def test_surveys_do_not_get_more_than_the_month_has(month: Month):
    first, _ = await month.begin("s1")
    second, _ = await month.begin("s2")
    await month.hold(first, least=700)
    short = await month.hold(second, least=400, kept=0)
    rest = await month.hold(second, least=300)

    assert short == Held(reserved=0, left=300, others=700)
    assert rest == Held(reserved=300, left=0, others=700)
    await month.check_sums()


async def test_what_was_handed_out_stays_set_aside(month: Month):
    """A limit that was lowered meanwhile takes nothing from calls under way."""
    account, _ = await month.begin()
    await month.hold(account, least=800)

    assert (await month.hold(account, limit=100, kept=500, least=600)).reserved == 500


async def test_what_is_spent_and_what_is_set_aside_move_together(month: Month):
    account, _ = await month.begin()
    await month.hold(account, least=600)
    held = await month.hold(account, spent=250, kept=100, least=150)

    assert held == Held(reserved=150, left=600, others=0)
    assert await month.sums() == Sums(spent=250, reserved=150)


async def test_a_dead_run_s_money_is_released_by_the_next(month: Month):
    account, _ = await month.begin()
    await month.hold(account, least=600)
    again, before = await month.begin(total=70, attempt=2)

    assert (again, before) == (replace(account, attempt=2), 0)
    assert await month.sums() == Sums(spent=70, reserved=0)


async def test_a_run_that_was_taken_over_sets_nothing_aside_any_more(month: Month):
    """It may live on for a moment; what it says of the survey's money is old."""
    old, _ = await month.begin()
    new, _ = await month.begin(total=70, attempt=2)
    await month.hold(new, spent=70, least=600)
    late = await month.hold(old, spent=20, kept=50, least=100)

    assert late == Held(reserved=50, left=0, others=0)
    assert await month.rows() == {("s1", "2026-11"): (70, 600)}


async def test_the_end_of_a_survey_is_charged_once(month: Month):
    account, _ = await month.begin()
    await month.hold(account, least=600)
    for _ in range(3):
        await month.charge("s1", 95)

    assert await month.sums() == Sums(spent=95, reserved=0)


async def test_a_survey_without_cost_leaves_no_row(month: Month):
    await month.charge("s1", 0)

    assert await month.rows() == {}


async def test_surveys_without_a_limit_count_too(month: Month):
    """A limit that is set in the middle of a month is about the whole month."""
    await month.charge("s1", 400)
    account, _ = await month.begin("s2")

    assert (await month.hold(account, least=700)).left == 600


async def test_what_comes_after_the_turn_of_the_month_belongs_to_the_run_s_month(month: Month):
    account, _ = await month.begin()
    await month.hold(account, least=600)
    month.now = "2026-12"
    await month.charge("s1", 250)

    assert await month.rows() == {("s1", "2026-11"): (250, 0)}
    await month.check_sums()


async def test_a_run_in_the_next_month_is_charged_to_that_one(month: Month):
    account, _ = await month.begin()
    await month.hold(account, least=600)
    await month.charge("s1", 250)
    month.now = "2026-12"
    later, before = await month.begin(total=250)
    await month.hold(later, spent=0, least=100)
    await month.charge("s1", 330)

    assert (later.month, before) == ("2026-12", 250)
    assert await month.rows() == {("s1", "2026-11"): (250, 0), ("s1", "2026-12"): (80, 0)}
    await month.check_sums()


async def test_a_dead_run_of_last_month_is_charged_to_last_month(month: Month):
    account, _ = await month.begin()
    await month.hold(account, least=600)
    month.now = "2026-12"
    _, before = await month.begin(total=140)

    assert before == 140
    assert await month.rows() == {("s1", "2026-11"): (140, 0), ("s1", "2026-12"): (0, 0)}


async def test_worst_cases_that_did_not_come_true_are_given_back(month: Month):
    await month.charge("s1", 300)
    month.now = "2026-12"
    await month.charge("s1", 120)

    assert await month.rows() == {("s1", "2026-11"): (120, 0)}
    assert await month.sums("2026-12") == Sums(spent=0, reserved=0)


async def test_tenants_do_not_share_a_month(month: Month):
    mine, _ = await month.begin("s1", tenant="t")
    theirs, _ = await month.begin("s2", tenant="u")
    await month.hold(mine, least=900)

    assert (await month.hold(theirs, least=900)).reserved == 900


async def test_replicas_that_take_at_once_never_take_too_much(month: Month):
    """Each transaction sees the ones before it, on whichever replica."""
    databases = [month.gateways.another_database() for _ in range(2)]
    chance = random.Random(1)

    async def survey(number: int) -> None:
        database = databases[number % 2]
        account, _ = await database.run(lambda each: months.begin(each, "t", f"s{number}", 1, 0))
        spent = kept = 0
        for _ in range(4):

            def work(each: Any, account: Account = account, spent: int = spent, kept: int = kept) -> Held:
                return months.hold(
                    each, account, limit_nano_usd=1_000, spent_nano_usd=spent, kept=kept, least=kept + 90, most=500
                )

            held = await database.run(work)
            sums = await month.sums()
            assert sums.spent + sums.reserved <= 1_000
            spent += min(held.reserved, chance.randint(0, 60))
            kept = 0
        total = spent
        await database.run(lambda each: months.charge(each, "t", f"s{number}", total))

    await asyncio.gather(*(survey(number) for number in range(12)))

    assert (await month.sums()).spent <= 1_000
    assert (await month.sums()).reserved == 0
    await month.check_sums()
