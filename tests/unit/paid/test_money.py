from decimal import Decimal

import pytest

from services.common.paid import money


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        pytest.param("0.00616", 6_160_000, id="exact"),
        pytest.param("0.0000000005", 1, id="half up"),
        pytest.param("0.00000000049", 0, id="below a half"),
        pytest.param("1234567.000000001", 1_234_567_000_000_001, id="large"),
    ],
)
def test_dollars_become_whole_nano_dollars(usd: str, nano: int) -> None:
    assert money.nano_of(Decimal(usd)) == nano


@pytest.mark.parametrize(
    ("nano", "places", "shown"),
    [
        pytest.param(5_850_000, 4, "0.0059", id="a half goes up where round() goes to even"),
        pytest.param(6_160_000, 4, "0.0062", id="up"),
        pytest.param(0, 4, "0.0000", id="nothing"),
        pytest.param(1_995_000_000, 2, "2.00", id="two places"),
        pytest.param(12_345_678_000_000_000, 4, "12345678.0000", id="large"),
    ],
)
def test_money_is_shown_half_up(nano: int, places: int, shown: str) -> None:
    assert money.shown(nano, places) == shown


def test_nothing_is_lost_between_the_two_forms() -> None:
    assert money.nano_of(money.usd_of(987_654_321_987_654_321)) == 987_654_321_987_654_321
