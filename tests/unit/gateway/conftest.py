"""Fixtures of the tests of the gateway: its database, and PostgreSQL for some."""

from postgres import database_url, postgres
from survey_rows import file_gateways, gateway_store, gateways

__all__ = ["database_url", "file_gateways", "gateway_store", "gateways", "postgres"]
