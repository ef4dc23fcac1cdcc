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
