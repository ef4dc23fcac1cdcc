"""What the ledger served apart from what was paid for; a survey's last run and when something was last told of it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what was served before is part of the other counts."""
    for name in ("served_call_count", "served_input_tokens", "served_output_tokens"):
        op.add_column("usage", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("survey", sa.Column("run_trace", sa.Text, nullable=False, server_default=""))
    op.add_column("survey", sa.Column("told_at", sa.Double))
