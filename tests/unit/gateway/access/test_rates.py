"""A token may be used so often a second, in bursts twice as often."""

import pytest

from gateway.access import rates
from gateway.access.rates import Rates


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(rates: Rates, token_id: str, per_s: float, count: int) -> int:
    """Return how many of so many requests at once go through."""
    return sum(rates.take(token_id, per_s) == 0 for _ in range(count))


def test_no_second_sees_more_than_twice_the_rate():
    clock = Clock()
    mine = Rates(clock)
    moments = []
    for _ in range(300):  # three seconds of far too many requests
        clock.now += 0.01
        moments += [clock.now] * taken(mine, "a", 10.0, 20)

    busiest = max(sum(moment <= other < moment + 1 for other in moments) for moment in moments)
    assert 10 <= busiest <= 20
    assert 10 + 29 <= len(moments) <= 10 + 31


@pytest.mark.parametrize("per_s", [0.001, 0.5, 1.0, 7.0, 100_000.0])
def test_who_waits_as_long_as_is_told_goes_through(per_s: float):
    clock = Clock()
    mine = Rates(clock)
    while not (wait_s := mine.take("a", per_s)):
        pass

    clock.now += wait_s * 0.9
    assert mine.take("a", per_s) > 0
    clock.now += wait_s * 0.1 + 1e-6
    assert mine.take("a", per_s) == 0


def test_the_first_request_goes_through_however_low_the_rate():
    assert Rates(Clock()).take("a", 0.001) == 0


def test_tokens_do_not_take_from_each_other():
    mine = Rates(Clock())

    assert taken(mine, "a", 5.0, 50) == 5
    assert taken(mine, "b", 5.0, 50) == 5


def test_what_is_kept_in_mind_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rates, "MAX_BUCKETS", 100)
    mine = Rates(Clock())
    for number in range(1_000):
        mine.take(str(number), 1.0)

    assert len(mine._buckets) == 100
    assert mine.take("999", 1.0) > 0  # the latest ones are those that stay
