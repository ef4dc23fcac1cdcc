"""The surveys as durable jobs: each function works within the transaction of the connection it is handed.

State changes take the lock on the survey's row first, with the statement that changes it: of two at once the second one
finds what the first one made of it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.document.draft import ENDED, Draft, Part, PartKind
from gateway.jobs.values import Job, JobFilter, NewJob, QueueLimits, StaleRun
from gateway.store import events, parts
from gateway.store.moments import timestamp_at
from services.common.database import clock_s
from services.common.errors import AlreadyExists, InvalidRequest, NotFound, QueueFull, Violation

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement, Connection, Row, Select

MAX_TOKEN_DIGITS = 18
RETRY_AFTER_S = 5.0
"""What a caller is told to wait when the queue is full; most surveys take a few seconds."""
RESUMABLE = frozenset({pb.SURVEY_STATE_FAILED, pb.SURVEY_STATE_PARTIAL, pb.SURVEY_STATE_CANCELLED})
_UNDER_WAY = (pb.SURVEY_STATE_QUEUED, pb.SURVEY_STATE_RUNNING)
_QUEUE_LOCK = 0x5061_7065_7251_7565
"""Number of the PostgreSQL lock of who adds to the queue: its limits hold for all replicas together."""


def create(connection: "Connection", new: NewJob, limits: QueueLimits) -> tuple[Job, bool]:
    """Return the queued survey of a request and whether it is new: the same request_id gives the same survey.

    Raises:
        AlreadyExists: the tenant used the request_id for a different request.
        QueueFull: as many surveys wait as may.
    """
    from sqlalchemy import insert

    from gateway.store.tables import SURVEY, SURVEY_LABEL

    _lock_queue(connection)
    known = _known(connection, new)
    if known:
        return known, False
    _check_room(connection, new.tenant, limits)
    now = clock_s(connection)
    values = {
        "survey_id": new.survey_id,
        "tenant": new.tenant,
        "request_id": new.request.request_id or None,
        "request": new.request.SerializeToString(),
        "spec": new.spec.SerializeToString(),
        "state": pb.SURVEY_STATE_QUEUED,
        "created_at": now,
        "queued_at": now,
        "last_number": 1,
        "told_at": now,
        "head": _first_head(new, now).SerializeToString(),
        "trace": new.trace,
    }
    row = connection.execute(insert(SURVEY).returning(*job_columns()), values).one()
    labels = [{"survey_id": new.survey_id, "key": key, "value": text} for key, text in new.request.labels.items()]
    if labels:
        connection.execute(insert(SURVEY_LABEL), labels)
    job = job_of(row)
    _tell(connection, job.survey_id, 1, events.state_changed(job.state, job.attempt), now)
    return job, True


def find(connection: "Connection", survey_id: str, tenant: str | None = None) -> Job:
    """Return a survey, of any tenant or of this one.

    Raises:
        NotFound: there is none of that id, or it is another tenant's.
    """
    from sqlalchemy import select

    from gateway.store.tables import SURVEY

    query = select(*job_columns()).where(SURVEY.c.survey_id == survey_id)
    if tenant is not None:
        query = query.where(SURVEY.c.tenant == tenant)
    # PostgreSQL refuses a text with a NUL instead of finding none.
    row = None if "\0" in survey_id else connection.execute(query).one_or_none()
    if row is None:
        raise NotFound("survey", survey_id)
    return job_of(row)


def draft_of(connection: "Connection", job: Job) -> Draft:
    """Return a survey with all its parts; with its place in the queue when it waits."""
    draft = Draft(
        survey_id=job.survey_id,
        spec=job.spec,
        labels=dict(job.request.labels),
        state=job.state,
        attempt=job.attempt,
        created_at=_moment(job.created_at),
        finished_at=None if job.finished_at is None else _moment(job.finished_at),
    )
    if job.state == pb.SURVEY_STATE_QUEUED:
        from gateway.store.turns import positions

        draft.queue_position = positions(connection).get(job.survey_id, 0)
    for part in parts.read(connection, job.survey_id):
        draft.add(part)
    return draft


def page(connection: "Connection", which: JobFilter, size: int, token: str) -> tuple[list[pb.Survey], str]:
    """Return surveys without their texts and papers, newest first, and the token of the next page.

    A token names a place in the order of creation: what is created, ends or is deleted between two pages makes no
    survey come twice and none that stays be passed over.

    Args:
        connection: within a transaction.
        which: surveys of one tenant.
        size: most surveys to return, at least 1.
        token: that of the page before; empty for the first page.

    Returns:
        The surveys as they are now; the token is empty on the last page.

    Raises:
        InvalidRequest: the token is not one that a page gave.
    """
    if token and not (token.isascii() and token.isdigit() and len(token) <= MAX_TOKEN_DIGITS):
        raise InvalidRequest([Violation(field="page_token", description="the next_page_token of a page, or empty")])
    rows = connection.execute(select_page(which, size, int(token) if token else None)).all()
    shown = rows[:size]
    places: dict[str, int] = {}
    if any(row.state == pb.SURVEY_STATE_QUEUED for row in shown):
        from gateway.store.turns import positions

        places = positions(connection)
    surveys = [_survey_of(row, places.get(row.survey_id, 0)) for row in shown]
    return surveys, str(shown[-1].number) if len(rows) > size else ""


def select_page(which: JobFilter, size: int, before: int | None) -> "Select[Any]":
    """Return the query of a page and one row more, which says whether another page follows.

    Args:
        which: surveys of one tenant.
        size: of the page.
        before: number of the last survey of the page before; None for the first page.
    """
    from sqlalchemy import exists, select

    from gateway.store.tables import SURVEY, SURVEY_LABEL

    columns, label = SURVEY.c, SURVEY_LABEL.c
    query = select(
        columns.number, columns.survey_id, columns.state, columns.attempt, columns.finished_at, columns.head
    ).where(columns.tenant == which.tenant)
    if before is not None:
        query = query.where(columns.number < before)
    if which.states:
        query = query.where(columns.state.in_(sorted(which.states)))
    if which.created_from is not None:
        query = query.where(columns.created_at >= which.created_from)
    if which.created_before is not None:
        query = query.where(columns.created_at < which.created_before)
    for key, value in which.labels:
        carried = (label.survey_id == columns.survey_id, label.key == key, label.value == value)
        query = query.where(exists().where(*carried))
    return query.order_by(columns.number.desc()).limit(size + 1)


def begin(connection: "Connection", survey_id: str, run: int, owner: str) -> Job | None:
    """Begin an attempt of a survey's run and return it; None when the survey runs no more, or in another run.

    From here on what ran it before may not write any more.
    """
    from gateway.store.tables import SURVEY

    columns, now = SURVEY.c, clock_s(connection)
    condition = (columns.state == pb.SURVEY_STATE_RUNNING) & (columns.run == run)
    row = _change(connection, survey_id, condition, {"attempt": columns.attempt + 1, "owner": owner}, now)
    if row is None:
        return None
    events.remove_all_live(connection, survey_id)
    job = job_of(row)
    _tell(connection, survey_id, row.last_number, events.state_changed(job.state, job.attempt), now)
    return job


def keep_run_trace(connection: "Connection", survey_id: str, traceparent: str) -> None:
    """Keep the span of the run that begins, so that the next one can link to it."""
    from sqlalchemy import update

    from gateway.store.tables import SURVEY

    connection.execute(update(SURVEY).where(SURVEY.c.survey_id == survey_id).values(run_trace=traceparent))


def end(
    connection: "Connection",
    survey_id: str,
    attempt: int,
    state: pb.SurveyState.ValueType,
    head: pb.Survey,
    *given: Part,
    failure: pb.Failure | None = None,
) -> Job:
    """End a running survey with its last event, and return it as it is then.

    Args:
        connection: within a transaction.
        survey_id: names the survey.
        attempt: the one that ends it.
        state: how it ended.
        head: the survey as lists show it.
        given: parts to keep with it.
        failure: why it FAILED.

    Raises:
        StaleRun: the attempt is not the one under way.
    """
    from gateway.store.tables import SURVEY

    now = clock_s(connection)
    condition = (SURVEY.c.state == pb.SURVEY_STATE_RUNNING) & (SURVEY.c.attempt == attempt)
    values = {"state": state, "owner": "", "finished_at": now, "head": head.SerializeToString()}
    row = _change(connection, survey_id, condition, values, now)
    if row is None:
        raise StaleRun(survey_id)
    parts.put(connection, parts.rows_of(survey_id, given))
    events.remove_all_live(connection, survey_id)
    finished = service_pb.SurveyFinished(state=state)
    event = events.Event(failed=failure) if failure else events.Event(finished=finished)
    _tell(connection, survey_id, row.last_number, event, now)
    return job_of(row)


def cancel(connection: "Connection", survey_id: str) -> Job | None:
    """End a survey that waits or runs as CANCELLED and return it as it is then; None when it had ended."""
    from gateway.store.tables import SURVEY

    now = clock_s(connection)
    values = {"state": pb.SURVEY_STATE_CANCELLED, "owner": "", "finished_at": now}
    row = _change(connection, survey_id, SURVEY.c.state.in_(_UNDER_WAY), values, now)
    if row is None:
        return None
    events.remove_all_live(connection, survey_id)
    finished = service_pb.SurveyFinished(state=pb.SURVEY_STATE_CANCELLED)
    _tell(connection, survey_id, row.last_number, events.Event(finished=finished), now)
    return job_of(row)


def resume(connection: "Connection", survey_id: str, redo: Sequence[tuple[PartKind, str]], limits: QueueLimits) -> Job:
    """Put a survey that ended FAILED, PARTIAL or CANCELLED into the queue again and return it.

    In any other state it is returned as it is.

    Args:
        connection: within a transaction.
        survey_id: names the survey.
        redo: kind and place of the parts that are to be made again.
        limits: of its tenant.

    Raises:
        NotFound: there is none of that id.
        QueueFull: as many surveys wait as may.
    """
    from gateway.store.tables import SURVEY

    _lock_queue(connection)
    job = find(connection, survey_id)
    if job.state not in RESUMABLE:
        return job
    _check_room(connection, job.tenant, limits)
    now = clock_s(connection)
    cleared = dict.fromkeys(("finished_at", "deadline_at", "settled_at"))
    values = {**cleared, "state": pb.SURVEY_STATE_QUEUED, "queued_at": now}
    row = _change(connection, survey_id, SURVEY.c.state.in_(RESUMABLE), values, now)
    if row is None:
        raise NotFound("survey", survey_id)  # deleted meanwhile: it could not be resumed without the queue's lock
    parts.remove(connection, survey_id, redo)
    job = job_of(row)
    _tell(connection, survey_id, row.last_number, events.state_changed(job.state, job.attempt), now)
    return job


def replace(connection: "Connection", survey_id: str, head: pb.Survey, *given: Part) -> None:
    """Keep other parts of a survey that has ended.

    Raises:
        StaleRun: it is under way again, or deleted.
    """
    from sqlalchemy import update

    from gateway.store.tables import SURVEY

    ended = update(SURVEY).where(SURVEY.c.survey_id == survey_id, SURVEY.c.state.in_(ENDED))
    if connection.execute(ended, {"head": head.SerializeToString()}).rowcount == 0:
        raise StaleRun(survey_id)
    parts.put(connection, parts.rows_of(survey_id, given))


def delete(connection: "Connection", survey_id: str) -> None:
    """Remove a survey with its parts and events; what it cost and its labels, for chargeback, stay."""
    from sqlalchemy import delete as deletion

    from gateway.store.tables import SURVEY, SURVEY_EVENT, SURVEY_LIVE, SURVEY_PART

    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")  # overwrites what is removed
    for table in (SURVEY, SURVEY_PART, SURVEY_EVENT, SURVEY_LIVE):  # the first holds the lock under which others write
        connection.execute(deletion(table).where(table.c.survey_id == survey_id))


def expired(connection: "Connection", before: float, limit: int) -> list[Job]:
    """Return surveys that have ended and were created before a moment, oldest first, at most `limit`."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    query = select(*job_columns()).where(columns.state.in_(ENDED), columns.created_at < before)
    return [job_of(row) for row in connection.execute(query.order_by(columns.number).limit(limit))]


