"""What every test gets: no provider keys, no settings of the shell, no store of the user, no log of another test."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.telemetry.logs import ROOMS, JsonLines, TextLines

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
    """Begin with the log as Python has it: a program that runs in the tests' process sets it up for itself."""
    _reset_logging()
    yield
    _reset_logging()


def _reset_logging() -> None:
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in [each for each in root.handlers if isinstance(each.formatter, (JsonLines, TextLines))]:
        root.removeHandler(handler)
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)
