"""Moments of rows, seconds since 1970, as messages carry them."""

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp_at(seconds: float) -> Timestamp:
    """Return the timestamp of a moment."""
    timestamp = Timestamp()
    timestamp.FromMicroseconds(round(seconds * 1_000_000))
    return timestamp


def seconds_of(timestamp: Timestamp) -> float:
    """Return the moment of a timestamp, to the microsecond."""
    return timestamp.ToMicroseconds() / 1_000_000


def limit_of(timestamp: Timestamp) -> float:
    """Return the moment from which rows are told with this timestamp or a later one: timestamps are rounded."""
    return seconds_of(timestamp) - 0.000_000_5
