"""Changes of a ledger's tables, in order; `services.common.paid.ledger_schema` runs them with Alembic."""
