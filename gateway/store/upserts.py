"""Inserts that replace the row of the same key, in the words of each database."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Insert, Table


def insert_or_update(dialect: str, table: "Table") -> "Insert":
    """Return the insert of a whole row that takes the place of one with the same primary key.

    Args:
        dialect: "sqlite" or "postgresql".
        table: with a primary key.
    """
    from sqlalchemy.dialects import postgresql, sqlite

    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    key = list(table.primary_key)
    given = {column.name: insert.excluded[column.name] for column in table.columns if column not in key}
    return insert.on_conflict_do_update(index_elements=key, set_=given)
