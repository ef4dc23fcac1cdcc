import subprocess
import sys
from pathlib import Path

import pytest

from services.common.server import RoleServer
from services.common.settings import SettingsError, SharedSettings, load
from services.embedding.server import mount
from services.embedding.settings import EmbeddingSettings

ROOT = Path(__file__).parents[3]
HEAVY = ("qdrant_client", "portalocker", "wordllama", "tokenizers", "safetensors")


def test_importing_the_role_imports_nothing_heavy():
    """One process holds all roles; each must start at once, also the ones that are never called."""
    code = f"import sys, services.embedding.server; print([name for name in {HEAVY!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


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


@pytest.mark.parametrize("store", ["", ":memory:", "http://qdrant:6333", "https://qdrant.example/prefix"])
def test_stores_that_can_be_named(store):
    assert EmbeddingSettings(store=store).store == store


async def test_a_default_encoder_that_does_not_exist_stops_the_start(tmp_path):
    host = RoleServer("127.0.0.1:0")

    with pytest.raises(SettingsError, match="PAPERROUTE_EMBEDDING__ENCODER='openai:none': one of wordllama"):
        mount(host, EmbeddingSettings(encoder="openai:none"), SharedSettings(data_dir=tmp_path))
    await host.stop(drain_s=0)
