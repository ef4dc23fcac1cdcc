"""The log: to stderr, a line for each event."""

import logging
import sys

from services.common.settings import SettingsError, SharedSettings

LEVELS = ("debug", "info", "warning", "error")


def configure_logging(shared: SharedSettings) -> None:
    """Send log records of the wanted level and above to stderr, one line each.

    Raises:
        SettingsError: there is no such level.
    """
    level = shared.log_level
    if level not in LEVELS:
        raise SettingsError([f"PAPERROUTE_LOG_LEVEL={level!r}: one of {', '.join(LEVELS)}"])
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
