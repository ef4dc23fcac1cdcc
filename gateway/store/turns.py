"""Whose turn it is: which of the queued surveys begin, in which order, and who runs those that have begun.

Tenants take turns: who had its last turn longest ago comes next, with the survey that waits longest. A tenant that has
as many surveys under way as it may is passed over. Each function works within the transaction of the connection it is
handed.
"""

import heapq
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paperroute.v1 import survey_pb2 as pb

from gateway.jobs.values import Job
from gateway.store import events
from gateway.store.surveys import job_columns, job_of
from services.common.database import clock_s

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_SHOWN_AT_ONCE = 500
"""Queued surveys that are told their new places in one transaction, those in front first."""
NOTICEABLE = 20
"""A survey is told its place again once that has changed by one part in so many: each turn counts for the first 20."""
MAX_LOOKED_BACK = 200
"""Events in which attempts that brought nothing are looked for; each of them leaves a few."""
_TURN_LOCK = 0x5061_7065_7254_7572
"""Number of the PostgreSQL lock of who gives turns or tells places: of two at once the second finds what is left."""
_DEFAULT = ""
"""In place of a tenant: its number is how much tenants without a limit of their own may have under way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningSurvey:
    """A survey that has had its turn and has not ended."""

    survey_id: str
    run: int


@dataclass(kw_only=True, slots=True)
class _Line:
    """The surveys of one tenant that wait, the next one first."""

    since: float
    survey_ids: list[str] = field(default_factory=list)
    next_index: int = 0
    last_turn: int = 0
    """0 for none."""
    free_count: int = 0
    """How many more the tenant may have under way."""


def claim(
    connection: "Connection",
    owner: str,
    places: int,
    default_max_running: int,
    only: Collection[str] | None = None,
) -> list[Job]:
    """Give turns to queued surveys and return them, RUNNING, in the order of their turns.

    Args:
        connection: within a transaction.
        owner: the replica that will run them.
        places: how many it can take, at least 1.
        default_max_running: surveys under way, on all replicas, of a tenant that has no limit of its own.
        only: the surveys that may get a turn; None means all.
    """
    _lock(connection)
    turns = _turns(connection)
    if turns.get(_DEFAULT) != default_max_running:
        turns[_DEFAULT] = default_max_running
        _remember(connection, {_DEFAULT: default_max_running})
    lines = _lines(connection, turns, most=places, only=only)
    next_turn = 1 + max((turn for tenant, turn in turns.items() if tenant != _DEFAULT), default=0)
    given: dict[str, int] = {}
    jobs: list[Job] = []
    for tenant, survey_id, is_free in _in_order(lines):
        if not is_free or len(jobs) == places:
            break
        job = _begin_turn(connection, survey_id, owner)
        if job is not None:
            jobs.append(job)
            given[tenant] = next_turn
            next_turn += 1
    _remember(connection, given)
    return jobs


def positions(connection: "Connection", *tenants: str) -> dict[str, int]:
    """Return the place of every queued survey, from 1, in the order in which turns are given.

    Surveys of tenants that have as much under way as they may come last: they wait for one of these to end.

    Args:
        connection: within a transaction.
        tenants: whose surveys to return; none means all.
    """
    in_order = enumerate(_in_order(_lines(connection, _turns(connection))), start=1)
    return {survey_id: place for place, (tenant, survey_id, _) in in_order if not tenants or tenant in tenants}


def moved_places(connection: "Connection") -> dict[str, int]:
    """Return the places of the queued surveys that have changed noticeably since they were shown, the first ones."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY_LIVE

    wanted = positions(connection)
    if not wanted:
        return {}
    columns = SURVEY_LIVE.c
    query = select(columns.survey_id, columns.payload).where(columns.place == events.QUEUE_PLACE)
    shown = {row.survey_id: events.Event.FromString(row.payload) for row in connection.execute(query)}
    moved: dict[str, int] = {}
    for survey_id, place in wanted.items():
        event = shown.get(survey_id)
        known = event.queue_moved.queue_position if event else 0
        if place != known and abs(place - known) * NOTICEABLE >= known:
            moved[survey_id] = place
            if len(moved) == MAX_SHOWN_AT_ONCE:
                break
    return moved


