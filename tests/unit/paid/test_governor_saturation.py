"""What the gauges say of governors, in virtual time."""

import asyncio

import pytest
from governed import MODEL, Calls, make_governor, make_governors, refusal, settled
from telemetered import Telemetry, telemetered
from virtual_time import clock  # noqa: F401  # a fixture

from services.common.telemetry import names, saturation

pytestmark = pytest.mark.usefixtures("clock")
GAUGES = ("limit", "in_flight", "waiting", "cooldown")


@pytest.fixture(autouse=True)
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave aside the governors of other tests, which nobody closed."""
    monkeypatch.setattr(saturation, "_open", set())


def gauges(seen: Telemetry, model: str = MODEL) -> tuple[float | None, ...]:
    return tuple(seen.sums(f"paperroute.governor.{name}", names.MODEL).get((model,)) for name in GAUGES)


async def test_calls_in_flight_and_those_that_wait_are_told() -> None:
    with telemetered() as seen:
        governors = make_governors(max_in_flight=2)
        calls = Calls(governors.of(MODEL), [None] * 5)
        idle = gauges(seen)
        tasks = [calls.start(str(number)) for number in range(5)]
        await settled()
        busy = gauges(seen)
        while not all(task.done() for task in tasks):
            if calls.held_count:
                calls.end()
            await asyncio.sleep(0.01)

        assert (idle, busy, gauges(seen)) == ((2, 0, 0, 0), (2, 2, 3, 0), (2, 0, 0, 0))
        await governors.close()


async def test_a_pause_is_told_with_what_is_left_of_it() -> None:
    with telemetered() as seen:
        governors = make_governors()
        calls = Calls(governors.of(MODEL), [refusal(10)])
        task = calls.start()
        await settled()
        await asyncio.sleep(4)
        during = gauges(seen)[3]
        await task

        assert during == pytest.approx(6)
        assert gauges(seen)[3] == 0
        await governors.close()


async def test_governors_of_one_model_are_told_together_and_closed_ones_no_more() -> None:
    """A process may have several, as when it serves two roles."""
    with telemetered() as seen:
        one, other = make_governors(max_in_flight=2), make_governors(max_in_flight=3)
        one.of(MODEL), other.of(MODEL), other.of("own:another")
        together = gauges(seen)[0], gauges(seen, "own:another")[0]
        await other.close()
        left = gauges(seen)[0], gauges(seen, "own:another")[0]
        await one.close()

        assert (together, left) == ((5, 3), (2, None))
        assert gauges(seen) == (None,) * 4


async def test_a_governor_that_nobody_holds_any_more_is_told_no_more() -> None:
    with telemetered() as seen:
        governor = make_governor(max_in_flight=2)
        held = gauges(seen)[0]
        del governor

        assert held == 2
        assert gauges(seen) == (None,) * 4
