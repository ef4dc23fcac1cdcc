"""What counts in a budget between two readings of the ledgers, and after each."""

from typing import Any

import pytest
from paperroute.v1 import usage_pb2

from gateway.money.account import Account

SECTION, OTHER = ("write", "2.3"), ("write", "2.4")
OK, IN_FLIGHT, FAILED, LOST = 2, 1, 6, 7


def call(cost: int | None, *, outcome: Any = OK, item: str = "2.3", stage: str = "write", worst: int | None = None):
    usage = usage_pb2.ModelUsage(cost_nano_usd=cost)
    return usage_pb2.RecordedCall(stage=stage, item=item, outcome=outcome, usage=usage, worst_cost_nano_usd=worst)


def test_a_grant_counts_whole_until_a_reading_after_its_end():
    account = Account(1_000)
    grant = account.give(SECTION, 300)
    account.ended(grant, 10.0)
    assert account.left == 700
    account.learn([call(50)], 9.9)
    assert account.left == 700
    account.learn([call(50)], 10.0)

    assert account.left == 950


def test_what_the_ledgers_hold_of_a_grant_under_way_is_not_counted_twice():
    account = Account(1_000)
    account.give(SECTION, 300)
    account.learn([call(50), call(None, worst=120, outcome=IN_FLIGHT, item="2.3 repair 1")], 1.0)

    assert (account.known, account.held, account.left) == (170, 130, 700)


def test_what_an_item_cost_before_its_grant_is_not_of_the_grant():
    """A section that is written again after a kill may spend all it was granted anew."""
    account = Account(1_000)
    account.learn([call(200)], 0.0)
    account.give(SECTION, 300)
    account.learn([call(200), call(50, item="2.3 repair 1")], 1.0)

    assert (account.known, account.held) == (250, 250)


def test_what_another_grant_took_for_the_item_is_not_of_this_one():
    """A service that is asked again has spent before, and the last reading may not have told."""
    account = Account(1_000)
    first = account.give(SECTION, 100)
    account.ended(first, 0.5)
    account.give(SECTION, 300)
    account.learn([call(100), call(50, item="2.3 repair 1")], 0.4)
    assert account.left == 1_000 - 150 - 300  # the first is not sure yet, but its money is known to be spent

    account.learn([call(100), call(50, item="2.3 repair 1")], 1.0)

    assert account.left == 1_000 - 150 - 300


@pytest.mark.parametrize(
    ("recorded", "known"),
    [
        pytest.param(call(40, worst=100), 40, id="answered"),
        pytest.param(call(None, worst=100, outcome=IN_FLIGHT), 100, id="in flight"),
        pytest.param(call(None, worst=100, outcome=LOST), 100, id="lost"),
        pytest.param(call(None, worst=100, outcome=FAILED), 100, id="timed out"),
        pytest.param(call(0, worst=100, outcome=FAILED), 0, id="refused without cost"),
        pytest.param(call(None), 0, id="of before worst cases were recorded"),
    ],
)
def test_a_call_whose_cost_nobody_knows_counts_at_its_worst(recorded: usage_pb2.RecordedCall, known: int):
    account = Account(1_000)
    account.learn([recorded], 0.0)

    assert account.known == known


@pytest.mark.parametrize(
    ("stage", "item", "of"),
    [
        ("write", "2.3 repair 1", ("write", "2.3")),
        ("summarize", "2501.00001 language", ("summarize", "2501.00001")),
        ("plan", "candidate 2", ("plan", "")),
        ("embed", "papers 1", ("embed", "")),
        ("frame", "language correction", ("frame", "")),
    ],
)
def test_calls_to_models_belong_to_the_call_they_were_made_for(stage: str, item: str, of: tuple[str, str]):
    account = Account(1_000)
    account.give(of, 300)
    account.learn([call(100, stage=stage, item=item)], 0.0)

    assert account.held == 200


def test_only_what_may_come_back_is_waited_for():
    account = Account(1_000)
    grant = account.give(SECTION, 300)
    elsewhere = call(None, worst=70, outcome=IN_FLIGHT, item="2.4")
    account.learn([call(100), call(None, worst=120, outcome=IN_FLIGHT), elsewhere], 0.0)
    assert (account.in_flight, account.in_flight_elsewhere) == (190, 70)
    assert account.settling(5.0) == (0, float("inf"))

    account.ended(grant, 6.0)

    assert account.settling(5.0) == (0, 6.0)
    assert account.settling(6.0) == (80 + 120, float("inf"))


def test_a_grant_that_was_not_used_leaves_nothing():
    account = Account(1_000)
    account.drop(account.give(SECTION, 300))

    assert (account.left, account.is_busy) == (1_000, False)
    assert account.give(SECTION, 10).is_sole


def test_without_a_limit_nothing_runs_out():
    account = Account(None)
    account.give(OTHER, 300)

    assert account.left is None
