"""Brings the tables of a database up to date with Alembic, for what must not be lost."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import NotReady

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps what it works on in globals of its modules, and two databases may be opened in one process."""


def bring_up_to_date(
    connection: "Connection",
    *,
    migrations: Path,
    revision: str,
    version_table: str,
    name: str,
    attributes: Mapping[str, object],
) -> None:
    """Make or change the tables until they are those of `revision`; the caller keeps other processes out.

    Comparing the revision is quick; Alembic, whose import takes longer than opening a database, is only loaded where
    something is to be done.

    Args:
        connection: with the transaction in which all of it happens.
        migrations: folder with `env.py` and `versions`, whose modules are named for their revisions.
        revision: the last of them; revisions are digits of one length, so that they compare as text.
        version_table: where the revision of the tables is kept; a name of ours.
        name: what errors call the database.
        attributes: what `env.py` and the migrations find in Alembic's configuration besides the connection.

    Raises:
        NotReady: a newer PaperRoute made the tables.
    """
    found = _stored_revision(connection, version_table)
    if found == revision:
        return
    if found and found > revision:
        raise NotReady(name, "a newer PaperRoute made its tables; run that one")
    _migrate(connection, migrations, {**attributes, "version_table": version_table})


def _stored_revision(connection: "Connection", version_table: str) -> str | None:
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table(version_table):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {version_table}"))  # noqa: S608  # a name of ours
    return found.scalar_one_or_none()


def _migrate(connection: "Connection", migrations: Path, attributes: Mapping[str, object]) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes.update(attributes, connection=connection)
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")
