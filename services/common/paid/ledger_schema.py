"""Opens the database of a ledger and brings its tables up to date, losing nothing."""

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.database import Database, database_url
from services.common.errors import NotReady
from services.common.settings import SharedSettings

if TYPE_CHECKING:
    from sqlalchemy import Connection

REVISION = "0001"
"""The last of `migrations/versions`. Comparing it is quick; importing Alembic takes longer than opening."""
_MIGRATIONS = Path(__file__).with_name("migrations")
_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps what it works on in globals of its modules, and two ledgers may be opened in one process."""


def ledger_database(shared: SharedSettings, owner: str) -> Database:
    """Return the database of an owner's ledger, "generation" or "embedding"; nothing is opened before its first use.

    Raises:
        SettingsError: the address of the database is not one of PostgreSQL.
    """
    return Database(
        database_url(shared, f"{owner}.sqlite3"),
        name=f"the ledger of {owner}",
        make_tables=functools.partial(bring_up_to_date, owner=owner),
        advice="{file} in PAPERROUTE_DATA_DIR records paid calls: bring a backup back, or move it away to begin anew",
        is_durable=True,
    )


def bring_up_to_date(connection: "Connection", owner: str) -> None:
    """Make or change the tables until they are those of `REVISION`; the caller keeps other processes out.

    Raises:
        NotReady: a newer PaperRoute made them.
    """
    found = _stored_revision(connection, owner)
    if found == REVISION:
        return
    if found and found > REVISION:
        raise NotReady(f"the ledger of {owner}", "a newer PaperRoute made its tables; run that one")
    _migrate(connection, owner)


def _stored_revision(connection: "Connection", owner: str) -> str | None:
    from sqlalchemy import inspect, text

    table = _version_table(owner)
    if not inspect(connection).has_table(table):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {table}"))  # noqa: S608  # the owner is a name of ours
    return found.scalar_one_or_none()


def _migrate(connection: "Connection", owner: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes.update(connection=connection, owner=owner, version_table=_version_table(owner))
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")


def _version_table(owner: str) -> str:
    return f"{owner}_ledger_version"
