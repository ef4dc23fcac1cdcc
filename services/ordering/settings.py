"""Settings of the ordering service."""

import os

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings

from services.common.settings import settings_config


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use, not what the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OrderingSettings(BaseSettings):
    """Settings of the ordering service; each is read from PAPERROUTE_ORDERING__<NAME>."""

    model_config = settings_config("ordering")

    listen: str = "127.0.0.1:50053"
    """host:port of the gRPC listener; port 0 picks a free one."""
    search_factor: PositiveFloat = 1.0
    """Multiplies the time ROUTE searches, which is 0.13 s at 160 papers, 0.5 s at 1,000 and 5 s at 5,000."""
    concurrent_solves: PositiveInt = Field(default_factory=_usable_cores)
    """Most requests worked on at once; the rest wait. Each may hold 0.8 GB at 10,000 papers, 7 MB at 160."""
