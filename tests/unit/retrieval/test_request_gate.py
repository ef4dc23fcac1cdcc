"""The gate, on SQLite and on PostgreSQL. Time passes by moving what the store remembers into the past."""

import asyncio
import threading
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import select, update

from services.common.database import Database
from services.retrieval import request_gate
from services.retrieval.arxiv_client import Fault, PageUnreadable
from services.retrieval.request_gate import Place, QueueWait, RequestGate
from services.retrieval.store import open_store
from services.retrieval.tables import gate as gates
from services.retrieval.tables import ticket as tickets

HOUR_S = 3_600.0


@pytest.fixture
async def make_gate(shared):
    """Makes a gate as each replica has one: over connections of its own to the same store."""
    async with AsyncExitStack() as stack:

        def make(*, spacing_s: float = 0.0, cooldown_s: float = 0.0) -> RequestGate:
            store = open_store(shared)
            stack.push_async_callback(store.close)
            made = RequestGate(store, spacing_s=spacing_s, cooldown_s=cooldown_s, chance=lambda: 0.5)
            stack.push_async_callback(made.close)
            return made

        yield make


async def nothing(_answer: object) -> None:
    pass


async def turn(place: Place) -> None:
    """Wait for the turn."""
    while wait := await place.wait():
        await asyncio.sleep(wait.poll_s)


async def answered(gate: RequestGate, answer: str = "page") -> str:
    async with gate.place() as place:
        await turn(place)
        return await place.run(lambda: answer, nothing)


async def refused(gate: RequestGate, error: Exception) -> None:
    def refuse():
        raise error

    async with gate.place() as place:
        await turn(place)
        with pytest.raises(type(error)):
            await place.run(refuse, nothing)


async def look(gate: RequestGate) -> QueueWait | None:
    async with gate.place() as place:
        return await place.wait()


async def let_pass(store: Database, seconds: float) -> None:
    def move(connection):
        for table, names in (
            (gates, ("lease_until", "next_start_at", "cooldown_until")),
            (tickets, ("lease_until",)),
        ):
            connection.execute(update(table).values({name: table.c[name] - seconds for name in names}))

    await store.run(move)


async def test_spacing_counts_for_all_replicas(make_gate, store):
    one, other = make_gate(spacing_s=HOUR_S), make_gate(spacing_s=HOUR_S)
    await answered(one)

    wait = await look(other)

    assert wait
    assert HOUR_S - 60 < wait.expected_s <= HOUR_S
    assert (wait.position, wait.cooldown_s, wait.poll_s) == (1, 0, 1)
    await let_pass(store, HOUR_S)
    assert await look(other) is None


async def test_spacing_counts_from_the_answer(make_gate, store):
    """The moment of sending does not tell when a request arrives; the answer comes after it for sure."""
    gate = make_gate(spacing_s=HOUR_S)

    async with gate.place() as place:
        await turn(place)

        async def keep(_answer: object) -> None:
            await let_pass(store, HOUR_S)  # nothing that was noted when the turn began counts any more

        await place.run(lambda: "page", keep)

    wait = await look(gate)
    assert wait
    assert wait.expected_s > HOUR_S - 60


async def test_one_request_at_a_time(make_gate):
    one, other = make_gate(), make_gate()
    begun, may_end = threading.Event(), threading.Event()

    def request():
        begun.set()
        may_end.wait(20)

    first = asyncio.create_task(answered_with(one, request))
    await asyncio.to_thread(begun.wait, 20)

    assert await look(other) is not None
    may_end.set()
    await first
    assert await look(other) is None


async def answered_with(gate: RequestGate, request, keep=nothing):
    async with gate.place() as place:
        await turn(place)
        return await place.run(request, keep)


async def test_answer_is_kept_before_the_next_may_ask(make_gate):
    """Who waits for the same page finds it in the cache as soon as it has the turn."""
    gate, other = make_gate(), make_gate()
    seen = []

    async def keep(_answer: object) -> None:
        seen.append(await look(other))

    await answered_with(gate, lambda: "page", keep)

    assert [wait is not None for wait in seen] == [True]


async def test_turns_come_in_the_order_of_arrival(make_gate, store):
    gates_of = [make_gate(spacing_s=5), make_gate(spacing_s=5)]
    await answered(gates_of[0])
    async with AsyncExitStack() as stack:
        places = [await stack.enter_async_context(gates_of[number % 2].place()) for number in range(4)]
        waits = [await place.wait() for place in places]
        assert [wait.position for wait in waits] == [1, 2, 3, 4]
        assert [round(wait.expected_s / 5) for wait in waits] == [1, 2, 3, 4]

        await let_pass(store, 5)
        await asyncio.gather(*(place.wait() for place in places[1:]))

        assert [await place.wait() is None for place in reversed(places)] == [False, False, False, True]


async def test_who_leaves_frees_its_place(make_gate):
    gate = make_gate(spacing_s=HOUR_S)
    await answered(gate)

    async with gate.place() as first, gate.place() as second:
        await first.wait()
        assert (await second.wait()).position == 2
        await first.__aexit__(None, None, None)
        assert (await second.wait()).position == 1