def unsettled(connection: "Connection", before: float, limit: int) -> list[Job]:
    """Return surveys that ended before a moment and whose cost was not read since, oldest end first."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    query = select(*job_columns()).where(columns.settled_at.is_(None), columns.finished_at < before)
    return [job_of(row) for row in connection.execute(query.order_by(columns.finished_at).limit(limit))]


def settled(connection: "Connection", survey_id: str) -> bool:
    """Note that the cost of an ended survey was read from the ledgers; return whether that is new since its end."""
    from sqlalchemy import update

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    ended = (columns.survey_id == survey_id, columns.finished_at.is_not(None), columns.settled_at.is_(None))
    noted = connection.execute(update(SURVEY).where(*ended).values(settled_at=clock_s(connection)))
    return noted.rowcount > 0


def job_columns() -> "list[Column[Any]]":
    """Return the columns of `survey` that a job is made of."""
    from gateway.store.tables import SURVEY

    return [column for column in SURVEY.columns if column.name not in {"head", "live_version"}]


def job_of(row: "Row[Any]") -> Job:
    """Return a row with the columns of `job_columns` as a job."""
    return Job(
        number=row.number,
        survey_id=row.survey_id,
        tenant=row.tenant,
        request=service_pb.CreateSurveyRequest.FromString(row.request),
        spec=pb.SurveySpec.FromString(row.spec),
        state=row.state,
        run=row.run,
        attempt=row.attempt,
        owner=row.owner,
        created_at=row.created_at,
        queued_at=row.queued_at,
        deadline_at=row.deadline_at,
        finished_at=row.finished_at,
        trace=row.trace,
        run_trace=row.run_trace,
    )


def _known(connection: "Connection", new: NewJob) -> Job | None:
    """Return the survey that the tenant made with this request_id before."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY

    request_id = new.request.request_id
    if not request_id:
        return None
    same = (SURVEY.c.tenant == new.tenant, SURVEY.c.request_id == request_id)
    row = connection.execute(select(*job_columns()).where(*same)).one_or_none()
    if row is None:
        return None
    job = job_of(row)
    if job.request != new.request:
        raise AlreadyExists("request_id", request_id, _difference(job.request, new.request))
    return job


