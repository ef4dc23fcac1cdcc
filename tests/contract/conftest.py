"""Fixtures of the contract tests: databases of gateways."""

from postgres import database_url, postgres
from survey_rows import file_gateways, gateway_store, gateways

__all__ = ["database_url", "file_gateways", "gateway_store", "gateways", "postgres"]
