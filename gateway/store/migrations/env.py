"""Run by Alembic, never imported: applies migrations on the connection and in the transaction it is handed."""

from alembic import context

_given = context.config.attributes
context.configure(connection=_given["connection"], version_table=_given["version_table"])
with context.begin_transaction():
    context.run_migrations()
