import os
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
PAID = (
    "openai",
    "anthropic",
    "google.genai",
    "httpx2",
    "aiohttp",
    "sqlalchemy",
    "alembic",
    "genai_prices",
    "aiolimiter",
)


def test_importing_the_role_imports_nothing_heavy():
    """One process holds all roles; each must start at once, also the ones that are never called."""
    heavy = (*HEAVY, *PAID)
    code = f"import sys, services.embedding.server; print([name for name in {heavy!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_store_in_a_folder_does_without_the_servers_client():
    """Importing that takes a second and 60 MB."""
    code = """
import asyncio, sys
from services.embedding.edge_store import EdgeStore
from services.embedding.local_encoder import LocalEncoder
from services.embedding.paper_vectors import PaperVectors, Selection
from services.embedding.wordllama_encoder import WordLlamaEncoder
from services.common.deadlines import Deadline
from services.common.paid.caller import Caller
from services.common.papers import Paper
from datetime import UTC, datetime

async def main():
    store = EdgeStore(None)
    caller = Caller(tenant="t", survey_id="s", stage="embed", item="", deadline=Deadline.after(60))
    paper = Paper(paper_id="2101.00001", title="T", abstract="A", published_at=datetime(2021, 1, 1, tzinfo=UTC))
    encoder = LocalEncoder(WordLlamaEncoder())
    await PaperVectors(store).embed(encoder, [paper], "", caller)
    print(len((await PaperVectors(store).find(encoder, "T", Selection(categories=()), 5, caller)).papers))
    await store.close()

asyncio.run(main())
print("qdrant_client" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "False"]


def test_a_role_that_pays_nobody_loads_nothing_for_it(tmp_path):
    """Neither the providers' libraries nor a ledger: it starts, answers and stops without them."""
    code = f"""
import asyncio, sys
from pathlib import Path
import grpc
from paperroute.v1 import embedding_service_pb2 as pb, embedding_service_pb2_grpc as pb_grpc
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.embedding.server import mount
from services.embedding.settings import EmbeddingSettings

async def main():
    host = RoleServer("127.0.0.1:0")
    mount(host, EmbeddingSettings(), SharedSettings(data_dir=Path({str(tmp_path)!r})))
    await host.start()
    async with grpc.aio.insecure_channel(host.address) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        print((await stub.EmbedTexts(pb.EmbedTextsRequest(texts=["a"]), timeout=60)).count)
    await host.stop(drain_s=0)

asyncio.run(main())
print([name for name in {PAID!r} if name in sys.modules])
"""
    environment = {**os.environ, "OPENAI_API_KEY": "k"}

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == ["1", "[]"]
    assert not list(tmp_path.glob("*.sqlite3"))


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


@pytest.mark.parametrize("name", ["openai:none", "anthropic:x@8", "wordllama:none", "nobody:x@8", "none", ""])
async def test_a_default_encoder_that_does_not_exist_stops_the_start(name, tmp_path):
    host = RoleServer("127.0.0.1:0")

    with pytest.raises(SettingsError, match=f"PAPERROUTE_EMBEDDING__ENCODER='{name}': .*gemini or openai or wordllama"):
        mount(host, EmbeddingSettings(encoder=name), SharedSettings(data_dir=tmp_path))
    await host.stop(drain_s=0)


async def test_a_default_encoder_without_its_key_stops_the_start(tmp_path):
    host = RoleServer("127.0.0.1:0")

    with pytest.raises(SettingsError, match="OPENAI_API_KEY or PAPERROUTE_OPENAI__API_KEY"):
        mount(host, EmbeddingSettings(encoder="openai:text-embedding-3-large"), SharedSettings(data_dir=tmp_path))
    await host.stop(drain_s=0)


async def test_a_mistyped_setting_of_a_provider_stops_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERROUTE_OPENAI__BASEURL", "http://127.0.0.1:1")
    host = RoleServer("127.0.0.1:0")

    with pytest.raises(SettingsError, match="did you mean PAPERROUTE_OPENAI__BASE_URL"):
        mount(host, EmbeddingSettings(), SharedSettings(data_dir=tmp_path))
    await host.stop(drain_s=0)
