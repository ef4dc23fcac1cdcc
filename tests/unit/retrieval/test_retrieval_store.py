import asyncio
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update

from services.common.database import Database, clock_s, database_url
from services.common.errors import NotReady, UpstreamFailed
from services.common.settings import SettingsError, SharedSettings
from services.retrieval.store import FILE, open_store
from services.retrieval.tables import gate, schema


async def names_in(store: Database) -> list[str]:
    return await store.run(lambda connection: list(connection.execute(select(gate.c.name)).scalars()))


async def add(store: Database, name: str) -> None:
    await store.run(lambda connection: connection.execute(insert(gate).values(name=name)))


async def test_clock_is_the_database_s_and_goes_on_within_a_transaction(store):
    """A transaction may wait for a lock; what it then takes for now must not be when it began to wait."""

    def clocks(connection):
        first = clock_s(connection)
        while (second := clock_s(connection)) == first:
            pass
        return first, second

    first, second = await store.run(clocks)

    assert second > first > 1_700_000_000


async def test_what_one_wrote_another_reads(shared, store):
    await add(store, "a")
    other = open_store(shared)

    assert await names_in(other) == ["a"]
    await other.close()


async def test_many_may_open_an_empty_store_at_once(shared):
    stores = [open_store(shared) for _ in range(6)]

    await asyncio.gather(*(add(each, f"gate {number}") for number, each in enumerate(stores)))

    assert len(await names_in(stores[0])) == 6
    for each in stores:
        await each.close()


async def test_a_file_that_another_is_just_making_is_waited_for(tmp_path):
    """SQLite refuses at once to switch a file to its log while another writes to it: two roles may start at once."""
    first = sqlite3.connect(tmp_path / FILE, isolation_level=None, check_same_thread=False)
    first.execute("CREATE TABLE other (x)")
    first.execute("BEGIN IMMEDIATE")
    store = open_store(SharedSettings(data_dir=tmp_path))
    opening = asyncio.create_task(add(store, "a"))
    done, _ = await asyncio.wait([opening], timeout=0.3)
    assert not done
    first.execute("COMMIT")

    await opening

    assert await names_in(store) == ["a"]
    await store.close()
    first.close()


async def test_transactions_that_change_one_row_do_not_lose_a_change(shared):
    """A read and the write that follows from it are one."""
    stores = [open_store(shared) for _ in range(3)]
    await add(stores[0], "counter")

    def count(connection):
        query = select(gate.c.last_number).where(gate.c.name == "counter").with_for_update()
        number = connection.execute(query).scalar_one()
        connection.execute(update(gate).values(last_number=number + 1))

    await asyncio.gather(*(each.run(count) for each in stores for _ in range(10)))

    assert await stores[0].run(lambda connection: connection.execute(select(gate.c.last_number)).scalar_one()) == 30
    for each in stores:
        await each.close()


async def test_failure_undoes_the_transaction(store):
    def half(connection):
        connection.execute(insert(gate).values(name="half"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.run(half)

    assert await names_in(store) == []


async def test_database_error_is_told_without_its_address(store):
    with pytest.raises(UpstreamFailed) as failure:
        await store.run(lambda connection: connection.execute(text("SELECT * FROM nowhere")))

    assert "retrieval store" in failure.value.message
    assert "nowhere" not in failure.value.message


async def test_tables_of_another_version_are_made_anew(shared, store):
    """It is a cache: nothing in it is worth a migration."""
    await add(store, "old")
    await store.run(lambda connection: connection.execute(update(schema).values(version=-1)))

    other = open_store(shared)

    assert await names_in(other) == []
    await add(other, "new")
    await other.close()


async def test_cancelled_caller_waits_for_its_transaction(store):
    """What the caller does next, such as giving a turn back, finds the transaction done."""
    begun, may_end = threading.Event(), threading.Event()

    def slowly(connection):
        connection.execute(insert(gate).values(name="slow"))
        begun.set()
        may_end.wait(10)

    caller = asyncio.create_task(store.run(slowly))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await names_in(store) == ["slow"]


async def test_file_is_for_its_owner_only(tmp_path):
    shared = SharedSettings(data_dir=tmp_path / "a?b%20c" / "data")
    store = open_store(shared)
    await add(store, "a")

    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in shared.data_dir.iterdir()}

    assert found == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}
    await store.close()


@pytest.mark.parametrize(
    "shared",
    [
        pytest.param(SharedSettings(data_dir=Path("/proc/no")), id="no folder"),
        pytest.param(SharedSettings(database_url="postgresql://u:secret@127.0.0.1:1/d"), id="no server"),
    ],
)
async def test_store_that_cannot_be_opened_says_what_to_do(shared):
    store = open_store(shared)

    with pytest.raises(NotReady, match="PAPERROUTE_DATA") as failure:
        await store.run(clock_s)

    assert "secret" not in failure.value.message
    await store.close()


async def test_damaged_file_says_what_to_do(tmp_path):
    (tmp_path / FILE).write_bytes(b"no database" * 1_000)
    store = open_store(SharedSettings(data_dir=tmp_path))

    with pytest.raises(NotReady, match=f"remove {FILE}"):
        await store.run(clock_s)
    await store.close()


@pytest.mark.parametrize("url", ["mysql://h/d", "postgresql", "h/d"])
def test_other_databases_are_refused_by_the_variable_s_name(url):
    with pytest.raises(SettingsError, match=r"^PAPERROUTE_DATABASE_URL: an address that begins with postgresql://$"):
        database_url(SharedSettings(database_url=url), FILE)


def test_address_shows_in_no_repr():
    assert "secret" not in repr(SharedSettings(database_url="postgresql://u:secret@h/d"))