def _difference(known: service_pb.CreateSurveyRequest, request: service_pb.CreateSurveyRequest) -> str:
    """Return the names of the fields in which two requests differ."""
    fields = [f"spec.{name}" for name in _differing(known.spec, request.spec)]
    if known.labels != request.labels:
        fields.append("labels")
    return ", ".join(fields)


def _differing(one: Message, other: Message) -> list[str]:
    """Return the names of the fields that differ, in the order of the message."""
    given = [{field.name: value for field, value in message.ListFields()} for message in (one, other)]
    return [field.name for field in one.DESCRIPTOR.fields if given[0].get(field.name) != given[1].get(field.name)]


def _lock_queue(connection: "Connection") -> None:
    """Keep other replicas from adding to the queue until the transaction ends; SQLite has one writer anyway."""
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _QUEUE_LOCK})


def _check_room(connection: "Connection", tenant: str, limits: QueueLimits) -> None:
    from sqlalchemy import case, func, select

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    is_queued = columns.state == pb.SURVEY_STATE_QUEUED
    query = select(
        func.count(case((is_queued, 1))).label("queued"), func.count(case((columns.tenant == tenant, 1))).label("own")
    )
    counts = connection.execute(query.where(columns.state.in_(_UNDER_WAY))).one()
    most = limits.max_running + limits.max_queued
    if counts.own >= most:  # those that fill free places as soon as they are made do not wait
        raise QueueFull(most, retry_after_s=RETRY_AFTER_S)
    if counts.queued >= limits.max_queued_overall:
        raise QueueFull(limits.max_queued_overall, retry_after_s=RETRY_AFTER_S)


