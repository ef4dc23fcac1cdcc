"""What every test gets: no provider keys, no settings of the shell, no store of the user."""

import os
from pathlib import Path

import pytest

PROVIDER_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Clear what a shell may hold, and keep every store inside the test's own folder."""
    for name in list(os.environ):
        if name.startswith("PAPERROUTE_") or name in PROVIDER_KEYS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("PAPERROUTE_DATA_DIR", str(tmp_path / "data"))
