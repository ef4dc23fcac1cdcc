"""The tables of the retrieval store, the same for SQLite and PostgreSQL; moments are seconds since 1970."""

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

schema = Table("retrieval_schema", metadata, Column("version", Integer, primary_key=True))

gate = Table(
    "retrieval_gate",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("holder", String(40), nullable=False, server_default=""),  # ticket that has the turn; empty for none
    Column("lease_until", Double, nullable=False, server_default="0"),  # from then on the holder counts as dead
    Column("next_start_at", Double, nullable=False, server_default="0"),
    Column("cooldown_until", Double, nullable=False, server_default="0"),
    Column("throttled_count", Integer, nullable=False, server_default="0"),  # in a row
    Column("request_s", Double, nullable=False, server_default="0"),  # how long requests take of late
    Column("last_number", BigInteger, nullable=False, server_default="0"),
)

ticket = Table(
    "retrieval_ticket",
    metadata,
    Column("ticket", String(40), primary_key=True),
    Column("number", BigInteger, nullable=False, index=True),  # in the order of arrival
    Column("lease_until", Double, nullable=False),  # from then on the one who waits counts as dead
)

page = Table(
    "retrieval_page",
    metadata,
    Column("key", String(64), primary_key=True),  # SHA-256 of what was asked
    Column("papers", LargeBinary, nullable=False),  # a compressed SearchResult message
    Column("entry_count", Integer, nullable=False),
    Column("total_count", Integer, nullable=False),
    Column("answered_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)
Index("retrieval_page_use", page.c.used_at)
