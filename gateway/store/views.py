"""The views that dashboards read: their columns are a contract, the tables behind them are not. See docs/usage.md."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from paperroute.v1 import survey_pb2 as pb

from gateway.document.stages import name_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

NANO = "1000000000.0"
VIEWS = ("paperroute_usage", "paperroute_label", "paperroute_survey")

# No value of a caller's is in the statements: names of ours, and those of the dialect.


def drop_views(connection: "Connection") -> None:
    """Remove the views, if they are there."""
    for name in VIEWS:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")


def create_views(connection: "Connection") -> None:
    """Make the views, which are not there."""
    dialect = connection.dialect.name
    for name, query in zip(VIEWS, (_usage(dialect), _LABEL, _survey(dialect)), strict=True):
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


def _usage(dialect: str) -> str:
    day = "CAST(day AS date)" if dialect == "postgresql" else "day"
    stage = _case("stage", ((value, name_of(pb.Stage.ValueType(value))) for value in pb.Stage.values()[1:]))
    return f"""
        SELECT survey_id, tenant, {_moment("created_at", dialect)} AS created_at, {day} AS day, {stage} AS stage, model,
            call_count, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
            cost_nano_usd / {NANO} AS cost_usd, cost_nano_usd IS NULL AS is_unpriced,
            served_call_count, served_input_tokens, served_output_tokens,
            avoided_cost_nano_usd / {NANO} AS avoided_cost_usd, paper_count
        FROM usage"""  # noqa: S608


_LABEL = "SELECT survey_id, key, value FROM survey_label"


def _survey(dialect: str) -> str:
    prefix = "SURVEY_STATE_"
    state = _case("state", ((value, name.removeprefix(prefix).lower()) for name, value in pb.SurveyState.items()[1:]))
    cost = "CASE count(*) WHEN 0 THEN 0 ELSE sum(cost_nano_usd) END"  # NULL only where no price of any call is known
    rows = "FROM usage WHERE usage.survey_id = survey.survey_id"
    return f"""
        SELECT survey_id, tenant, {state} AS state, attempt, {_moment("created_at", dialect)} AS created_at,
            {_moment("finished_at", dialect)} AS finished_at, finished_at - created_at AS duration_s,
            (SELECT {cost} {rows}) / {NANO} AS cost_usd,
            EXISTS (SELECT 1 {rows} AND cost_nano_usd IS NULL) AS is_unpriced,
            substr(trace, 4, 32) AS trace_id
        FROM survey"""  # noqa: S608


def _moment(column: str, dialect: str) -> str:
    return f"to_timestamp({column})" if dialect == "postgresql" else f"datetime({column}, 'unixepoch')"


def _case(column: str, names: Iterable[tuple[int, str]]) -> str:
    return f"CASE {column} {' '.join(f'''WHEN {value} THEN '{name}' ''' for value, name in names)}END"
