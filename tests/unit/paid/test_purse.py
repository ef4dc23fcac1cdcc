import asyncio

import pytest

from services.common.errors import BudgetReached, Unpriced
from services.common.paid.caller import Purse


def test_calls_side_by_side_reserve_before_they_spend() -> None:
    """Otherwise ten calls at once would each find the whole budget."""
    purse = Purse(1_000)
    for _ in range(3):
        purse.reserve("own:model", 300)

    with pytest.raises(BudgetReached) as failure:
        purse.reserve("own:model", 300)

    assert failure.value.metadata["limit_nano_usd"] == "1000"


def test_a_purse_remembers_that_it_refused() -> None:
    purse = Purse(1_000)
    purse.reserve("own:model", 600)
    assert not purse.is_reached
    with pytest.raises(BudgetReached):
        purse.reserve("own:model", 600)

    purse.settle(600, 0)

    assert purse.is_reached


def test_what_was_not_spent_can_be_spent_again() -> None:
    purse = Purse(1_000)
    reserved = purse.reserve("own:model", 900)
    purse.settle(reserved, 100)

    assert purse.reserve("own:model", 900) == 900


def test_a_call_that_cost_more_than_was_reserved_counts_in_full() -> None:
    purse = Purse(1_000)
    purse.settle(purse.reserve("own:model", 100), 950)

    with pytest.raises(BudgetReached):
        purse.reserve("own:model", 100)


def test_the_last_nano_dollar_may_be_spent() -> None:
    assert Purse(1_000).reserve("own:model", 1_000) == 1_000


def test_no_budget_can_be_kept_without_a_price() -> None:
    with pytest.raises(Unpriced):
        Purse(1_000).reserve("own:model", None)
    assert Purse().reserve("own:model", None) == 0


async def test_many_callers_at_once_stay_within_the_budget() -> None:
    purse = Purse(1_000)
    spent = 0

    async def call() -> None:
        nonlocal spent
        reserved = purse.reserve("own:model", 100)
        await asyncio.sleep(0)
        purse.settle(reserved, 90)
        spent += 90

    results = await asyncio.gather(*(call() for _ in range(50)), return_exceptions=True)

    assert sum(isinstance(result, BudgetReached) for result in results) == 40
    assert spent == 900
