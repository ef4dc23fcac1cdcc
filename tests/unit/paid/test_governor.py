"""The governor in virtual time: who goes when, what is tried again, and that nobody is forgotten."""

import asyncio
import itertools
import random

import pytest
from governed import (
    MODEL,
    Calls,
    LimitedServer,
    all_through,
    fault,
    make_governor,
    make_governors,
    refusal,
    reply,
    settled,
)
from virtual_time import VirtualTime, clock  # noqa: F401  # a fixture

from services.common.errors import NotReady
from services.common.paid.caller import Priority
from services.common.paid.faults import REACTIONS, FaultKind, ProviderFault

pytestmark = pytest.mark.usefixtures("clock")
NEVER = {kind for kind, reaction in REACTIONS.items() if reaction.max_retries == 0}
HELD = [None] * 1_000
PRIORITIES = {"interactive": Priority.INTERACTIVE, "bulk": Priority.BULK}


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_interactive_goes_before_bulk_and_each_in_the_order_of_arrival() -> None:
    calls = Calls(make_governor(max_in_flight=1), [None])
    names = ["bulk 1", "bulk 2", "interactive 1", "bulk 3", "interactive 2"]
    tasks = [calls.start("first")]
    await settled()
    tasks += [calls.start(name, priority=PRIORITIES[name.split()[0]]) for name in names]
    await settled()
    calls.end()
    await asyncio.gather(*tasks)

    assert calls.sent == ["first", "interactive 1", "interactive 2", "bulk 1", "bulk 2", "bulk 3"]


async def test_call_that_was_refused_keeps_its_place() -> None:
    """Or calls that come all the time would push it back again and again."""
    calls = Calls(make_governor(max_in_flight=1), [refusal(2)])

    await asyncio.gather(*(calls.start(name) for name in ("first", "second", "third")))

    assert calls.sent == ["first", "first", "second", "third"]


async def test_one_refusal_holds_all_calls_for_as_long_as_the_server_asks() -> None:
    calls = Calls(make_governor(), [refusal(10)])
    began = now()
    tasks = [calls.start("refused")]
    await settled()
    tasks += [calls.start() for _ in range(20)]
    await asyncio.gather(*tasks)

    later = calls.sent_at[1:]
    assert len(later) == 21
    assert min(later) >= began + 10
    assert max(later) <= began + 10 + 1 + 2  # spread, and at the pace that was seen before


async def test_later_and_longer_refusal_lengthens_the_pause_a_shorter_one_does_not() -> None:
    calls = Calls(make_governor(), [None, None, None])
    began = now()
    tasks = [calls.start() for _ in range(3)]
    await settled()
    for asked_s in (5, 30, 1):
        calls.end(refusal(asked_s))
        await settled()
    await asyncio.gather(*tasks)

    assert min(calls.sent_at[3:]) >= began + 30


async def test_pause_is_never_longer_than_two_minutes() -> None:
    calls = Calls(make_governor(), [refusal(100_000)])
    began = now()

    await calls.run()

    assert 120 <= calls.sent_at[1] - began <= 122


async def test_pause_grows_as_long_as_refusals_do_not_say_how_long_to_wait() -> None:
    calls = Calls(make_governor(), [*[refusal()] * 9, reply(), refusal()])

    await calls.run()
    await calls.run()

    pauses = [later - earlier for earlier, later in itertools.pairwise(calls.sent_at)]
    assert pauses[:9] == pytest.approx([1, 2, 4, 8, 16, 32, 64, 120, 120], rel=0.15)
    assert pauses[-1] == pytest.approx(1, rel=0.15)  # an answer came in between


async def test_answer_to_a_call_that_was_sent_before_a_refusal_does_not_end_the_row() -> None:
    calls = Calls(make_governor(), [None, refusal(), refusal()])
    tasks = [calls.start(), calls.start()]
    await settled()
    calls.end()
    await asyncio.gather(*tasks)

    assert calls.sent_at[3] - calls.sent_at[2] == pytest.approx(2, rel=0.15)


