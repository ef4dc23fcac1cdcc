from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from postgres import database_url, postgres  # noqa: F401  # fixtures

from services.common.database import Database
from services.common.settings import SharedSettings
from services.retrieval.store import open_store


@pytest.fixture
def shared(database_url: str, tmp_path: Path) -> SharedSettings:  # noqa: F811
    return SharedSettings(database_url=database_url, data_dir=tmp_path / "data")


@pytest.fixture
async def store(shared: SharedSettings) -> AsyncIterator[Database]:
    """An empty store, in SQLite and in PostgreSQL."""
    opened = open_store(shared)
    yield opened
    await opened.close()
