"""The tables of a ledger, the same for SQLite and PostgreSQL; moments are seconds since 1970 by the database's clock.

A change here needs a migration beside it; a test compares the two.
"""

import functools
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from services.common.paid.limit_tables import limit_table, worker_table

HOLDS_KEY = text("state IN ('in_flight', 'ok')")
"""Of all rows with a key at most one is such. Written out, not bound: only so does SQLite use the index for it."""
IS_KEPT = text("state = 'ok'")
"""The rows whose answer is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerTables:
    """The tables of one owner."""

    metadata: MetaData
    call: Table


@functools.cache
def tables_of(owner: str) -> LedgerTables:
    """Return the tables of a ledger: `<owner>_call`, and those through which its workers share limits."""
    metadata = MetaData()
    call = Table(
        f"{owner}_call",
        metadata,
        Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),  # in the order they began
        Column("call_id", String(32), nullable=False, unique=True),
        Column("key", String(64), nullable=False),  # SHA-256 of what was asked, or a name of its own once forgotten
        Column("state", String(12), nullable=False),
        Column("is_public", Boolean, nullable=False),  # whether its answer serves all tenants
        Column("tenant", Text, nullable=False),  # this and the next three name the payer
        Column("survey_id", Text, nullable=False),
        Column("stage", Text, nullable=False),
        Column("item", Text, nullable=False),
        Column("model", Text, nullable=False),
        Column("prompt_id", Text, nullable=False),
        Column("started_at", Double, nullable=False),
        Column("lease_until", Double, nullable=False),  # of a call in flight: from then on its process counts as dead
        Column("finished_at", Double),
        Column("used_at", Double, nullable=False),  # about when the answer was last served
        Column("input_tokens", BigInteger, nullable=False, server_default="0"),
        Column("cached_input_tokens", BigInteger, nullable=False, server_default="0"),
        Column("cache_write_tokens", BigInteger, nullable=False, server_default="0"),
        Column("output_tokens", BigInteger, nullable=False, server_default="0"),
        Column("reasoning_tokens", BigInteger, nullable=False, server_default="0"),
        Column("is_estimated", Boolean, nullable=False),
        Column("cost_nano_usd", BigInteger),  # NULL where it is not known
        Column("price_source", String(12), nullable=False),
        Column("price_version", Text, nullable=False, server_default=""),
        Column("response_id", Text, nullable=False, server_default=""),
        Column("size_bytes", BigInteger, nullable=False, server_default="0"),  # of the answer as it is kept
        Column("answer", LargeBinary),  # compressed; behind what is read without it
        Column("worst_cost_nano_usd", BigInteger),  # the most it could cost when it was sent; NULL where unpriced
    )
    Index(f"{owner}_call_key", call.c.key, unique=True, sqlite_where=HOLDS_KEY, postgresql_where=HOLDS_KEY)
    Index(f"{owner}_call_survey", call.c.tenant, call.c.survey_id, call.c.number)
    use = (call.c.used_at, call.c.size_bytes, call.c.finished_at)  # all that the limits on age and size look at
    Index(f"{owner}_call_use", *use, sqlite_where=IS_KEPT, postgresql_where=IS_KEPT)
    limit_table(owner, metadata)
    worker_table(owner, metadata)
    return LedgerTables(metadata=metadata, call=call)
