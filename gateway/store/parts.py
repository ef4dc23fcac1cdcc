"""The parts of surveys: what their stages brought."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.document.draft import Part, PartKind

if TYPE_CHECKING:
    from sqlalchemy import Connection, Insert


def rows_of(survey_id: str, parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Return the rows of a survey's parts."""
    return [
        {"survey_id": survey_id, "kind": part.kind.value, "place": part.place, "payload": part.payload}
        for part in parts
    ]


def put(connection: "Connection", rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep parts; one of the same kind and place is replaced, and of two given here the later one stays."""
    if rows:
        connection.execute(_upsert(connection.dialect.name), rows)


def read(connection: "Connection", survey_id: str) -> list[Part]:
    """Return all parts of a survey, always in one order."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY_PART

    columns = SURVEY_PART.c
    query = select(columns.kind, columns.place, columns.payload).where(columns.survey_id == survey_id)
    parts = [Part(kind=PartKind(row.kind), place=row.place, payload=row.payload) for row in connection.execute(query)]
    return sorted(parts, key=lambda part: (part.kind.value, part.place))  # databases differ in how they sort text


def remove(connection: "Connection", survey_id: str, named: Sequence[tuple[PartKind, str]]) -> None:
    """Remove the parts of these kinds and places, as far as they are there."""
    from sqlalchemy import bindparam, delete

    from gateway.store.tables import SURVEY_PART

    columns = SURVEY_PART.c
    removal = delete(SURVEY_PART).where(
        columns.survey_id == survey_id, columns.kind == bindparam("of_kind"), columns.place == bindparam("at_place")
    )
    if named:
        connection.execute(removal, [{"of_kind": kind.value, "at_place": place} for kind, place in named])


@functools.cache
def _upsert(dialect: str) -> "Insert":
    from gateway.store.tables import SURVEY_PART
    from gateway.store.upserts import insert_or_update

    return insert_or_update(dialect, SURVEY_PART)
