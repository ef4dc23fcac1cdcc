"""What workers share, in SQLite and in PostgreSQL. Time passes by moving what the tables remember into the past."""

import asyncio

import pytest
from governed import Calls, make_governors, refusal, reply, requests_left
from ledgers import Ledgers
from sqlalchemy import MetaData, update

from services.common.errors import NotReady
from services.common.paid import shared_limits
from services.common.paid.bucket import Limit
from services.common.paid.faults import FaultKind, ProviderFault
from services.common.paid.ledger_schema import ledger_database
from services.common.paid.limit_tables import limit_table, worker_table
from services.common.paid.shared_limits import Shared, SharedLimits, Told
from services.common.settings import SharedSettings

MODEL = "own:model"
NOTHING = Told()
LIMIT, OTHER_LIMIT = Limit(size=30, per_s=20), Limit(size=100_000, per_s=1_500.5)


def shared_limits_of(ledgers: Ledgers, owner: str = "generation") -> SharedLimits:
    return SharedLimits(ledgers.database(owner), owner)


async def let_pass(ledgers: Ledgers, seconds: float) -> None:
    limits, workers = limit_table("generation", MetaData()), worker_table("generation", MetaData())

    def move(connection):
        for table, names in ((limits, ("cooldown_until", "updated_at")), (workers, ("seen_at",))):
            connection.execute(update(table).values({name: table.c[name] - seconds for name in names}))

    await ledgers.database().run(move)


async def test_worker_that_is_alone_finds_nothing(ledgers: Ledgers) -> None:
    found = await shared_limits_of(ledgers).exchange(MODEL, NOTHING)

    assert found == Shared(cooldown_s=0, requests=None, tokens=None, worker_count=1)


async def test_what_one_tells_the_others_hear(ledgers: Ledgers) -> None:
    one, other = shared_limits_of(ledgers), shared_limits_of(ledgers)
    await one.exchange(MODEL, Told(cooldown_s=50, requests=LIMIT, tokens=OTHER_LIMIT))

    found = await other.exchange(MODEL, NOTHING)

    assert 40 < found.cooldown_s <= 50
    assert (found.requests, found.tokens, found.worker_count) == (LIMIT, OTHER_LIMIT, 2)


async def test_models_and_owners_do_not_mix(ledgers: Ledgers) -> None:
    await shared_limits_of(ledgers).exchange(MODEL, Told(cooldown_s=50, requests=LIMIT))
    nothing = Shared(cooldown_s=0, requests=None, tokens=None, worker_count=1)

    assert await shared_limits_of(ledgers).exchange("own:other", NOTHING) == nothing
    assert await shared_limits_of(ledgers, "embedding").exchange(MODEL, NOTHING) == nothing


async def test_longest_cooldown_counts_and_ends(ledgers: Ledgers) -> None:
    one, other = shared_limits_of(ledgers), shared_limits_of(ledgers)
    for seconds in (20, 60, 5, 0):
        found = await one.exchange(MODEL, Told(cooldown_s=seconds))
    assert 50 < found.cooldown_s <= 60
    await let_pass(ledgers, 61)

    assert (await other.exchange(MODEL, NOTHING)).cooldown_s == 0


async def test_clock_that_was_put_back_pauses_nobody_for_long(ledgers: Ledgers) -> None:
    limits = shared_limits_of(ledgers)
    await limits.exchange(MODEL, Told(cooldown_s=100))
    await let_pass(ledgers, -3_600)  # what was noted now lies an hour ahead

    assert (await limits.exchange(MODEL, NOTHING)).cooldown_s == 0
    assert (await limits.exchange(MODEL, Told(cooldown_s=10))).cooldown_s == pytest.approx(10, abs=3)


async def test_limits_are_kept_one_by_one_and_forgotten_when_nobody_notes_them_any_more(ledgers: Ledgers) -> None:
    limits = shared_limits_of(ledgers)
    await limits.exchange(MODEL, Told(requests=LIMIT))
    found = await limits.exchange(MODEL, Told(tokens=OTHER_LIMIT))
    assert (found.requests, found.tokens) == (LIMIT, OTHER_LIMIT)
    await let_pass(ledgers, shared_limits.KNOWN_S + 1)

    found = await limits.exchange(MODEL, NOTHING)

    assert (found.requests, found.tokens) == (None, None)


