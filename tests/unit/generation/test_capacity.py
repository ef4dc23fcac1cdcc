"""What a full worker tells of when it will have a place."""

import asyncio

import pytest
from telemetered import telemetered

from services.common.errors import Overloaded
from services.generation.capacity import FIRST_GUESS_S, MOST_RETRY_S, Capacity


class Worker:
    """A capacity on a clock that the test moves."""

    def __init__(self, most: int) -> None:
        self.now = 100.0
        self.capacity = Capacity(most, lambda: self.now)
        self._ends: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, count: int = 1) -> None:
        """Begin papers, or let them wait, and see each as far as it gets by itself."""
        for _ in range(count):
            end = asyncio.Event()
            self._ends.append(end)
            self._tasks.append(asyncio.create_task(self._work(end)))
            await asyncio.sleep(0)

    async def end(self) -> None:
        """End the oldest paper."""
        self._ends.pop(0).set()
        await self._tasks.pop(0)
        await asyncio.sleep(0)

    async def told_s(self) -> float:
        """Return what a paper is told that finds no place."""
        with pytest.raises(Overloaded) as refused:
            async with self.capacity.place("s"):
                pass
        return refused.value.retry_after_s

    async def _work(self, end: asyncio.Event) -> None:
        async with self.capacity.place("s"):
            await end.wait()


async def test_before_any_paper_was_seen_a_guess_is_told():
    worker = Worker(1)
    await worker.begin()

    assert await worker.told_s() == FIRST_GUESS_S


async def test_papers_that_began_together_end_together():
    """The mean time between two ends would be too short for all of them."""
    worker = Worker(4)
    await worker.begin()
    worker.now += 8.0
    await worker.end()
    await worker.begin(6)
    worker.now += 3.0

    assert await worker.told_s() == pytest.approx(5.0)


async def test_places_of_papers_that_began_one_after_the_other_are_free_one_after_the_other():
    worker = Worker(4)
    await worker.begin()
    worker.now += 8.0
    await worker.end()
    for _ in range(4):
        worker.now += 2.0
        await worker.begin()
    await worker.begin(2)

    assert await worker.told_s() == pytest.approx(2.0)


async def test_recent_papers_tell_more_than_early_ones():
    worker = Worker(1)
    for seconds in (1.0, *[6.0] * 50):
        await worker.begin()
        worker.now += seconds
        await worker.end()
    await worker.begin()

    assert await worker.told_s() == pytest.approx(6.0, rel=0.05)


async def test_nobody_is_sent_away_for_long():
    """A new worker may come meanwhile."""
    worker = Worker(1)
    await worker.begin()
    worker.now += 500.0
    await worker.end()
    await worker.begin()

    assert await worker.told_s() == MOST_RETRY_S


async def test_a_paper_that_is_overdue_may_end_at_any_moment():
    worker = Worker(4)
    await worker.begin(6)
    worker.now += 60.0

    assert 0 < await worker.told_s() <= FIRST_GUESS_S / 4


async def test_papers_in_hand_are_told_and_those_that_wait_are_not():
    with telemetered() as seen:
        worker = Worker(2)
        await worker.begin(3)
        in_hand = seen.sums("paperroute.summaries.in_flight")
        await worker.end()
        await worker.end()
        await worker.end()

        assert in_hand == {(): 2}
        assert seen.sums("paperroute.summaries.in_flight") == {(): 0}
