"""Fixtures of the tests of access."""

from virtual_time import clock

__all__ = ["clock"]
