"""Opens the gateway's database and brings its tables up to date, losing nothing."""

import functools
from pathlib import Path

from services.common import migrations
from services.common.database import Database, database_url
from services.common.settings import SharedSettings

REVISION = "0002"
"""The last of `migrations/versions`."""
VERSION_TABLE = "gateway_version"
_NAME = "the gateway's database"


def gateway_database(shared: SharedSettings) -> Database:
    """Return the database of surveys, events, usage and tenants; nothing is opened before its first use.

    Raises:
        SettingsError: the address of the database is not one of PostgreSQL.
    """
    make_tables = functools.partial(
        migrations.bring_up_to_date,
        migrations=Path(__file__).with_name("migrations"),
        revision=REVISION,
        version_table=VERSION_TABLE,
        name=_NAME,
        attributes={},
    )
    return Database(
        database_url(shared, "gateway.sqlite3"),
        name=_NAME,
        make_tables=make_tables,
        advice="{file} in PAPERROUTE_DATA_DIR holds all surveys: bring a backup back, or move it away to begin anew",
        is_durable=True,
    )
