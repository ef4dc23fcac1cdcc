import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.common.server import RoleServer
from services.common.settings import SettingsError, SharedSettings, load
from services.embedding.edge_store import EdgeStore
from services.embedding.qdrant_store import QdrantStore
from services.embedding.server import mount, store_of
from services.embedding.settings import EmbeddingSettings

ROOT = Path(__file__).parents[3]
HEAVY = ("qdrant_client", "qdrant_edge", "portalocker", "wordllama", "tokenizers", "safetensors", "fastembed")


def test_importing_the_role_imports_nothing_heavy():
    """One process holds all roles; each must start at once, also the ones that are never called."""
    code = f"import sys, services.embedding.server; print([name for name in {HEAVY!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_store_in_a_folder_does_without_the_servers_client():
    """Importing that takes a second and 60 MB."""
    code = """
import asyncio, sys
from services.embedding.edge_store import EdgeStore
from services.embedding.paper_vectors import PaperVectors, Selection
from services.embedding.wordllama_encoder import WordLlamaEncoder
from services.common.papers import Paper
from datetime import UTC, datetime

async def main():
    store = EdgeStore(None)
    paper = Paper(paper_id="2101.00001", title="T", abstract="A", published_at=datetime(2021, 1, 1, tzinfo=UTC))
    await PaperVectors(store).embed(WordLlamaEncoder(), [paper])
    print(len(await PaperVectors(store).find(WordLlamaEncoder(), "T", Selection(categories=()), 5)))
    await store.close()

asyncio.run(main())
print("qdrant_client" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "False"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("PAPERROUTE_EMBEDDING__STORE", "qdrant", id="neither memory nor URL"),
        pytest.param("PAPERROUTE_EMBEDDING__MEMORY_WHEN_LOCKED", "perhaps", id="no truth value"),
    ],
)
def test_a_bad_setting_is_told_by_its_name(name, value, monkeypatch):
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=name):
        load(EmbeddingSettings)


@pytest.mark.parametrize(
    ("store", "kind"),
    [
        pytest.param("", EdgeStore, id="default"),
        pytest.param(":memory:", EdgeStore, id="memory"),
        pytest.param("http://qdrant:6333", QdrantStore, id="server"),
        pytest.param("https://qdrant.example/prefix", QdrantStore, id="server below a path"),
    ],
)
async def test_stores_that_can_be_named(store, kind, tmp_path):
    assert isinstance(store_of(EmbeddingSettings(store=store), tmp_path), kind)


def test_the_key_of_the_server_is_shown_nowhere():
    settings = EmbeddingSettings(store_key=SecretStr("quiet"))

    assert "quiet" not in f"{settings!r} {settings}"


@pytest.mark.parametrize("name", ["openai:none", "wordllama:none", "none", ""])
async def test_a_default_encoder_that_does_not_exist_stops_the_start(name, tmp_path):
    host = RoleServer("127.0.0.1:0")

    with pytest.raises(SettingsError, match=f"PAPERROUTE_EMBEDDING__ENCODER='{name}': .*fastembed or wordllama"):
        mount(host, EmbeddingSettings(encoder=name), SharedSettings(data_dir=tmp_path))
    await host.stop(drain_s=0)
