"""What runs of surveys hand over while they go on: parts, numbered events, and how far things are."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paperroute.v1 import survey_pb2 as pb

from gateway.document.draft import Part
from gateway.store import events, parts
from gateway.store.events import Event
from services.common.database import clock_s

if TYPE_CHECKING:
    from sqlalchemy import Connection, Update


@dataclass(kw_only=True, slots=True, eq=False)
class Handed:
    """What one attempt of a survey hands over at one time."""

    survey_id: str
    attempt: int
    events: Sequence[Event] = ()
    """To be numbered, in order. They get number and moment when they are written, also when that fails in the end."""
    parts: Sequence[Part] = ()
    live: Mapping[str, Event] = field(default_factory=dict)
    """How far things are, by place."""

    @property
    def is_durable(self) -> bool:
        """Whether something of it must not be lost."""
        return bool(self.events or self.parts)


def write(connection: "Connection", handed: Sequence[Handed]) -> list[Handed]:
    """Write what surveys hand over but for what attempts do that are not under way any more, and return the latter."""
    now = clock_s(connection)
    stale: list[Handed] = []
    event_rows: list[dict[str, Any]] = []
    part_rows: list[dict[str, Any]] = []
    live_rows: list[dict[str, Any]] = []
    void: list[tuple[str, str]] = []
    for each in sorted(handed, key=lambda each: each.survey_id):  # locked in one order by all who lock many
        last_number, version = _advance(connection, each, now)
        if last_number is None:
            stale.append(each)
            continue
        first = last_number - len(each.events) + 1
        event_rows += [
            events.row_of(each.survey_id, number, event, now) for number, event in enumerate(each.events, start=first)
        ]
        void += [(each.survey_id, place) for event in each.events if (place := events.void_place(event))]
        part_rows += parts.rows_of(each.survey_id, each.parts)
        live_rows += [
            events.live_row_of(each.survey_id, version, place, event, now) for place, event in each.live.items()
        ]
    events.insert(connection, event_rows)
    parts.put(connection, part_rows)
    events.remove_live(connection, void)
    events.put_live(connection, live_rows)
    return stale


def without_written(connection: "Connection", handed: Iterable[Handed]) -> list[Handed]:
    """Return what a transaction did not write that may have been committed although its answer was lost.

    Such a transaction wrote all or nothing; the events know the number and the moment that it gave them.
    """
    from sqlalchemy import select

    from gateway.store.tables import SURVEY_EVENT

    columns = SURVEY_EVENT.c
    missing = []
    for each in handed:
        found = None
        if each.events:
            same = (columns.survey_id == each.survey_id, columns.number == each.events[0].number)
            found = connection.execute(select(columns.payload).where(*same)).scalar_one_or_none()
        if found is None or found != each.events[0].SerializeToString():
            missing.append(each)
    return missing


def _advance(connection: "Connection", handed: Handed, now: float) -> tuple[int | None, int]:
    """Lock the survey's row, count its events up, and return last number and live version; None for a stale attempt."""
    given = {
        "of_survey": handed.survey_id,
        "of_attempt": handed.attempt,
        "event_count": len(handed.events),
        "live_count": 1 if handed.live else 0,
        "now": now,
    }
    row = connection.execute(_count_up(), given).one_or_none()
    return (None, 0) if row is None else (row.last_number, row.live_version)


@functools.cache
def _count_up() -> "Update":
    from sqlalchemy import bindparam, update

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    own = update(SURVEY).where(
        columns.survey_id == bindparam("of_survey"),
        columns.state == pb.SURVEY_STATE_RUNNING,
        columns.attempt == bindparam("of_attempt"),
    )
    counted = own.values(
        last_number=columns.last_number + bindparam("event_count"),
        live_version=columns.live_version + bindparam("live_count"),
        told_at=bindparam("now"),
    )
    return counted.returning(columns.last_number, columns.live_version)
