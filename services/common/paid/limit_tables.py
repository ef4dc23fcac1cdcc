"""The tables through which workers share what they know of a model's limits, the same for SQLite and PostgreSQL.

They lie beside the ledger, in the database of each owner of one; moments are seconds since 1970 by its clock.
"""

from sqlalchemy import Column, Double, MetaData, String, Table


def limit_table(owner: str, metadata: MetaData) -> Table:
    """Return the table `<owner>_limit`: a row for each model, with its cooldown and the limits its server told."""
    return Table(
        f"{owner}_limit",
        metadata,
        Column("model", String(300), primary_key=True),  # "provider:model"
        Column("cooldown_until", Double, nullable=False, server_default="0"),
        Column("request_limit", Double),  # most requests at once; NULL as long as no answer told
        Column("requests_per_s", Double),
        Column("token_limit", Double),
        Column("tokens_per_s", Double),
        Column("updated_at", Double, nullable=False, server_default="0"),  # when a worker last noted limits
    )


def worker_table(owner: str, metadata: MetaData) -> Table:
    """Return the table `<owner>_worker`: a row for each worker and model that it uses now."""
    return Table(
        f"{owner}_worker",
        metadata,
        Column("worker_id", String(40), primary_key=True),
        Column("model", String(300), primary_key=True),
        Column("seen_at", Double, nullable=False),  # the last sign of life
    )
