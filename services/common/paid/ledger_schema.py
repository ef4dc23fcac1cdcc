"""Opens the database of a ledger and brings its tables up to date, losing nothing."""

import functools
from pathlib import Path

from services.common import migrations
from services.common.database import Database, database_url
from services.common.settings import SharedSettings

REVISION = "0002"
"""The last of `migrations/versions`."""


def ledger_database(shared: SharedSettings, owner: str) -> Database:
    """Return the database of an owner's ledger, "generation" or "embedding"; nothing is opened before its first use.

    Raises:
        SettingsError: the address of the database is not one of PostgreSQL.
    """
    name = f"the ledger of {owner}"
    make_tables = functools.partial(
        migrations.bring_up_to_date,
        migrations=Path(__file__).with_name("migrations"),
        revision=REVISION,
        version_table=f"{owner}_ledger_version",
        name=name,
        attributes={"owner": owner},
    )
    return Database(
        database_url(shared, f"{owner}.sqlite3"),
        name=name,
        make_tables=make_tables,
        advice="{file} in PAPERROUTE_DATA_DIR records paid calls: bring a backup back, or move it away to begin anew",
        is_durable=True,
    )
