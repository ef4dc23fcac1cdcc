"""Calls, and what workers share of the limits."""

import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    owner = context.config.attributes["owner"]
    _make_calls(f"{owner}_call")
    op.create_table(
        f"{owner}_limit",
        sa.Column("model", sa.String(300), primary_key=True),
        sa.Column("cooldown_until", sa.Double, nullable=False, server_default="0"),
        sa.Column("request_limit", sa.Double),
        sa.Column("requests_per_s", sa.Double),
        sa.Column("token_limit", sa.Double),
        sa.Column("tokens_per_s", sa.Double),
        sa.Column("updated_at", sa.Double, nullable=False, server_default="0"),
    )
    op.create_table(
        f"{owner}_worker",
        sa.Column("worker_id", sa.String(40), primary_key=True),
        sa.Column("model", sa.String(300), primary_key=True),
        sa.Column("seen_at", sa.Double, nullable=False),
    )


def _make_calls(name: str) -> None:
    op.create_table(
        name,
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("call_id", sa.String(32), nullable=False, unique=True),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("survey_id", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("prompt_id", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("used_at", sa.Double, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("is_estimated", sa.Boolean, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger),
        sa.Column("price_source", sa.String(12), nullable=False),
        sa.Column("price_version", sa.Text, nullable=False, server_default=""),
        sa.Column("response_id", sa.Text, nullable=False, server_default=""),
        sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("answer", sa.LargeBinary),
    )
    holds_key = sa.text("state IN ('in_flight', 'ok')")
    is_kept = sa.text("state = 'ok'")
    op.create_index(f"{name}_key", name, ["key"], unique=True, sqlite_where=holds_key, postgresql_where=holds_key)
    op.create_index(f"{name}_survey", name, ["tenant", "survey_id", "number"])
    use = ["used_at", "size_bytes", "finished_at"]
    op.create_index(f"{name}_use", name, use, sqlite_where=is_kept, postgresql_where=is_kept)