def show_places(connection: "Connection", moved: Mapping[str, int]) -> None:
    """Show surveys their places in the queue; those that wait no longer are passed over."""
    _lock(connection)  # who gives turns locks rows in another order
    events.show_positions(connection, moved)


def running(connection: "Connection") -> dict[str, list[RunningSurvey]]:
    """Return the surveys under way, by the replica that runs them."""
    from sqlalchemy import select

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    query = select(columns.owner, columns.survey_id, columns.run).where(columns.state == pb.SURVEY_STATE_RUNNING)
    found = defaultdict(list)
    for row in connection.execute(query.order_by(columns.number)):
        found[row.owner].append(RunningSurvey(survey_id=row.survey_id, run=row.run))
    return dict(found)


def take_over(connection: "Connection", survey_id: str, from_owner: str, to_owner: str) -> bool:
    """Give a survey of a replica that is gone to another one; return False when it is not the former's any more."""
    from sqlalchemy import update

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    its = (columns.survey_id == survey_id, columns.state == pb.SURVEY_STATE_RUNNING, columns.owner == from_owner)
    return connection.execute(update(SURVEY).where(*its).values(owner=to_owner)).rowcount > 0


def gone(connection: "Connection", owner: str, attempts: Mapping[str, int]) -> set[str]:
    """Return the surveys that a replica may not go on with: cancelled, deleted, ended, or run by another.

    Args:
        connection: within a transaction.
        owner: the replica.
        attempts: the attempt of each survey that it runs.
    """
    from sqlalchemy import select

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    query = select(columns.survey_id, columns.attempt).where(
        columns.survey_id.in_(attempts), columns.state == pb.SURVEY_STATE_RUNNING, columns.owner == owner
    )
    mine = {row.survey_id: row.attempt for row in connection.execute(query)}
    return {survey_id for survey_id, attempt in attempts.items() if mine.get(survey_id) != attempt}


def interruptions(connection: "Connection", survey_id: str) -> int:
    """Return how many attempts before the one that has just begun finished neither a stage nor a section.

    Counted back from the last event to the last progress of this run.
    """
    from sqlalchemy import select

    from gateway.store.tables import SURVEY_EVENT

    columns = SURVEY_EVENT.c
    query = select(columns.payload).where(columns.survey_id == survey_id).order_by(columns.number.desc())
    begun_count = 0
    for payload in connection.execute(query.limit(MAX_LOOKED_BACK)).scalars():
        event = events.Event.FromString(payload)
        match event.WhichOneof("event"):
            case "state_changed" if event.state_changed.state == pb.SURVEY_STATE_RUNNING:
                begun_count += 1
            case "stage_finished" if event.stage_finished.report.state != pb.STAGE_STATE_DONE:
                pass  # it was cut short
            case "stage_finished" | "section_finished" | "state_changed":
                break
    return max(0, begun_count - 1)


def _lock(connection: "Connection") -> None:
    """Wait until nobody else gives turns; SQLite's transactions come one after another anyway."""
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _TURN_LOCK})


def _begin_turn(connection: "Connection", survey_id: str, owner: str) -> Job | None:
    """Let a survey run and return it; None when it waits no more since it was read."""
    from sqlalchemy import select, update

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    waiting = (columns.survey_id == survey_id, columns.state == pb.SURVEY_STATE_QUEUED)
    spec = connection.execute(select(columns.spec).where(*waiting).with_for_update()).scalar_one_or_none()
    if spec is None:
        return None
    now = clock_s(connection)
    given = {
        "state": pb.SURVEY_STATE_RUNNING,
        "run": columns.run + 1,
        "owner": owner,
        "deadline_at": now + pb.SurveySpec.FromString(spec).timeout_ms / 1_000,
        "told_at": now,
    }
    changed = update(SURVEY).where(columns.survey_id == survey_id).values(given)
    return job_of(connection.execute(changed.returning(*job_columns())).one())


