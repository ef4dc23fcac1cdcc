"""What a database was asked of late: never too old, and few questions however many ask."""

import asyncio
from collections.abc import Sequence

import pytest
from virtual_time import VirtualTime

from gateway.access import recent
from gateway.access.recent import SPACING_S, Recent
from services.common.errors import UpstreamFailed

MAX_AGE_S = 4.0


class Table:
    """Values that are read together; it counts the readings, and fails or is slow when it is told to."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.readings: list[list[str]] = []
        self.is_away = False
        self.reading_s = 0.0

    async def read(self, keys: Sequence[str]) -> dict[str, str]:
        self.readings.append(list(keys))
        found = {key: self.values[key] for key in keys if key in self.values}
        await asyncio.sleep(self.reading_s)
        if self.is_away:
            raise UpstreamFailed("the table", "is away", retry_after_s=1)
        return found

    def recent(self) -> "Recent[str]":
        return Recent(self.read, max_age_s=MAX_AGE_S, unknown_age_s=60.0)


async def test_who_asks_at_the_same_time_shares_one_reading(clock: VirtualTime):
    table = Table(a="1", b="2")
    mine = table.recent()

    found = await asyncio.gather(*(mine.get(key) for key in "abcabcabc"))

    assert found == ["1", "2", None] * 3
    assert table.readings == [["a", "b", "c"]]


async def test_a_value_is_never_older_than_it_may_be(clock: VirtualTime):
    """A revoked token must be refused 5 s later, whenever it was read and however slow reading is."""
    table = Table(a="good")
    table.reading_s = 0.5
    mine = table.recent()
    changed_at = 0.0
    for step in range(400):
        if step == 123:
            table.values["a"], changed_at = "revoked", clock.now
        value = await mine.get("a")
        if changed_at and clock.now - changed_at > MAX_AGE_S:
            assert value == "revoked"
        await asyncio.sleep(0.05)

    assert changed_at


async def test_what_is_in_use_is_read_ahead_of_time_and_nobody_waits(clock: VirtualTime):
    table = Table(a="1")
    table.reading_s = 1.0
    mine = table.recent()
    await mine.get("a")
    waits = []
    for _ in range(100):
        asked_at = clock.now
        await mine.get("a")
        waits.append(clock.now - asked_at)
        await asyncio.sleep(0.1)

    assert max(waits) == 0
    assert len(table.readings) < 8


async def test_guesses_do_not_make_a_reading_each(clock: VirtualTime):
    """Somebody who tries secrets, all different and one after the other, must not load the database."""
    table = Table(a="1")
    mine = table.recent()
    began_at = clock.now

    async def guess(name: str) -> None:
        for number in range(20):
            assert await mine.get(f"{name}-{number}") is None

    await asyncio.gather(*(guess(str(number)) for number in range(200)))

    assert sum(map(len, table.readings)) == 4_000
    assert len(table.readings) <= (clock.now - began_at) / SPACING_S + 1.5
    assert len(table.readings) <= 200


async def test_a_key_that_is_unknown_is_not_asked_for_again(clock: VirtualTime):
    table = Table()
    mine = table.recent()
    for _ in range(50):
        assert await mine.get("a") is None
        await asyncio.sleep(1)

    assert len(table.readings) == 1


async def test_unknown_keys_are_bounded_and_push_no_known_one_out(clock: VirtualTime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recent, "MAX_ENTRIES", 50)
    table = Table(a="1")
    mine = table.recent()
    await mine.get("a")
    await asyncio.gather(*(mine.get(f"guess-{number}") for number in range(1_000)))
    table.readings.clear()

    assert await mine.get("a") == "1"
    assert table.readings == []
    assert len(mine._unknown) == 50


async def test_known_keys_are_bounded(clock: VirtualTime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recent, "MAX_ENTRIES", 50)
    table = Table(**{f"key{number}": str(number) for number in range(200)})
    mine = table.recent()

    assert await asyncio.gather(*map(mine.get, table.values)) == list(table.values.values())
    assert len(mine._known) == 50


async def test_a_failure_reaches_all_who_wait_and_is_not_remembered(clock: VirtualTime):
    table = Table(a="1")
    table.is_away = True
    mine = table.recent()

    failures = await asyncio.gather(*(mine.get(key) for key in "aab"), return_exceptions=True)
    table.is_away = False

    assert [type(failure) for failure in failures] == [UpstreamFailed] * 3
    assert await mine.get("a") == "1"


async def test_a_table_that_is_away_for_a_moment_is_not_noticed(clock: VirtualTime):
    """What is read ahead of time and fails is tried again as long as the value may still be used."""
    table = Table(a="1")
    mine = table.recent()
    await mine.get("a")
    await asyncio.sleep(MAX_AGE_S * 0.6)
    table.is_away = True
    assert await mine.get("a") == "1"
    await asyncio.sleep(MAX_AGE_S * 0.2)
    assert await mine.get("a") == "1"
    table.is_away = False
    await asyncio.sleep(MAX_AGE_S * 0.1)
    assert await mine.get("a") == "1"
    await asyncio.sleep(MAX_AGE_S * 0.3)

    assert await mine.get("a") == "1"


async def test_what_is_forgotten_is_read_again_even_when_a_reading_is_under_way(clock: VirtualTime):
    table = Table(a="before")
    table.reading_s = 1.0
    mine = table.recent()
    first = asyncio.ensure_future(mine.get("a"))
    await asyncio.sleep(0.5)
    table.values["a"] = "after"
    mine.forget()

    assert await first == "before"
    assert await mine.get("a") == "after"


async def test_who_gives_up_waiting_takes_nothing_from_the_others(clock: VirtualTime):
    table = Table(a="1")
    table.reading_s = 1.0
    mine = table.recent()
    impatient, patient = (asyncio.ensure_future(mine.get("a")) for _ in range(2))
    await asyncio.sleep(0.5)
    impatient.cancel()

    assert await patient == "1"


async def test_closing_lets_nobody_wait_forever(clock: VirtualTime):
    table = Table(a="1")
    table.reading_s = 1_000.0
    mine = table.recent()
    waiting = [asyncio.ensure_future(mine.get(key)) for key in "ab"]
    await asyncio.sleep(0.5)
    waiting.append(asyncio.ensure_future(mine.get("c")))
    await asyncio.sleep(0.5)

    await mine.close()

    async with asyncio.timeout(5):
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
