"""Run by Alembic, never imported: applies migrations on the connection and in the transaction it is handed."""

from alembic import context

from gateway.store.views import create_views, drop_views

_given = context.config.attributes
context.configure(connection=_given["connection"], version_table=_given["version_table"])
with context.begin_transaction():
    drop_views(_given["connection"])  # a table that a view reads cannot be changed everywhere
    context.run_migrations()
    create_views(_given["connection"])
