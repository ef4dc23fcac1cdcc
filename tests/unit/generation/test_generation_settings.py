"""Settings of the two roles: a bad one stops the start by its name, and none picks a paid model by itself."""

from pathlib import Path

import pytest

from services.common.paid.settings import BUILTIN, ModelSettings
from services.common.server import RoleServer
from services.common.settings import SettingsError, SharedSettings, load
from services.generation import server, summarization_server
from services.generation.settings import GenerationSettings, SummarizationSettings

STAGES = ("plan", "summarize", "write", "frame")


def start_generation(folder: Path) -> None:
    server.mount(RoleServer("127.0.0.1:0"), GenerationSettings(), SharedSettings(data_dir=folder))


def test_no_role_picks_a_paid_model_by_itself(monkeypatch: pytest.MonkeyPatch):
    """Not even where a key lies ready."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-there")

    assert {getattr(load(ModelSettings), stage) for stage in STAGES} == {BUILTIN}


@pytest.mark.parametrize("stage", ["plan", "write", "frame"])
async def test_an_unknown_default_stops_the_start(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A role that starts must be able to do its work."""
    monkeypatch.setenv(f"PAPERROUTE_MODELS__{stage.upper()}", "nobody:gpt")

    with pytest.raises(SettingsError) as failure:
        start_generation(tmp_path)

    (problem,) = failure.value.problems
    assert problem.startswith(f"PAPERROUTE_MODELS__{stage.upper()}='nobody:gpt': ")
    assert "anthropic, gemini, openai" in problem


async def test_a_default_without_its_key_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_MODELS__WRITE", "anthropic:claude-haiku-5-5,extractive:builtin")

    with pytest.raises(SettingsError, match="ANTHROPIC_API_KEY"):
        start_generation(tmp_path)


async def test_an_unknown_default_stops_summarization_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_MODELS__SUMMARIZE", "nobody:gpt")

    with pytest.raises(SettingsError, match="PAPERROUTE_MODELS__SUMMARIZE"):
        summarization_server.mount(
            RoleServer("127.0.0.1:0"), SummarizationSettings(), SharedSettings(data_dir=tmp_path)
        )


@pytest.mark.parametrize("value", ["gpt", "openai:a,", "openai:a b"])
def test_malformed_models_are_named(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_MODELS__WRITE", value)

    with pytest.raises(SettingsError, match="PAPERROUTE_MODELS__WRITE="):
        load(ModelSettings)
