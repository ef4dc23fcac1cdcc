"""Places shared by parties: nobody waits behind those who have more."""

import asyncio
import random
from collections import Counter

import pytest

from services.common.places import NoPlace, Places


class Users:
    """Tasks that take places and hold them until they are told."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.holding: list[str] = []
        """Who got a place, in order."""
        self.refused: list[str] = []
        self._done: dict[str, list[asyncio.Event]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *parties: str) -> None:
        """Let users come one after the other, each as far as it gets by itself."""
        for party in parties:
            self.tasks.append(asyncio.create_task(self._use(party)))
            await settled()

    async def end(self, party: str) -> None:
        """Let the user of a party that came first give its place back."""
        self._done[party].pop(0).set()
        await settled()

    async def _use(self, party: str) -> None:
        try:
            await self.places.take(party)
        except NoPlace:
            self.refused.append(party)
            return
        done = asyncio.Event()
        self.holding.append(party)
        self._done.setdefault(party, []).append(done)
        try:
            await done.wait()
        finally:
            self.places.leave(party)


async def settled() -> None:
    for _ in range(5):  # turns of the loop: all that follows by itself has happened
        await asyncio.sleep(0)


async def test_a_place_that_becomes_free_goes_to_who_holds_fewest():
    """The one that came last and wants little does not wait for the one that wants much."""
    users = Users(Places(2))
    await users.come(*["large"] * 6, "small", "small")
    for _ in range(3):
        await users.end("large")

    assert users.holding == ["large", "large", "small", "large", "large"]


async def test_with_one_place_parties_take_turns():
    users = Users(Places(1))
    await users.come("large", "large", "large", "small", "small")
    for party in ("large", "large", "small", "large"):
        await users.end(party)

    assert users.holding == ["large", "large", "small", "large", "small"]


async def test_within_a_party_the_first_goes_first():
    places = Places(1)
    await places.take("a")
    order: list[int] = []

    async def wait(number: int) -> None:
        await places.take("a")
        order.append(number)
        places.leave("a")

    waiting = [asyncio.create_task(wait(number)) for number in range(5)]
    await settled()
    places.leave("a")
    await asyncio.gather(*waiting)

    assert order == [0, 1, 2, 3, 4]


async def test_a_party_holds_no_more_than_its_part_and_is_passed_by():
    users = Users(Places(3, most_each=2))
    await users.come("a", "a", "a", "b")

    assert users.holding == ["a", "a", "b"]
    assert users.places.waiting_count == 1


async def test_a_full_line_refuses():
    users = Users(Places(1, most_waiting=2))
    await users.come("a", "a", "a", "a")

    assert users.refused == ["a"]


async def test_a_full_line_makes_room_for_who_has_less():
    """Else a survey whose next paper always comes first would keep all others out."""
    users = Users(Places(1, most_waiting=2))
    await users.come("a", "a", "a", "b")

    assert users.refused == ["a"]
    assert users.places.waiting_count == 2
    await users.end("a")
    await users.end("a")
    assert users.holding == ["a", "a", "b"]


async def test_two_parties_with_as_much_do_not_send_each_other_away():
    users = Users(Places(2, most_waiting=2))
    await users.come("a", "b", "a", "b", "b", "a")

    assert users.refused == ["b", "a"]


async def test_more_places_let_more_go_and_fewer_are_not_taken_away():
    users = Users(Places(1))
    await users.come("a", "a", "a")
    users.places.resize(2)
    await settled()
    assert len(users.holding) == 2

    users.places.resize(0)
    await users.end("a")
    assert (users.places.held_count, users.places.waiting_count) == (1, 1)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_no_place_is_lost_and_none_is_given_twice(seed: int):
    chance = random.Random(seed)
    places = Places(3, most_each=2, most_waiting=6)
    most, under_way = 0, Counter[str]()

    async def use(party: str) -> None:
        nonlocal most
        try:
            await places.take(party)
        except NoPlace:
            return
        under_way[party] += 1
        most = max(most, under_way.total())
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            under_way[party] -= 1
            places.leave(party)

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.create_task(use(chance.choice("abcd"))))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)

    assert most == 3
    assert (places.held_count, places.waiting_count) == (0, 0)
