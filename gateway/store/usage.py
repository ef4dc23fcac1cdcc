"""Rows of the table `usage`, as functions of a connection within the caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Row, Select

_SUMMED = (
    "call_count",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nano_usd",
    "served_call_count",
    "served_input_tokens",
    "served_output_tokens",
    "avoided_cost_nano_usd",
)
Value = str | int
"""Of a dimension: stages are numbers."""


class Dimension(Enum):
    """What usage is grouped by; the names are those of `paperroute.v1.UsageDimension`."""

    SURVEY = "survey_id"
    STAGE = "stage"
    MODEL = "model"
    TENANT = "tenant"
    LABEL = "label"
    DAY = "day"


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageFilter:
    """Which usage is summed; None and nothing mean all."""

    tenant: str | None = None
    survey_id: str | None = None
    stage: int | None = None
    model: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    created_from: float | None = None
    """Moments of the surveys' creation, in seconds since 1970."""
    created_before: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageQuery:
    """What is asked of the usage."""

    which: UsageFilter
    group_by: tuple[Dimension, ...]
    label_key: str
    """Of the label to group by."""
    size: int
    """Most groups."""
    after: tuple[Value, ...] | None = None
    """Place of the last group of the page before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageSum:
    """What a group took."""

    place: tuple[Value, ...]
    """In the order of the groups, as `UsageQuery.after` takes it."""
    values: Mapping[Dimension, Value]
    counts: Mapping[str, int]
    """By field of the message UsageRow: surveys, calls, tokens, costs."""


def replace(connection: "Connection", survey_id: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the rows of a survey in place of all that were there of it."""
    from sqlalchemy import delete, insert

    from gateway.store.tables import USAGE

    connection.execute(delete(USAGE).where(USAGE.c.survey_id == survey_id))
    if rows:
        connection.execute(insert(USAGE), list(rows))


def groups(connection: "Connection", query: UsageQuery) -> tuple[list[UsageSum], bool]:
    """Return a page of groups in the order of their values, and whether more follow."""
    columns = _columns_of(query, connection.dialect.name)
    order = [column for each in columns.values() for column in each]
    select = _sums(query, order)
    if query.after is not None:
        select = select.where(_is_after(order, query.after))
    rows = connection.execute(select.group_by(*order).order_by(*order).limit(query.size + 1)).all()
    found = [_sum_of(row, columns) for row in rows[: query.size] if row.survey_count]
    return found, len(rows) > query.size


def total(connection: "Connection", query: UsageQuery) -> UsageSum:
    """Return the sum over all groups, those of other pages included."""
    return _sum_of(connection.execute(_sums(query, [])).one(), {})


def _columns_of(query: UsageQuery, dialect: str) -> "dict[Dimension, list[ColumnElement[Any]]]":
    """Return the columns that make up the place of a group; for the label two: whether there is one comes first."""
    from sqlalchemy import case, func

    from gateway.store.tables import SURVEY_LABEL, USAGE

    def as_bytes(column: "ColumnElement[Any]") -> "ColumnElement[Any]":
        return column.collate("C") if dialect == "postgresql" else column  # the same order in both databases

    found: dict[Dimension, list[ColumnElement[Any]]] = {}
    for dimension in query.group_by:
        if dimension is Dimension.STAGE:
            found[dimension] = [USAGE.c.stage]
        elif dimension is Dimension.LABEL:
            value = SURVEY_LABEL.c.value
            found[dimension] = [case((value.is_(None), 0), else_=1), as_bytes(func.coalesce(value, ""))]
        else:
            found[dimension] = [as_bytes(USAGE.c[dimension.value])]
    return found


def _sums(query: UsageQuery, columns: "Sequence[ColumnElement[Any]]") -> "Select[Any]":
    from sqlalchemy import and_, case, exists, func, select

    from gateway.store.tables import SURVEY_LABEL, USAGE

    usage, label = USAGE.c, SURVEY_LABEL.c
    summed: dict[str, ColumnElement[Any]] = {name: usage[name] for name in _SUMMED}
    summed["unpriced_call_count"] = case((usage.cost_nano_usd.is_(None), usage.call_count), else_=0)
    sums = [func.coalesce(func.sum(column), 0).label(name) for name, column in summed.items()]
    found = select(*columns, func.count(usage.survey_id.distinct()).label("survey_count"), *sums)
    tables: Any = USAGE
    if Dimension.LABEL in query.group_by:
        of_key = and_(label.survey_id == usage.survey_id, label.key == query.label_key)
        tables = USAGE.outerjoin(SURVEY_LABEL, of_key)
    found = found.select_from(tables).where(*_conditions(query.which))
    carried = SURVEY_LABEL.alias()
    for key, value in query.which.labels:
        mine = (carried.c.survey_id == usage.survey_id, carried.c.key == key, carried.c.value == value)
        found = found.where(exists().where(*mine))
    return found


def _conditions(which: UsageFilter) -> "Iterable[ColumnElement[bool]]":
    from gateway.store.tables import USAGE

    columns = USAGE.c
    for name in ("tenant", "survey_id", "stage", "model"):
        wanted = getattr(which, name)
        if wanted is not None:
            yield columns[name] == wanted
    if which.created_from is not None:
        yield columns.created_at >= which.created_from
    if which.created_before is not None:
        yield columns.created_at < which.created_before


def _is_after(order: "Sequence[ColumnElement[Any]]", place: Sequence[Value]) -> "ColumnElement[bool]":
    """Return whether a row belongs to a group behind that place: larger in the first column in which they differ."""
    from sqlalchemy import and_, or_

    return or_(
        *(
            and_(*(column == value for column, value in zip(order[:depth], place, strict=False)), order[depth] > last)
            for depth, last in enumerate(place)
        )
    )


def _sum_of(row: "Row[Any]", columns: "Mapping[Dimension, Sequence[object]]") -> UsageSum:
    values: dict[Dimension, Value] = {}
    length = 0
    for dimension, each in columns.items():
        length += len(each)
        values[dimension] = row[length - 1]
    counts = {name: int(getattr(row, name)) for name in ("survey_count", "unpriced_call_count", *_SUMMED)}
    return UsageSum(place=tuple(row[:length]), values=values, counts=counts)