async def test_calls_that_were_under_way_together_count_as_one_refusal() -> None:
    calls = Calls(make_governor(), [None] * 8)
    began = now()
    tasks = [calls.start() for _ in range(8)]
    await settled()
    for _ in range(8):
        calls.end(refusal())
    await asyncio.gather(*tasks)

    assert began + 1 <= min(calls.sent_at[8:]) <= began + 1.2  # not a pause of 1 + 2 + 4 ...


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not FaultKind.RATE_LIMIT])
async def test_each_fault_is_tried_again_as_often_as_its_reaction_says(kind: FaultKind) -> None:
    calls = Calls(make_governor(), [fault(kind) for _ in range(20)])

    with pytest.raises(ProviderFault) as failure:
        await calls.run()

    attempts = REACTIONS[kind].max_retries + 1
    assert failure.value.kind is kind
    assert len(calls.sent) == attempts
    assert [each.kind for each in calls.faults] == [kind] * attempts  # the last one is told too


async def test_kinds_of_faults_are_counted_apart() -> None:
    kinds = [FaultKind.TRUNCATED, FaultKind.TIMEOUT, FaultKind.TRUNCATED, FaultKind.MALFORMED, FaultKind.RATE_LIMIT]
    calls = Calls(make_governor(), [fault(kind) for kind in kinds])

    await calls.run()

    assert [each.kind for each in calls.faults] == kinds


@pytest.mark.parametrize("kind", [FaultKind.OVERLOADED, FaultKind.UNREACHABLE, FaultKind.TIMEOUT])
async def test_backoff_doubles_and_is_drawn_from_all_of_its_range(kind: FaultKind) -> None:
    times = REACTIONS[kind].max_retries

    async def pauses(chance: float) -> list[float]:
        calls = Calls(make_governor(chance=lambda: chance), [fault(kind)] * times)
        await calls.run()
        return [later - earlier for earlier, later in itertools.pairwise(calls.sent_at)]

    assert await pauses(1.0) == pytest.approx([2.0**number for number in range(times)])
    assert await pauses(0.5) == pytest.approx([2.0**number / 2 for number in range(times)])
    assert await pauses(0.0) == pytest.approx([0.0] * times)


async def test_overloaded_server_that_says_how_long_to_wait_is_obeyed_by_that_call_only() -> None:
    calls = Calls(make_governor(), [fault(FaultKind.OVERLOADED, 7)])
    began = now()

    await asyncio.gather(calls.start("first"), calls.start("second"))

    assert calls.sent == ["first", "second", "first"]
    assert calls.sent_at[1:] == pytest.approx([began, began + 7])


async def test_deadline_bounds_the_wait_for_a_turn_and_says_what_was_waited_for() -> None:
    calls = Calls(make_governor(max_in_flight=1), HELD)
    holding, began = calls.start("first"), now()
    await settled()

    with pytest.raises(ProviderFault, match="1 calls in flight") as failure:
        await calls.run("second", seconds=5)

    assert failure.value.kind is FaultKind.TIMEOUT
    assert now() - began == pytest.approx(5, abs=0.3)
    assert (calls.sent, calls.faults) == (["first"], [failure.value])
    calls.end()
    await holding


async def test_deadline_bounds_an_attempt() -> None:
    calls = Calls(make_governor(), HELD)
    began = now()

    with pytest.raises(ProviderFault, match="an answer") as failure:
        await calls.run(seconds=5)

    assert failure.value.kind is FaultKind.TIMEOUT
    assert now() - began == pytest.approx(5, abs=0.3)
    assert calls.faults == [failure.value]


async def test_deadline_bounds_refusals_without_end() -> None:
    calls = Calls(make_governor(), [refusal(1) for _ in range(1_000)])
    began = now()

    with pytest.raises(ProviderFault) as failure:
        await calls.run(seconds=20)

    assert failure.value.kind is FaultKind.TIMEOUT
    assert 10 < len(calls.sent) < 25
    assert now() - began <= 20


async def test_pause_beyond_the_deadline_is_told_at_once() -> None:
    """There is time left to ask another model."""
    calls = Calls(make_governor(), [None, refusal(60)])
    began = now()
    holding = calls.start()
    await settled()
    with pytest.raises(ProviderFault, match="pause") as own:
        await calls.run(seconds=30)
    with pytest.raises(ProviderFault, match="pause") as other:
        await calls.run(seconds=30)

    assert now() - began < 0.1
    assert own.value.kind is other.value.kind is FaultKind.TIMEOUT
    assert len(calls.sent) == 2
    calls.end()
    await holding


async def test_waiting_calls_hear_at_once_of_a_pause_beyond_their_deadline() -> None:
    calls = Calls(make_governor(max_in_flight=1), [None])
    refused, hasty, patient = calls.start(), calls.start(seconds=30), calls.start()
    await settled()
    began = now()
    calls.end(refusal(60))

    with pytest.raises(ProviderFault, match="pause"):
        await hasty
    assert now() - began < 0.1
    await asyncio.gather(refused, patient)
    assert now() - began >= 60


