"""Settings of the two roles: a bad one stops the start by its name."""

from pathlib import Path

import pytest

from services.common.server import RoleServer
from services.common.settings import SettingsError, SharedSettings, load
from services.generation import server, summarization_server
from services.generation.settings import BUILTIN, GenerationSettings, SummarizationSettings


def test_no_role_picks_a_paid_model_by_itself():
    settings = GenerationSettings()

    assert {settings.model_plan, settings.model_write, settings.model_frame} == {BUILTIN}
    assert SummarizationSettings().model_summarize == BUILTIN


@pytest.mark.parametrize("name", ["plan", "write", "frame"])
async def test_an_unknown_default_stops_the_start(name: str, tmp_path: Path):
    """A role that starts must be able to do its work."""
    settings = GenerationSettings(**{f"model_{name}": "openai:gpt"})

    with pytest.raises(SettingsError) as failure:
        server.mount(RoleServer("127.0.0.1:0"), settings, SharedSettings(data_dir=tmp_path))

    assert failure.value.problems == [
        f"PAPERROUTE_GENERATION__MODEL_{name.upper()}='openai:gpt': one of extractive:builtin"
    ]


async def test_an_unknown_default_stops_summarization_too(tmp_path: Path):
    settings = SummarizationSettings(model_summarize="openai:gpt")

    with pytest.raises(SettingsError, match="PAPERROUTE_SUMMARIZATION__MODEL_SUMMARIZE"):
        summarization_server.mount(RoleServer("127.0.0.1:0"), settings, SharedSettings(data_dir=tmp_path))


def test_a_malformed_model_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_GENERATION__MODEL_WRITE", "gpt")

    with pytest.raises(SettingsError, match="PAPERROUTE_GENERATION__MODEL_WRITE='gpt'"):
        load(GenerationSettings)
