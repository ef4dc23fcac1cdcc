"""The most that a call could cost when it was sent."""

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of the calls before nobody knows."""
    owner = context.config.attributes["owner"]
    op.add_column(f"{owner}_call", sa.Column("worst_cost_nano_usd", sa.BigInteger))
