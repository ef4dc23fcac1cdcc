"""Limits of requests and tokens, in virtual time: configured, told by headers, guessed, and shared by workers."""

import asyncio
import itertools
import random

import pytest
from governed import (
    MODEL,
    Blackboard,
    Calls,
    LimitedServer,
    all_through,
    fault,
    make_governor,
    make_governors,
    refusal,
    reply,
    requests_left,
    settled,
)
from virtual_time import clock  # noqa: F401  # a fixture

from services.common.paid.faults import FaultKind, RateState
from services.common.paid.usage import TokenUsage

pytestmark = pytest.mark.usefixtures("clock")
HELD = [None] * 1_000


def now() -> float:
    return asyncio.get_running_loop().time()


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


async def test_no_minute_sees_more_requests_than_configured() -> None:
    calls = Calls(make_governor(requests_per_minute=60))

    await asyncio.gather(*(calls.start() for _ in range(200)))

    in_a_minute = [sum(begin <= at < begin + 60 for at in calls.sent_at) for begin in calls.sent_at]
    assert max(in_a_minute) <= 60
    assert calls.sent_at[-1] - calls.sent_at[0] <= 200 * 1.06


@pytest.mark.parametrize("replicas", [2, 3])
async def test_configured_limits_are_divided_by_the_workers(replicas: int) -> None:
    one, many = (
        Calls(make_governor(requests_per_minute=600)),
        Calls(make_governor(requests_per_minute=600, replicas=replicas)),
    )

    await asyncio.gather(*(calls.start() for calls in (one, many) for _ in range(100)))

    assert many.sent_at[-1] - many.sent_at[0] >= replicas * (one.sent_at[-1] - one.sent_at[0])


async def test_tokens_are_reserved_at_their_most_and_settled_with_what_was_used() -> None:
    """6,000 tokens a minute let 300 go at once and 95 a second."""
    worst = TokenUsage(input_tokens=200, output_tokens=100)
    calls = Calls(make_governor(tokens_per_minute=6_000), HELD)
    tasks = [calls.start(worst=worst) for _ in range(2)]
    await settled()
    assert calls.held_count == 1  # the first one might take all
    calls.end(reply(tokens=TokenUsage(input_tokens=5, output_tokens=5)))
    await settled()
    assert calls.held_count == 0  # 10 are missing to 300
    await asyncio.sleep(0.2)
    assert calls.held_count == 1

    tasks.append(calls.start(worst=TokenUsage(output_tokens=100)))
    calls.end(reply(tokens=TokenUsage(input_tokens=200, output_tokens=480)))  # more than was thought possible
    await asyncio.sleep(4.7)
    assert calls.held_count == 0
    await asyncio.sleep(0.4)
    assert calls.held_count == 1  # 680 - 300 + 100 have come back, 95 a second
    calls.end()
    await asyncio.gather(*tasks)


async def test_call_with_more_tokens_than_the_bucket_holds_goes_and_the_next_ones_wait_for_it() -> None:
    big, small = TokenUsage(output_tokens=9_500), TokenUsage(output_tokens=10)
    calls = Calls(make_governor(tokens_per_minute=6_000), [reply(tokens=big), reply(tokens=small)])

    await calls.run(worst=big)
    await calls.run(worst=small)

    assert gaps(calls.sent_at) == pytest.approx([(9_500 - 300 + 10) / 95], abs=0.1)


@pytest.mark.parametrize(
    ("kind", "paid", "waited_s"),
    [
        pytest.param(FaultKind.MALFORMED, TokenUsage(output_tokens=300), 300 / 95, id="what was paid for counts"),
        pytest.param(FaultKind.MALFORMED, None, 0, id="what was not does not"),
        pytest.param(FaultKind.RATE_LIMIT, None, 1.05, id="nor does a refusal"),
    ],
)
async def test_faults_are_settled_too(kind: FaultKind, paid: TokenUsage | None, waited_s: float) -> None:
    worst = TokenUsage(output_tokens=300)
    calls = Calls(make_governor(tokens_per_minute=6_000), [fault(kind, tokens=paid)])

    await calls.run(worst=worst)

    assert gaps(calls.sent_at) == pytest.approx([waited_s], abs=0.06)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(reply(rate=requests_left(2)), id="an answer"),
        pytest.param(fault(FaultKind.MALFORMED, rate=requests_left(2)), id="a fault"),
        pytest.param(fault(FaultKind.OVERLOADED, rate=requests_left(2)), id="an error of the server"),
    ],
)
async def test_limits_are_learned_from_the_headers_of_any_answer(first: object) -> None:
    """2 of 10 are left and one a second comes back: two go at once, the others at that pace."""
    calls = Calls(make_governor(chance=lambda: 0.0), [first])
    await calls.run()
    done = len(calls.sent)
    await asyncio.gather(*(calls.start() for _ in range(6 - (done - 1))))

    assert gaps(calls.sent_at[-5:]) == pytest.approx([1 / 0.95] * 4, abs=0.02)


