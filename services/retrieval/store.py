"""The retrieval store: what all replicas share of arXiv, in one SQLite file or one PostgreSQL database.

It is a cache: its tables are made when they are missing and made anew when another version of PaperRoute left them.
"""

from typing import TYPE_CHECKING

from services.common.database import Database, database_url
from services.common.settings import SharedSettings

if TYPE_CHECKING:
    from sqlalchemy import Connection

FILE = "retrieval.sqlite3"
SCHEMA_VERSION = 1
"""Raise it with every change of a table; the tables of another version are dropped."""


def open_store(shared: SharedSettings) -> Database:
    """Return the store of the settings; nothing is opened before its first use.

    Raises:
        SettingsError: the address of the database is not one of PostgreSQL.
    """
    return Database(
        database_url(shared, FILE),
        name="the retrieval store",
        make_tables=_make_tables,
        advice="it is only a cache: remove {file} from PAPERROUTE_DATA_DIR if it is damaged",
        is_durable=False,
    )


def _make_tables(connection: "Connection") -> None:
    from sqlalchemy import insert, select

    from services.retrieval.tables import metadata, schema

    schema.create(connection, checkfirst=True)
    if connection.execute(select(schema.c.version)).scalars().all() != [SCHEMA_VERSION]:
        metadata.drop_all(connection)
        metadata.create_all(connection)
        connection.execute(insert(schema).values(version=SCHEMA_VERSION))
