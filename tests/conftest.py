"""What every test gets: no provider keys, no settings of the shell, no store of the user, no log of another test."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.telemetry.logs import ROOMS

PROVIDER_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Clear what a shell may hold, and keep every store inside the test's own folder."""
    for name in list(os.environ):
        if name.startswith("PAPERROUTE_") or name in PROVIDER_KEYS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("PAPERROUTE_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Give the log back as it was: a program that runs in the test's process sets it up for itself."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, ROOMS)]
    levels, handlers = [logger.level for logger in loggers], root.handlers[:]
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