async def test_learned_limit_of_tokens_holds_calls_back() -> None:
    rate = RateState(token_limit=1_000, tokens_remaining=100, tokens_reset_s=90)
    calls = Calls(make_governor(), [reply(rate=rate)])
    await calls.run()

    await calls.run(worst=TokenUsage(output_tokens=195))

    assert gaps(calls.sent_at) == pytest.approx([95 / 9.5], abs=0.1)


async def test_what_another_uses_with_the_same_key_is_seen_in_the_headers() -> None:
    calls = Calls(make_governor(), [reply(rate=requests_left(9)), reply(rate=requests_left(0))])
    await calls.run()
    await calls.run()
    await calls.run()

    assert gaps(calls.sent_at) == pytest.approx([0, 1 / 0.95], abs=0.02)


async def test_header_in_whole_seconds_does_not_slow_calls_down() -> None:
    """With little used, a rounded header says that it comes back at a hundredth of its pace."""
    governor = make_governor()
    left = {"level": 4_000.0, "at": now()}

    async def send():
        moment = now()
        left["level"] = min(4_000.0, left["level"] + (moment - left["at"]) * 66) - 1
        left["at"] = moment
        await asyncio.sleep(0.2)
        return reply(rate=requests_left(left["level"], limit=4_000, per_s=66, rounded=True))

    calls = Calls(governor)
    calls._send = lambda _name: send()  # type: ignore[method-assign]
    began, tasks = now(), []
    for _ in range(6_000):  # 20 a second for five minutes
        tasks.append(calls.start())
        await asyncio.sleep(0.05)
    await asyncio.gather(*tasks)

    assert now() - began <= 6_000 * 0.05 + 1


async def test_limit_that_changes_is_followed() -> None:
    calls = Calls(make_governor(), [reply(rate=requests_left(0, limit=10, per_s=0.1))])
    await calls.run()
    calls._answers = [reply(rate=requests_left(50, limit=100, per_s=10))]
    await calls.run()
    assert gaps(calls.sent_at) == pytest.approx([1 / 0.095], abs=0.1)

    await asyncio.gather(*(calls.start() for _ in range(90)))

    assert calls.sent_at[-1] - calls.sent_at[1] == pytest.approx((90 - 50) / 9.5, rel=0.1)


async def test_configured_limit_holds_where_the_server_would_allow_more() -> None:
    generous = reply(rate=requests_left(9_999, limit=10_000, per_s=1_000))
    calls = Calls(make_governor(requests_per_minute=60), [generous] * 100)

    await asyncio.gather(*(calls.start() for _ in range(60)))

    assert calls.sent_at[-1] - calls.sent_at[0] >= 57


async def test_server_that_refuses_although_its_limits_are_not_reached_is_slowed_down_for() -> None:
    """There are limits that no header tells, as of requests under way."""
    calls = Calls(make_governor(), [*[None] * 30, refusal(2, rate=requests_left(9_000, limit=10_000, per_s=1_000))])
    tasks = [calls.start() for _ in range(150)]
    await settled()
    for _ in range(30):
        calls.end()
    await asyncio.gather(*tasks)

    pace = [at - calls.sent_at[32] for at in calls.sent_at[32:]]
    assert pace[30] > 1.5  # some ten a second, as before the refusal, not a thousand


async def test_first_call_that_is_refused_tells_nothing_of_the_pace() -> None:
    """The account was at its limit before we began."""
    calls = Calls(make_governor(), [refusal(10)])

    await asyncio.gather(*(calls.start() for _ in range(100)))

    assert calls.sent_at[-1] - calls.sent_at[0] < 25


WORKERS = pytest.mark.parametrize("start_apart_s", [0.0, 0.05, 0.3], ids=lambda s: f"{s} s apart")


