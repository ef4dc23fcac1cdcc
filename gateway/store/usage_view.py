"""The views that dashboards read: their columns are a contract, the tables behind them are not. See docs/usage.md."""

from typing import TYPE_CHECKING

from paperroute.v1 import survey_pb2 as pb

from gateway.document.stages import name_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

NANO = "1000000000.0"


def create_views(connection: "Connection") -> None:
    """Make the views `paperroute_usage` and `paperroute_label`."""
    for statement in (_usage(connection.dialect.name), _LABEL):
        connection.exec_driver_sql(statement)


def _usage(dialect: str) -> str:
    is_server = dialect == "postgresql"
    created = "to_timestamp(created_at)" if is_server else "datetime(created_at, 'unixepoch')"
    day = "CAST(day AS date)" if is_server else "day"
    stages = " ".join(f"WHEN {stage} THEN '{name_of(pb.Stage.ValueType(stage))}'" for stage in pb.Stage.values()[1:])
    # No value of a caller's is in it: names of ours, and those of the dialect.
    return f"""
        CREATE VIEW paperroute_usage AS
        SELECT survey_id, tenant, {created} AS created_at, {day} AS day, CASE stage {stages} END AS stage, model,
            call_count, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
            cost_nano_usd / {NANO} AS cost_usd, cost_nano_usd IS NULL AS is_unpriced,
            avoided_cost_nano_usd / {NANO} AS avoided_cost_usd, paper_count
        FROM usage"""  # noqa: S608


_LABEL = "CREATE VIEW paperroute_label AS SELECT survey_id, key, value FROM survey_label"
