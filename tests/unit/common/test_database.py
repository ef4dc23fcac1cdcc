"""Who only reads does not wait for who writes."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from services.common.database import Database


@pytest.fixture
async def databases(tmp_path: Path):
    """Yield two databases on one file, as two processes have it."""

    def make_tables(connection: Any) -> None:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (n INTEGER)")

    made = [
        Database(
            f"sqlite:///{tmp_path / 'a.sqlite3'}", name="it", make_tables=make_tables, advice="{file}", is_durable=True
        )
        for _ in range(2)
    ]
    yield made
    for database in made:
        await database.close()


async def test_a_reader_sees_what_was_there_while_another_one_writes(databases: list[Database]):
    one, other = databases
    written, may_end = threading.Event(), threading.Event()

    def write(connection: Any) -> None:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        written.set()
        may_end.wait(30)

    def count(connection: Any) -> int:
        return int(connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one())

    await other.read(count)
    writing = asyncio.create_task(one.run(write))
    await asyncio.to_thread(written.wait, 30)
    seen = [await other.read(count), await one.read(count)]
    may_end.set()
    await writing

    assert seen == [0, 0]
    assert await other.read(count) == 1