def _lines(
    connection: "Connection",
    turns: Mapping[str, int],
    *,
    most: int | None = None,
    only: Collection[str] | None = None,
) -> dict[str, _Line]:
    """Return the line of each tenant that has a survey in the queue, at most the first `most` of it."""
    from sqlalchemy import func, select

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    query = select(columns.survey_id, columns.tenant, columns.queued_at, columns.number)
    query = query.where(columns.state == pb.SURVEY_STATE_QUEUED)
    if only is not None:
        query = query.where(columns.survey_id.in_(only))
    if most is not None:
        longest_first = (columns.queued_at, columns.number)
        place = func.row_number().over(partition_by=columns.tenant, order_by=longest_first)
        ranked = query.add_columns(place.label("place")).subquery()
        query = select(ranked).where(ranked.c.place <= most)
    lines: dict[str, _Line] = {}
    for row in connection.execute(query.order_by("queued_at", "number")):
        line = lines.setdefault(row.tenant, _Line(since=row.queued_at))
        line.survey_ids.append(row.survey_id)
    if lines:
        limits, running_counts = _limits(connection), _running_counts(connection)
        for tenant, line in lines.items():
            line.last_turn = turns.get(tenant, 0)
            line.free_count = limits.get(tenant, turns.get(_DEFAULT, sys.maxsize)) - running_counts.get(tenant, 0)
    return lines


def _in_order(lines: Mapping[str, _Line]) -> Iterator[tuple[str, str, bool]]:
    """Yield tenant and survey in the order of their turns, and whether the tenant may have it under way now."""
    next_turn = 1 + max((line.last_turn for line in lines.values()), default=0)
    ready = [(line.last_turn, line.since, tenant) for tenant, line in lines.items()]
    for is_free in (True, False):
        heapq.heapify(ready)
        passed_over = []
        while ready:
            last_turn, since, tenant = heapq.heappop(ready)
            line = lines[tenant]
            if is_free and line.free_count <= 0:
                passed_over.append((last_turn, since, tenant))
                continue
            yield tenant, line.survey_ids[line.next_index], is_free
            line.next_index += 1
            line.free_count -= 1
            if line.next_index < len(line.survey_ids):
                heapq.heappush(ready, (next_turn, since, tenant))
            next_turn += 1
        ready = passed_over


def _limits(connection: "Connection") -> dict[str, int]:
    """Return how many surveys may be under way of the tenants that have a limit of their own."""
    from sqlalchemy import select

    from gateway.store.tables import TENANT

    columns = TENANT.c
    query = select(columns.tenant, columns.max_running_surveys).where(columns.max_running_surveys > 0)
    return {row.tenant: row.max_running_surveys for row in connection.execute(query)}


def _running_counts(connection: "Connection") -> dict[str, int]:
    from sqlalchemy import func, select

    from gateway.store.tables import SURVEY

    columns = SURVEY.c
    query = select(columns.tenant, func.count().label("running")).where(columns.state == pb.SURVEY_STATE_RUNNING)
    return {row.tenant: row.running for row in connection.execute(query.group_by(columns.tenant))}


def _turns(connection: "Connection") -> dict[str, int]:
    """Return the number of the last turn of each tenant, and what stands for `_DEFAULT`."""
    from sqlalchemy import select

    from gateway.store.tables import TURN

    return {row.tenant: row.number for row in connection.execute(select(TURN))}


def _remember(connection: "Connection", turns: Mapping[str, int]) -> None:
    from gateway.store.tables import TURN
    from gateway.store.upserts import insert_or_update

    rows = [{"tenant": tenant, "number": number} for tenant, number in turns.items()]
    if rows:
        connection.execute(insert_or_update(connection.dialect.name, TURN), rows)
