"""Changes of the gateway's tables, in order; `gateway.store.schema` runs them with Alembic."""