def _change(
    connection: "Connection", survey_id: str, condition: "ColumnElement[bool]", values: dict[str, Any], now: float
) -> "Row[Any] | None":
    """Change a survey that meets a condition, number one more event, and return its row; None when it does not."""
    from sqlalchemy import update

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    changed = update(SURVEY).where(columns.survey_id == survey_id, condition)
    changed = changed.values(values | {"last_number": columns.last_number + 1, "told_at": now})
    return connection.execute(changed.returning(*job_columns())).one_or_none()


def _tell(connection: "Connection", survey_id: str, number: int, event: events.Event, now: float) -> None:
    events.insert(connection, [events.row_of(survey_id, number, event, now)])


def _first_head(new: NewJob, now: float) -> pb.Survey:
    """Return the survey as lists show it before it has begun."""
    labels = new.request.labels
    return pb.Survey(survey_id=new.survey_id, spec=new.spec, labels=labels, created_at=timestamp_at(now))


def _survey_of(row: "Row[Any]", queue_position: int) -> pb.Survey:
    """Return the stored survey with what may have changed since it was stored."""
    survey = pb.Survey.FromString(row.head)
    survey.state, survey.attempt, survey.queue_position = row.state, row.attempt, 0
    survey.ClearField("finished_at")
    if row.finished_at is not None:
        survey.finished_at.CopyFrom(timestamp_at(row.finished_at))
    if row.state == pb.SURVEY_STATE_QUEUED:
        survey.queue_position = queue_position
    if row.state != pb.SURVEY_STATE_FAILED:
        survey.ClearField("failure")
    return survey


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