async def test_backoff_beyond_the_deadline_is_told_at_once() -> None:
    calls = Calls(make_governor(), [fault(FaultKind.OVERLOADED, 60)])
    began = now()

    with pytest.raises(ProviderFault, match=r"60\.0 s") as failure:
        await calls.run(seconds=30)

    assert now() - began < 0.1
    assert [each.kind for each in calls.faults] == [FaultKind.OVERLOADED, FaultKind.TIMEOUT]
    assert failure.value is calls.faults[-1]


async def test_deadline_that_has_passed_sends_nothing() -> None:
    calls = Calls(make_governor())

    with pytest.raises(ProviderFault):
        await calls.run(seconds=0)

    assert calls.sent == []


async def test_cancelled_waiter_gives_its_place_back() -> None:
    calls = Calls(make_governor(max_in_flight=1), [None])
    tasks = [calls.start(name) for name in ("first", "second", "third")]
    await settled()
    tasks[1].cancel()
    await settled()
    calls.end()
    await asyncio.gather(tasks[0], tasks[2])

    assert calls.sent == ["first", "third"]


async def test_call_that_is_cancelled_in_the_moment_of_its_turn_gives_it_on() -> None:
    calls = Calls(make_governor(max_in_flight=1), [None])
    tasks = [calls.start(name) for name in ("first", "second", "third")]
    await settled()
    calls.end()
    while not tasks[0].done():  # its turn is given to the second, which has not begun to use it
        await asyncio.sleep(0)
    assert calls.sent == ["first"]
    tasks[1].cancel()
    await tasks[2]

    assert calls.sent == ["first", "third"]


async def test_call_that_is_cancelled_in_flight_makes_place() -> None:
    calls = Calls(make_governor(max_in_flight=1), [None])
    tasks = [calls.start(name) for name in ("first", "second")]
    await settled()
    tasks[0].cancel()
    await tasks[1]

    assert calls.sent == ["first", "second"]


@pytest.mark.parametrize("error", [NotReady("own", "its key is missing"), ZeroDivisionError()], ids=["ours", "a bug"])
async def test_other_errors_pass_through_and_make_place(error: Exception) -> None:
    calls = Calls(make_governor(max_in_flight=1, requests_per_minute=20), [error])

    with pytest.raises(type(error)):
        await calls.run()
    began = now()
    await calls.run()

    assert now() == began  # what was not sent does not count against the limit either
    assert calls.faults == []


async def test_slow_start_doubles_while_calls_wait_and_keeps_to_the_most_in_flight(clock: VirtualTime) -> None:  # noqa: F811
    calls = Calls(make_governor(max_in_flight=200), HELD)
    tasks = [calls.start() for _ in range(300)]
    await settled()
    began, counts = clock.now, [calls.held_count]
    for moment in (0.07, 0.26, 0.51, 2.0):
        await asyncio.sleep(began + moment - clock.now)
        counts.append(calls.held_count)

    assert counts == [32, 38, pytest.approx(64, abs=1), pytest.approx(128, abs=2), 200]
    for task in tasks:
        task.cancel()


async def test_window_does_not_grow_while_nobody_waits() -> None:
    calls = Calls(make_governor(), HELD)
    tasks = [calls.start() for _ in range(33)]
    await settled()
    tasks[-1].cancel()
    await asyncio.sleep(10)
    tasks += [calls.start() for _ in range(100)]
    await settled()

    assert calls.held_count == 32
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(("replicas", "most"), [(1, 32), (4, 8), (100, 1)])
async def test_workers_share_the_beginning_of_the_slow_start(replicas: int, most: int) -> None:
    calls = Calls(make_governor(replicas=replicas), HELD)
    tasks = [calls.start() for _ in range(50)]
    await settled()

    assert calls.held_count == most
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("kind", [FaultKind.OVERLOADED, FaultKind.RATE_LIMIT])
async def test_after_trouble_the_window_shrinks_once_a_second_and_grows_by_one_with_a_window(kind: FaultKind) -> None:
    calls = Calls(make_governor(chance=lambda: 0.0), HELD)
    tasks = [calls.start() for _ in range(400)]
    await settled()
    for _ in range(5):
        calls.end(fault(kind, 1))
    await asyncio.sleep(30)
    assert calls.held_count == 27  # 0.7 x 32 = 22 is less than those that are in flight already
    for _ in range(27):
        calls.end()
        await asyncio.sleep(1)

    assert calls.held_count == 23
    for task in tasks:
        task.cancel()


