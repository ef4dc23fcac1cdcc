"""Fixtures of the tests of the gateway's rows; the first two are those of tests/postgres.py."""

from survey_rows import database_url, file_gateways, gateways, postgres, shared

__all__ = ["database_url", "file_gateways", "gateways", "postgres", "shared"]