async def test_workers_are_counted_while_they_live_and_have_calls(ledgers: Ledgers) -> None:
    workers = [shared_limits_of(ledgers) for _ in range(4)]
    counts = [(await each.exchange(MODEL, NOTHING)).worker_count for each in workers]
    assert counts == [1, 2, 3, 4]
    assert (await workers[0].exchange(MODEL, NOTHING)).worker_count == 4

    assert (await workers[3].exchange(MODEL, Told(is_active=False))).worker_count == 4  # itself included
    assert (await workers[0].exchange(MODEL, NOTHING)).worker_count == 3
    await workers[2].leave()
    assert (await workers[0].exchange(MODEL, NOTHING)).worker_count == 2
    await let_pass(ledgers, shared_limits.ALIVE_S)  # nothing was heard of the others since
    assert (await workers[0].exchange(MODEL, NOTHING)).worker_count == 1


async def test_rows_of_the_dead_are_removed(ledgers: Ledgers) -> None:
    for _ in range(3):
        await shared_limits_of(ledgers).exchange(MODEL, NOTHING)
    await let_pass(ledgers, shared_limits.FORGOTTEN_S + 1)
    await shared_limits_of(ledgers).exchange(MODEL, NOTHING)

    assert [row["n"] for row in await ledgers.sql("SELECT count(*) AS n FROM generation_worker")] == [1]


async def test_many_workers_at_once_do_not_get_in_each_other_s_way(ledgers: Ledgers) -> None:
    workers = [shared_limits_of(ledgers) for _ in range(5)]

    found = await asyncio.gather(
        *(each.exchange(model, Told(requests=LIMIT)) for _ in range(4) for each in workers for model in ("a:b", "c:d"))
    )

    assert max(each.worker_count for each in found) == 5


async def test_pause_reaches_the_governors_of_another_process(ledgers: Ledgers) -> None:
    one, other = (make_governors(shared_limits_of(ledgers)) for _ in range(2))
    refused = Calls(one.of(MODEL), [refusal(60)])
    with pytest.raises(ProviderFault):
        await refused.run(seconds=5)
    await one.close()  # what it had to tell is told

    waiting = Calls(other.of(MODEL))
    with pytest.raises(ProviderFault, match="pause") as failure:
        await waiting.run(seconds=20)

    assert failure.value.kind is FaultKind.TIMEOUT
    assert waiting.sent == []
    await other.close()


async def test_learned_limits_reach_the_governors_of_another_process(ledgers: Ledgers) -> None:
    one, other = (make_governors(shared_limits_of(ledgers)) for _ in range(2))
    slow = requests_left(1, limit=2, per_s=0.001)
    await Calls(one.of(MODEL), [reply(rate=slow)]).run()
    observer = shared_limits_of(ledgers)
    while (await observer.exchange(MODEL, Told(is_active=False))).requests is None:
        pass
    await one.close()

    calls = Calls(other.of(MODEL))
    tasks = [calls.start(seconds=1.5) for _ in range(3)]
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert len(calls.sent) == 2  # as many as the limit lets go at once
    assert "the limit of requests" in str(ended[2])
    await other.close()


async def test_limits_are_divided_by_the_workers_of_all_processes(ledgers: Ledgers) -> None:
    """80 requests a minute let four go at once: two of each."""
    workers = [make_governors(shared_limits_of(ledgers), requests_per_minute=80) for _ in range(2)]
    calls = [Calls(each.of(MODEL)) for each in workers]

    tasks = [each.start(seconds=1.2) for _ in range(4) for each in calls]
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert [len(each.sent) for each in calls] == [2, 2]
    assert sum("the limit of requests" in str(each) for each in ended) == 4
    for worker in workers:
        await worker.close()


async def test_governor_goes_on_when_the_database_cannot_be_opened(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    database = ledger_database(SharedSettings(data_dir=tmp_path / "data"), "generation")
    with pytest.raises(NotReady):
        await SharedLimits(database, "generation").exchange(MODEL, NOTHING)
    governors = make_governors(SharedLimits(database, "generation"))
    calls = Calls(governors.of(MODEL))

    await asyncio.gather(*(calls.start() for _ in range(10)))

    assert len(calls.sent) == 10
    assert "not shared" in caplog.text
    await governors.close()
    await database.close()