async def test_mean_in_flight_is_that_of_the_time_in_which_calls_ran() -> None:
    calls = Calls(make_governor(), HELD)
    assert calls.governor.mean_in_flight == 0
    tasks = [calls.start() for _ in range(4)]
    await settled()
    assert calls.governor.mean_in_flight == 4
    await asyncio.sleep(2)
    calls.end(), calls.end()
    await settled()
    await asyncio.sleep(2)
    calls.end(), calls.end()
    await asyncio.gather(*tasks)

    assert calls.governor.mean_in_flight == pytest.approx(3, abs=0.1)
    await asyncio.sleep(600)
    assert calls.governor.mean_in_flight == pytest.approx(3, abs=0.1)


async def test_each_model_has_a_governor_of_its_own() -> None:
    governors = make_governors()
    one, other = Calls(governors.of(MODEL), [refusal(60)]), Calls(governors.of("own:other"))
    waiting, began = one.start(), now()
    await settled()

    await other.run()

    assert now() == began
    assert governors.of(MODEL) is one.governor
    await waiting


@pytest.mark.parametrize("latency_s", [0.05, 0.5, 5.0])
@pytest.mark.parametrize(
    ("has_headers", "most_refused", "most_s"),
    [pytest.param(True, 10, 1.15, id="with headers"), pytest.param(False, 20, 5, id="without headers")],
)
async def test_limited_server_refuses_little_and_nothing_is_lost(
    has_headers: bool, most_refused: int, most_s: float, latency_s: float
) -> None:
    server = LimitedServer(requests_per_s=20, burst=30, latency_s=latency_s, has_headers=has_headers)

    took_s = await all_through(server.send, [make_governors(chance=random.Random(1).random)], 160)

    assert server.answered_count == 160
    assert server.refused_count <= most_refused
    assert took_s <= most_s * (160 - 30) / 20 + latency_s


async def test_unlimited_server_is_soon_used_to_the_full() -> None:
    server = LimitedServer(requests_per_s=1e6, burst=1_000_000, latency_s=0.5)

    assert await all_through(server.send, [make_governors()], 160) < 1.4
    assert server.refused_count == 0


async def test_server_that_refuses_by_the_number_in_flight_is_found_out() -> None:
    """Without a header that says so, and with a wait that is too short: refusals must not go on without end."""

    class Crowded(LimitedServer):
        async def _answer(self):
            if self.in_flight > 8:
                self.refused_count += 1
                raise refusal(0.5)
            return await super()._answer()

    server = Crowded(requests_per_s=1e6, burst=1_000_000, latency_s=2.0, has_headers=False)

    took_s = await all_through(server.send, [make_governors(chance=random.Random(1).random)], 200)

    assert took_s < 2.5 * 200 * 2.0 / 8
    assert server.refused_count < 100


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_every_call_ends_and_every_place_is_given_back(seed: int) -> None:
    """Refusals, faults, cancelled callers and deadlines in any order: nobody waits for ever."""
    draw = random.Random(seed)
    governor = make_governor(
        max_in_flight=draw.choice([1, 3, 40]),
        requests_per_minute=draw.choice([None, 600]),
        tokens_per_minute=draw.choice([None, 60_000]),
        chance=draw.random,
    )
    calls = Calls(governor)

    async def send_and_fail(name: str) -> object:
        await asyncio.sleep(draw.uniform(0, 2))
        if draw.random() < 0.4:
            kind = draw.choice([FaultKind.RATE_LIMIT, FaultKind.OVERLOADED, FaultKind.TRUNCATED, FaultKind.QUOTA])
            raise fault(kind, draw.choice([None, 0.1, 3]))
        return reply()

    calls._send = send_and_fail  # type: ignore[method-assign,assignment]
    tasks = []
    for _ in range(120):
        tasks.append(calls.start(priority=draw.choice(list(Priority)), seconds=draw.choice([2, 30, 300])))
        await asyncio.sleep(draw.uniform(0, 0.2))
        if draw.random() < 0.3:
            draw.choice(tasks).cancel()

    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1_000)

    assert not governor._gate.is_used()
    assert governor._pace.requests._in_flight == governor._pace.tokens._in_flight == 0
    started = now()
    await asyncio.sleep(130)  # longer than any pause
    await Calls(governor).run(seconds=100)
    assert now() - started < 132