@WORKERS
@pytest.mark.parametrize("latency_s", [0.05, 0.5, 5.0])
async def test_workers_that_share_what_they_learn_keep_to_one_limit(latency_s: float, start_apart_s: float) -> None:
    server = LimitedServer(requests_per_s=20, burst=30, latency_s=latency_s)
    board = Blackboard()
    workers = [make_governors(board.view(), chance=random.Random(number).random) for number in range(3)]

    async def begin(number: int) -> None:
        await asyncio.sleep(number * start_apart_s)
        await all_through(server.send, [workers[number]], 160 // 3 + (number == 0))

    began = now()
    await asyncio.gather(*(begin(number) for number in range(3)))

    assert server.answered_count == 160
    assert server.refused_count <= 15
    assert now() - began <= 1.25 * (160 - 30) / 20 + latency_s
    for each in workers:
        await each.close()


async def test_worker_that_has_nothing_to_do_leaves_its_part_to_the_others() -> None:
    board = Blackboard()
    one, other = (make_governors(board.view(), requests_per_minute=600) for _ in range(2))
    calls, others = Calls(one.of(MODEL)), Calls(other.of(MODEL))
    await asyncio.gather(*(calls.start() for _ in range(200)), others.run())

    alone_s, half_s = 200 / 9.5, 200 / 4.75
    took_s = calls.sent_at[-1] - calls.sent_at[0]
    assert took_s < alone_s + 0.1 * (half_s - alone_s)
    await one.close()
    await other.close()


async def test_workers_are_counted_while_they_have_calls() -> None:
    board = Blackboard()
    workers = [make_governors(board.view()) for _ in range(4)]
    calls = [Calls(each.of(MODEL), HELD) for each in workers]
    tasks = [each.start() for each in calls for _ in range(40)]
    await asyncio.sleep(0.15)

    assert [each.held_count for each in calls] == [8] * 4  # 32 in all
    for task in tasks:
        task.cancel()
    for worker in workers:
        await worker.close()
    assert board.workers == {}


async def test_worker_that_joins_others_does_not_begin_with_a_full_bucket() -> None:
    """They may have taken all there was; its first answer tells what is left."""
    board = Blackboard()
    busy, joining = make_governors(board.view(), max_in_flight=1), make_governors(board.view())
    first = Calls(busy.of(MODEL), [reply(rate=requests_left(29, limit=30, per_s=2)), *HELD])
    tasks = [first.start() for _ in range(3)]
    await asyncio.sleep(1)  # told by now, and one call waits all the time

    calls = Calls(joining.of(MODEL), [None, reply(rate=requests_left(20, limit=30, per_s=2))])
    tasks += [calls.start() for _ in range(5)]
    await asyncio.sleep(1)
    assert len(calls.sent) == 0
    await asyncio.sleep(0.5)
    assert len(calls.sent) == 1
    await asyncio.sleep(1)
    assert len(calls.sent) == 5
    for task in tasks:
        task.cancel()
    await busy.close()
    await joining.close()


async def test_pause_is_told_at_once_and_heard_within_a_second() -> None:
    board = Blackboard()
    one, other = (make_governors(board.view()) for _ in range(2))
    refused, held = Calls(one.of(MODEL), [refusal(60)]), Calls(other.of(MODEL))
    await held.run()
    began = now()
    task = refused.start()
    await asyncio.sleep(1)
    assert board.cooldown_until > began + 60
    await held.run()

    assert held.sent_at[-1] >= began + 60
    await task
    await one.close()
    await other.close()


async def test_exchange_is_twice_a_second_at_most_and_rests_with_the_model() -> None:
    view = Blackboard().view()
    governors = make_governors(view)
    calls = Calls(governors.of(MODEL))
    for _ in range(100):
        await calls.run()
        await asyncio.sleep(0.1)
    assert 15 <= len(view.told) <= 25
    await asyncio.sleep(60)
    count = len(view.told)
    await asyncio.sleep(600)
    assert len(view.told) == count < 40

    await calls.run()
    assert len(view.told) == count + 2
    await governors.close()


async def test_crowd_of_refusals_is_told_once() -> None:
    view = Blackboard().view()
    governors = make_governors(view)
    calls = Calls(governors.of(MODEL), HELD)
    tasks = [calls.start() for _ in range(30)]
    await asyncio.sleep(0.2)
    count = len(view.told)
    for _ in range(30):
        calls.end(refusal(5))
        await asyncio.sleep(0.001)

    assert len(view.told) - count <= 2
    assert max(each.cooldown_s for each in view.told) == pytest.approx(5, abs=0.1)
    for task in tasks:
        task.cancel()
    await governors.close()


async def test_worker_goes_on_alone_while_the_database_fails(caplog: pytest.LogCaptureFixture) -> None:
    view = Blackboard().view()
    view.is_broken = True
    governors = make_governors(view, requests_per_minute=600)
    calls = Calls(governors.of(MODEL))

    await asyncio.gather(*(calls.start() for _ in range(100)))

    assert len(calls.sent) == 100
    assert [each.getMessage().split(":")[0] for each in caplog.records] == ["own"]  # one warning, not one each time
    assert "not shared" in caplog.text
    view.is_broken = False
    await asyncio.gather(*(calls.start() for _ in range(20)))
    assert view.told
    await governors.close()


async def test_database_that_hangs_holds_up_the_first_call_only_and_not_for_long() -> None:
    view = Blackboard().view()
    view.hangs = True
    governors = make_governors(view)
    calls = Calls(governors.of(MODEL))
    began = now()
    await calls.run()
    await calls.run()

    assert calls.sent_at == pytest.approx([began + 2, began + 2], abs=0.1)
    await governors.close()