async def test_turn_that_is_not_used_costs_the_others_nothing(make_gate):
    gate = make_gate(spacing_s=HOUR_S)

    assert await look(gate) is None
    assert await look(gate) is None


async def test_dead_process_loses_its_place_and_its_turn(make_gate, store):
    """Of a killed process nothing is heard any more: after its lease, and the spacing, the next one may ask."""
    dead, alive = make_gate(spacing_s=3), make_gate(spacing_s=3)
    holder, waiter = dead.place(), dead.place()
    assert await holder.wait() is None
    assert await waiter.wait()

    async with alive.place() as place:
        assert (await place.wait()).position == 2
        await let_pass(store, request_gate.LEASE_S + 1)
        assert (await place.wait()).position == 1
        await let_pass(store, 3)
        assert await place.wait() is None


async def test_turn_is_renewed_while_a_request_lasts(make_gate, store, monkeypatch):
    monkeypatch.setattr(request_gate, "LEASE_S", 1.5)
    gate = make_gate()
    may_end = threading.Event()
    begun = asyncio.create_task(answered_with(gate, lambda: may_end.wait(60)))

    async def lease() -> float:
        query = select(gates.c.lease_until)
        return await store.run(lambda connection: connection.execute(query).scalar() or 0.0)

    leases = {await lease()}
    while len(leases) < 4:  # 0 before the turn, then one at its beginning and one for each renewal
        assert not begun.done(), begun
        leases.add(await lease())
    may_end.set()
    await begun


async def test_turn_that_was_slept_through_is_not_used(make_gate, monkeypatch):
    """A laptop that wakes up must not ask beside the one that has the turn by now."""
    gate = make_gate()
    async with gate.place() as place:
        await turn(place)
        monkeypatch.setattr(request_gate, "LEASE_S", -1.0)
        with pytest.raises(PageUnreadable, match="lost its turn"):
            await place.run(lambda: pytest.fail("the turn is over"), nothing)


def throttled(retry_after_s: float = 0) -> PageUnreadable:
    return PageUnreadable("429", fault=Fault.THROTTLED, retry_after_s=retry_after_s)


async def cooldown(gate: RequestGate) -> float:
    wait = await look(gate)
    return round(wait.cooldown_s, -1) if wait else 0


async def test_cooldown_doubles_is_shared_and_ends_with_an_answer(make_gate, store):
    one, other = make_gate(cooldown_s=100), make_gate(cooldown_s=100)
    pauses = []
    for gate in (one, other, one, other):
        await refused(gate, throttled())
        pauses.append(await cooldown(other))
        await let_pass(store, HOUR_S)
    assert pauses == [100, 200, 300, 300]  # at most five minutes

    await answered(one)
    await refused(other, throttled())

    assert await cooldown(one) == 100


async def test_pause_that_arxiv_asks_for_is_kept(make_gate):
    gate = make_gate(cooldown_s=1)

    await refused(gate, throttled(retry_after_s=1_000))

    assert await cooldown(gate) == 1_000


async def test_jitter_spreads_cooldowns(store):
    def pause_s(chance: float) -> float:
        return RequestGate(store, spacing_s=0, cooldown_s=100, chance=lambda: chance)._pause_s(0)

    assert [pause_s(chance) for chance in (0.0, 0.5, 1.0)] == [75, 100, 125]
    await store.run(lambda connection: None)


@pytest.mark.parametrize(
    "error",
    [PageUnreadable("cut", fault=Fault.BROKEN), PageUnreadable("no", fault=Fault.REFUSED), ZeroDivisionError()],
    ids=["broken", "refused", "bug"],
)
async def test_other_failures_free_the_gate_without_a_cooldown(make_gate, error):
    gate = make_gate(cooldown_s=HOUR_S)

    await refused(gate, error)

    assert await answered(gate, "next") == "next"


async def test_request_that_has_begun_outlives_its_caller(make_gate):
    """The next one may not start beside it, and its answer is kept all the same."""
    gate = make_gate()
    begun, may_end, kept = threading.Event(), threading.Event(), []

    def request():
        begun.set()
        may_end.wait(20)
        return "page"

    async def keep(answer: str) -> None:
        kept.append(answer)

    caller = asyncio.create_task(answered_with(gate, request, keep))
    await asyncio.to_thread(begun.wait, 20)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await look(gate) is not None

    may_end.set()
    assert await answered(gate, "next") == "next"
    assert kept == ["page"]


async def test_closing_gives_the_turn_back(make_gate):
    closing, other = make_gate(), make_gate()
    begun, may_end = threading.Event(), threading.Event()

    def request():
        begun.set()
        may_end.wait(20)

    caller = asyncio.create_task(answered_with(closing, request))
    await asyncio.to_thread(begun.wait, 20)
    await closing.close()

    assert await look(other) is None
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_clock_that_was_put_back_blocks_nobody_for_long(make_gate, store):
    gate = make_gate(spacing_s=3)
    await answered(gate)
    await let_pass(store, -HOUR_S)  # what was noted now lies an hour ahead

    wait = await look(gate)

    assert wait is None or wait.expected_s <= 3
