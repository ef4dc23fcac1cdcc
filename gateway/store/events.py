"""The events of surveys: numbered ones, which are kept, and how far what is under way has come, of which the newest is.

Who numbers events holds the lock on the survey's row, so that numbers have neither gap nor repeat.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from services.common.database import clock_s

if TYPE_CHECKING:
    from sqlalchemy import Connection, Delete, Insert

Event = service_pb.WatchSurveyResponse
QUEUE_PLACE = "queue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """How far a survey's events have come."""

    last_number: int
    live_version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRow:
    """How far something under way has come."""

    place: str
    """"stage 5", "section 2.3" or "queue"."""
    version: int
    """Higher than that of all rows of the survey written before."""
    event: Event


def stage_place(stage: pb.Stage.ValueType) -> str:
    """Return where it is shown how far a stage is: "stage 5"."""
    return f"stage {stage}"


def section_place(chapter_number: int, section_number: int) -> str:
    """Return where the text of a section under way is shown: "section 2.3"."""
    return f"section {chapter_number}.{section_number}"


def void_place(event: Event) -> str:
    """Return the place of which nothing is to be shown any more after a numbered event; empty for none."""
    match event.WhichOneof("event"):
        case "stage_finished":
            return stage_place(event.stage_finished.report.stage)
        case "section_finished":
            return section_place(event.section_finished.chapter_number, event.section_finished.section.number)
        case _:
            return ""


def is_last(event: Event) -> bool:
    """Return whether a survey has ended with this event, unless it is resumed."""
    return event.WhichOneof("event") in {"finished", "failed"}


def voids_all(event: Event) -> bool:
    """Return whether nothing that was shown of the survey before this event holds any more."""
    return is_last(event) or event.WhichOneof("event") == "state_changed"


def state_changed(state: pb.SurveyState.ValueType, attempt: int) -> Event:
    """Return the event of a survey that waits or has begun."""
    return Event(state_changed=service_pb.StateChanged(state=state, attempt=attempt))


def row_of(survey_id: str, number: int, event: Event, now: float) -> dict[str, Any]:
    """Give an event its number and its moment, in seconds since 1970, and return its row."""
    event.number = number
    event.happened_at.CopyFrom(_timestamp(now))
    return {"survey_id": survey_id, "number": number, "payload": event.SerializeToString()}


def live_row_of(survey_id: str, version: int, place: str, event: Event, now: float) -> dict[str, Any]:
    """Give an event that tells how far something is its moment, and return its row."""
    event.number = 0
    event.happened_at.CopyFrom(_timestamp(now))
    return {"survey_id": survey_id, "place": place, "version": version, "payload": event.SerializeToString()}


def insert(connection: "Connection", rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep numbered events."""
    if rows:
        connection.execute(_insert(), rows)


def put_live(connection: "Connection", rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep how far things are in place of what was known of them."""
    if rows:
        connection.execute(_upsert_live(connection.dialect.name), rows)


def remove_live(connection: "Connection", places: Sequence[tuple[str, str]]) -> None:
    """Forget how far something was, by survey_id and place."""
    if places:
        connection.execute(_delete_live(), [{"of_survey": survey_id, "at_place": place} for survey_id, place in places])


def remove_all_live(connection: "Connection", survey_id: str) -> None:
    """Forget how far a survey's work was."""
    from sqlalchemy import delete

    from gateway.store.tables import SURVEY_LIVE

    connection.execute(delete(SURVEY_LIVE).where(SURVEY_LIVE.c.survey_id == survey_id))


def show_positions(connection: "Connection", positions: Mapping[str, int]) -> None:
    """Show queued surveys their places in the queue, from 1; those that wait no longer are passed over."""
    from sqlalchemy import update

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    now, rows = clock_s(connection), []
    for survey_id in sorted(positions):  # in one order everywhere, so that no two transactions wait for each other
        shown = update(SURVEY).where(columns.survey_id == survey_id, columns.state == pb.SURVEY_STATE_QUEUED)
        shown = shown.values(live_version=columns.live_version + 1).returning(columns.live_version)
        version = connection.execute(shown).scalar_one_or_none()
        if version is not None:
            moved = Event(queue_moved=service_pb.QueueMoved(queue_position=positions[survey_id]))
            rows.append(live_row_of(survey_id, version, QUEUE_PLACE, moved, now))
    put_live(connection, rows)


def marks(connection: "Connection", survey_ids: Sequence[str]) -> dict[str, Mark]:
    """Return how far the events of these surveys have come; those that are gone are left out."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    query = select(columns.survey_id, columns.last_number, columns.live_version)
    rows = connection.execute(query.where(columns.survey_id.in_(survey_ids)))
    return {row.survey_id: Mark(last_number=row.last_number, live_version=row.live_version) for row in rows}


def after(connection: "Connection", survey_id: str, number: int) -> list[Event]:
    """Return the events of a survey numbered higher, in order."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY_EVENT

    columns = SURVEY_EVENT.c
    query = select(columns.payload).where(columns.survey_id == survey_id, columns.number > number)
    return [Event.FromString(payload) for payload in connection.execute(query.order_by(columns.number)).scalars()]


def live_after(connection: "Connection", survey_id: str, version: int) -> list[LiveRow]:
    """Return how far a survey's work is, as far as it was written after that version, in order."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY_LIVE

    columns = SURVEY_LIVE.c
    query = select(SURVEY_LIVE).where(columns.survey_id == survey_id, columns.version > version)
    return [
        LiveRow(place=row.place, version=row.version, event=Event.FromString(row.payload))
        for row in connection.execute(query.order_by(columns.version))
    ]


@functools.cache
def _insert() -> "Insert":
    from sqlalchemy import insert

    from gateway.store.tables import SURVEY_EVENT

    return insert(SURVEY_EVENT)


@functools.cache
def _upsert_live(dialect: str) -> "Insert":
    from gateway.store.tables import SURVEY_LIVE
    from gateway.store.upserts import insert_or_update

    return insert_or_update(dialect, SURVEY_LIVE)


@functools.cache
def _delete_live() -> "Delete":
    from sqlalchemy import bindparam, delete

    from gateway.store.tables import SURVEY_LIVE

    columns = SURVEY_LIVE.c
    return delete(SURVEY_LIVE).where(
        columns.survey_id == bindparam("of_survey"), columns.place == bindparam("at_place")
    )


def _timestamp(seconds: float) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(round(seconds * 1_000_000))
    return timestamp
