"""Opening a ledger: its tables are made once, brought up to date, and never dropped."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ledgers import Ledgers

from services.common import migrations
from services.common.database import Database, database_url
from services.common.errors import NotReady
from services.common.paid import ledger_schema
from services.common.paid.ledger_schema import REVISION, ledger_database
from services.common.settings import SharedSettings

REPOSITORY = Path(__file__).parents[3]


def test_the_revision_is_that_of_the_last_migration() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(ledger_schema.__file__).with_name("migrations")))
    scripts = ScriptDirectory.from_config(config)

    assert scripts.get_heads() == [REVISION]
    found = [script.revision for script in scripts.walk_revisions()]
    assert found == sorted(found, reverse=True)  # they are compared as text


@pytest.mark.parametrize("owner", ["generation", "embedding"])
async def test_migrations_make_the_tables_that_the_code_uses(ledgers: Ledgers, owner: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from services.common.paid.ledger_tables import tables_of

    metadata = tables_of(owner).metadata

    def differences(connection: Any) -> list[Any]:
        def is_ours(name: str | None, kind: str, _parents: object) -> bool:
            return kind != "table" or name in metadata.tables

        options = {
            "include_name": is_ours,
            "compare_type": True,
            "compare_server_default": connection.dialect.name == "postgresql",  # Alembic misreads those of SQLite
        }
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    assert await ledgers.database(owner).run(differences) == []


async def test_calls_of_the_first_version_stay(shared: SharedSettings) -> None:
    """Nobody knows what they could have cost at worst."""
    from alembic import command
    from alembic.config import Config

    def first_version(connection: Any) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(ledger_schema.__file__).with_name("migrations")))
        version_table = "generation_ledger_version"
        config.attributes.update(connection=connection, owner="generation", version_table=version_table)
        command.upgrade(config, "0001")

    old = Database(
        database_url(shared, "generation.sqlite3"), name="old", make_tables=first_version, advice="", is_durable=False
    )
    insert = (
        "INSERT INTO generation_call (call_id, key, state, is_public, tenant, survey_id, stage, item, model, prompt_id,"
        " started_at, lease_until, used_at, is_estimated, price_source) VALUES"
        " ('c', 'k', 'failed', false, 't', 's', 'write', '', 'm', 'p', 1, 1, 1, false, 'unpriced')"
    )
    await old.run(lambda connection: connection.exec_driver_sql(insert))
    await old.close()
    made = Ledgers(shared)

    (call,) = await made.listed("s", "t")

    assert (call.call_id, call.worst_nano_usd) == ("c", None)
    await made.close()


async def test_opening_again_changes_nothing_and_needs_no_migrations(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledgers.sql("INSERT INTO generation_limit (model) VALUES ('openai:x')")

    def fail(*_: object) -> None:
        raise AssertionError("migrated again")

    monkeypatch.setattr(migrations, "_migrate", fail)

    assert [row["model"] for row in await ledgers.sql("SELECT model FROM generation_limit")] == ["openai:x"]


async def test_two_owners_open_their_ledgers_at_once_in_one_process(ledgers: Ledgers) -> None:
    opened = [ledgers.database(owner) for owner in ("generation", "embedding") for _ in range(3)]

    await asyncio.gather(*(database.run(lambda _: None) for database in opened))

    for owner in ("generation", "embedding"):
        assert (await ledgers.ledger(owner=owner).list_calls("tenant", "survey")).calls == ()


async def test_processes_open_a_new_ledger_at_once(shared: SharedSettings) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from services.common.paid.ledger_schema import ledger_database\n"
        "from services.common.settings import SharedSettings\n"
        "async def main():\n"
        "    shared = SharedSettings(data_dir=Path(sys.argv[1]), database_url=sys.argv[2])\n"
        "    database = ledger_database(shared, 'generation')\n"
        "    print(await database.run(lambda connection: 'opened'))\n"
        "    await database.close()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(shared.data_dir), shared.database_url]
    processes = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]

    outputs = [(await asyncio.to_thread(process.communicate))[0] for process in processes]

    assert outputs == ["opened\n"] * 3


async def test_tables_of_a_newer_version_are_left_alone(ledgers: Ledgers) -> None:
    await ledgers.sql("UPDATE generation_ledger_version SET version_num = '9999'")

    with pytest.raises(NotReady) as failure:
        await ledgers.database().run(lambda _: None)

    assert "newer" in failure.value.message


def test_importing_paid_calls_loads_nothing_heavy() -> None:
    code = (
        "import sys, services.common.paid.process, services.common.paid.call_messages\n"
        "print(sorted({'sqlalchemy', 'alembic', 'genai_prices', 'openai', 'anthropic', 'google.genai', 'aiohttp'}"
        " & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_ledger_that_is_up_to_date_opens_without_alembic(tmp_path: Path) -> None:
    """Importing it takes longer than opening the ledger."""
    database = ledger_database(SharedSettings(data_dir=tmp_path), "generation")
    asyncio.run(_opened_and_closed(database))
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from services.common.paid.ledger_schema import ledger_database\n"
        "from services.common.settings import SharedSettings\n"
        "database = ledger_database(SharedSettings(data_dir=Path(sys.argv[1])), 'generation')\n"
        "asyncio.run(database.run(lambda connection: None))\n"
        "print('alembic' in sys.modules, 'sqlalchemy' in sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["False", "True"]


async def _opened_and_closed(database: Any) -> None:
    await database.run(lambda _: None)
    await database.close()
