import asyncio
import threading

import pytest

from services.retrieval.request_gate import RequestGate


async def test_requests_run_one_after_the_other():
    gate = RequestGate(spacing_s=0)
    under_way: list[int] = []
    most: list[int] = []

    def request(number: int) -> int:
        under_way.append(number)
        most.append(len(under_way))
        under_way.remove(number)
        return number

    answers = await asyncio.gather(*(gate.run(lambda number=number: request(number)) for number in range(20)))

    assert answers == list(range(20))
    assert set(most) == {1}


async def test_request_under_way_keeps_its_turn_when_its_caller_is_gone():
    """Otherwise a second request would start beside it, which arXiv's terms forbid."""
    gate = RequestGate(spacing_s=0)
    begun, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        begun.set()
        may_end.wait(10)
        order.append("first")

    caller = asyncio.create_task(gate.run(first))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    next_one = asyncio.create_task(gate.run(lambda: order.append("second")))
    await asyncio.sleep(0)
    may_end.set()
    await next_one

    assert order == ["first", "second"]


async def test_caller_that_gives_up_waiting_frees_its_place():
    gate = RequestGate(spacing_s=3_600)
    await gate.run(lambda: None)

    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await gate.run(lambda: pytest.fail("the pause is not over"))


async def test_failure_reaches_the_caller_and_frees_the_gate():
    gate = RequestGate(spacing_s=0)

    with pytest.raises(ZeroDivisionError):
        await gate.run(lambda: 1 // 0)

    assert await gate.run(lambda: "next") == "next"
