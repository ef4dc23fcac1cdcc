"""Fixtures of the tests of access."""

from postgres import database_url, postgres
from survey_rows import file_gateways, gateway_store, gateways
from virtual_time import clock

__all__ = ["clock", "database_url", "file_gateways", "gateway_store", "gateways", "postgres"]
