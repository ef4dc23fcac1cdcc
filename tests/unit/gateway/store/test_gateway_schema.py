"""Opening the gateway's database: its tables are made once, brought up to date, and never dropped."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from paperroute.v1 import survey_pb2 as pb
from sqlalchemy import text
from survey_rows import Gateways

from gateway.store import schema
from gateway.store.schema import REVISION, VERSION_TABLE
from services.common import migrations
from services.common.database import Database, database_url
from services.common.errors import NotReady
from services.common.settings import SharedSettings

REPOSITORY = Path(__file__).parents[4]
OPEN = (
    "import asyncio, sys\n"
    "from pathlib import Path\n"
    "from gateway.store.schema import gateway_database\n"
    "from services.common.settings import SharedSettings\n"
    "async def main():\n"
    "    shared = SharedSettings(data_dir=Path(sys.argv[1]), database_url=sys.argv[2])\n"
    "    database = gateway_database(shared)\n"
    "    print(await database.run(lambda connection: 'opened'))\n"
    "    await database.close()\n"
    "asyncio.run(main())\n"
)


@pytest.fixture
def fresh(database_url: str, tmp_path: Path) -> SharedSettings:
    return SharedSettings(database_url=database_url, data_dir=tmp_path / "data")


@pytest.fixture
async def fresh_gateways(fresh: SharedSettings) -> AsyncIterator[Gateways]:
    """Gateways on a database without tables."""
    made = Gateways(fresh)
    yield made
    await made.close()


def test_the_revision_is_that_of_the_last_migration() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
    scripts = ScriptDirectory.from_config(config)

    assert scripts.get_heads() == [REVISION]
    found = [script.revision for script in scripts.walk_revisions()]
    assert found == sorted(found, reverse=True)  # they are compared as text
    assert {len(revision) for revision in found} == {4}


async def test_migrations_make_the_tables_that_the_code_uses(fresh_gateways: Gateways) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from gateway.store.tables import METADATA

    def differences(connection: Any) -> list[Any]:
        def is_ours(name: str | None, kind: str, _parents: object) -> bool:
            return kind != "table" or name in METADATA.tables

        options = {
            "include_name": is_ours,
            "compare_type": True,
            "compare_server_default": connection.dialect.name == "postgresql",  # Alembic misreads those of SQLite
        }
        return compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)

    assert await fresh_gateways.database.run(differences) == []


def _as_of_0001(connection: Any) -> None:
    """Make the tables, and a view, as they were before what the ledger serves was counted apart."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    from gateway.store.migrations.versions import v0001_surveys

    with Operations.context(MigrationContext.configure(connection)):
        v0001_surveys.upgrade()
    connection.exec_driver_sql("CREATE VIEW paperroute_usage AS SELECT survey_id, stage, call_count FROM usage")
    connection.exec_driver_sql(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) PRIMARY KEY)")
    connection.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} VALUES ('0001')")  # noqa: S608  # a name of ours


async def test_rows_of_before_are_kept_by_the_migration_for_telemetry(fresh: SharedSettings) -> None:
    """Surveys that run while a new version starts go on, and what was counted stays counted."""
    old = Database(
        database_url(fresh, "gateway.sqlite3"), name="old", make_tables=_as_of_0001, advice="", is_durable=False
    )

    def fill(connection: Any) -> None:
        survey = {"survey_id": "s1", "tenant": "a", "request": b"", "spec": b"", "head": b"", "trace": "00-trace"}
        survey |= {"state": pb.SURVEY_STATE_RUNNING, "run": 1, "attempt": 1, "created_at": 1000, "queued_at": 1000}
        values = ", ".join(f":{name}" for name in survey)
        connection.execute(text(f"INSERT INTO survey ({', '.join(survey)}) VALUES ({values})"), survey)  # noqa: S608
        usage = "INSERT INTO usage VALUES ('s1', 5, 'openai:m', 'a', 1000, '2026-11-21', 3, 30, 0, 0, 6, 0, 70, 20, 4)"
        connection.execute(text(usage))

    await old.run(fill)
    await old.close()
    gateways = Gateways(fresh)
    (survey,) = await gateways.sql("SELECT trace, run_trace, told_at, state FROM survey")
    (usage,) = await gateways.sql("SELECT * FROM usage")
    (shown,) = await gateways.sql("SELECT call_count, served_call_count FROM paperroute_usage")
    job = await gateways.begun("s1")
    await gateways.close()

    assert tuple(survey.values()) == ("00-trace", "", None, pb.SURVEY_STATE_RUNNING)
    assert (usage["call_count"], usage["cost_nano_usd"], usage["avoided_cost_nano_usd"]) == (3, 70, 20)
    assert [usage[f"served_{name}"] for name in ("call_count", "input_tokens", "output_tokens")] == [0, 0, 0]
    assert tuple(shown.values()) == (3, 0)
    assert (job.attempt, job.run_trace) == (2, "")


async def test_opening_again_changes_nothing_and_needs_no_migrations(
    fresh_gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await fresh_gateways.create()

    def fail(*_: object) -> None:
        raise AssertionError("migrated again")

    monkeypatch.setattr(migrations, "_migrate", fail)
    again = Gateways(fresh_gateways.shared)

    assert await again.found(job.survey_id) == job
    await again.close()


async def test_processes_open_a_new_database_at_once(fresh: SharedSettings) -> None:
    command = [sys.executable, "-c", OPEN, str(fresh.data_dir), fresh.database_url]
    processes = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]

    outputs = [(await asyncio.to_thread(process.communicate))[0] for process in processes]

    assert outputs == ["opened\n"] * 2


async def test_tables_of_a_newer_version_are_left_alone(fresh_gateways: Gateways) -> None:
    await fresh_gateways.sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")  # noqa: S608  # a name of ours

    with pytest.raises(NotReady) as failure:
        await fresh_gateways.another_database().run(lambda _: None)

    assert "newer" in failure.value.message
    assert await fresh_gateways.sql("SELECT count(*) AS count FROM survey") == [{"count": 0}]


def test_a_database_that_is_up_to_date_opens_without_alembic(tmp_path: Path) -> None:
    """Importing it takes longer than opening the database."""
    code = OPEN + "print('alembic' in sys.modules, 'sqlalchemy' in sys.modules, 'dbos' in sys.modules)\n"

    def opened() -> str:
        command = [sys.executable, "-c", code, str(tmp_path), ""]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    assert opened() == "opened\nTrue True False\n"
    assert opened() == "opened\nFalse True False\n"


def test_importing_the_rows_loads_nothing_heavy() -> None:
    code = (
        "import sys, gateway.store.schema, gateway.store.surveys, gateway.store.run_rows\n"
        "import gateway.jobs.writer, gateway.jobs.watching\n"
        "print(sorted({'sqlalchemy', 'alembic', 'dbos', 'psycopg'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
