"""Fixtures of the contract tests: databases of gateways."""

from postgres import postgres
from survey_rows import file_gateways, gateway_store, gateways

__all__ = ["file_gateways", "gateway_store", "gateways", "postgres"]
