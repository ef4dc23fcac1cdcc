"""Fixtures of the tests of paid calls; the first two are those of tests/postgres.py."""

from ledgers import database_url, file_ledgers, ledgers, postgres, shared

__all__ = ["database_url", "file_ledgers", "ledgers", "postgres", "shared"]
