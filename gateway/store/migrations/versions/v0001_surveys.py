"""Surveys with their parts and events, usage, tenants, tokens, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _make_survey()
    _make_rows_of_surveys()
    _make_usage()
    _make_tenants()
    _make_tokens()
    _make_audit()


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _make_survey() -> None:
    op.create_table(
        "survey",
        sa.Column("number", _number(), primary_key=True),
        sa.Column("survey_id", sa.String(64), nullable=False, unique=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("request_id", sa.String(128)),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("run", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("owner", sa.String(64), nullable=False, server_default=""),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("queued_at", sa.Double, nullable=False),
        sa.Column("deadline_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("settled_at", sa.Double),
        sa.Column("last_number", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("live_version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("head", sa.LargeBinary, nullable=False),
        sa.Column("trace", sa.Text, nullable=False, server_default=""),
        sa.UniqueConstraint("tenant", "request_id", name="survey_request"),
    )
    op.create_index("survey_list", "survey", ["tenant", "number"])
    op.create_index("survey_state", "survey", ["state", "queued_at"])
    is_unsettled = sa.text("settled_at IS NULL")
    op.create_index(
        "survey_unsettled", "survey", ["finished_at"], sqlite_where=is_unsettled, postgresql_where=is_unsettled
    )


def _make_rows_of_surveys() -> None:
    op.create_table(
        "survey_part",
        sa.Column("survey_id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(12), primary_key=True),
        sa.Column("place", sa.String(64), primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "survey_event",
        sa.Column("survey_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "survey_live",
        sa.Column("survey_id", sa.String(64), primary_key=True),
        sa.Column("place", sa.String(64), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "survey_label",
        sa.Column("survey_id", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("value", sa.String(255), nullable=False),
    )
    op.create_index("survey_label_value", "survey_label", ["key", "value"])


def _make_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("survey_id", sa.String(64), primary_key=True),
        sa.Column("stage", sa.Integer, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("call_count", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger),
        sa.Column("avoided_cost_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("paper_count", sa.Integer, nullable=False),
    )
    op.create_index("usage_tenant", "usage", ["tenant", "created_at"])


def _make_tenants() -> None:
    op.create_table(
        "turn",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tenant",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("limits", sa.LargeBinary, nullable=False),
        sa.Column("max_running_surveys", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "tenant_month",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("spent_nano_usd", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("reserved_nano_usd", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "reservation",
        sa.Column("survey_id", sa.String(64), primary_key=True),
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("reserved_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("spent_nano_usd", sa.BigInteger, nullable=False),
    )


def _make_tokens() -> None:
    op.create_table(
        "token",
        sa.Column("token_id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("scope", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("old_hash", sa.String(64)),
        sa.Column("old_until", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.Column("last_used_at", sa.Double),
    )
    op.create_index("token_tenant", "token", ["tenant", "created_at"])
    op.create_index("token_old_hash", "token", ["old_hash"])


def _make_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("number", _number(), primary_key=True),
        sa.Column("happened_at", sa.Double, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("token_id", sa.String(32), nullable=False),
        sa.Column("action", sa.Integer, nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
    )
    op.create_index("audit_tenant", "audit", ["tenant", "number"])
