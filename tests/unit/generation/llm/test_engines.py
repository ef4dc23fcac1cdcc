"""Which engine answers to which models, and what is wrong with models that cannot be."""

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from real_engines import engines_of_environment

from services.common.errors import InvalidRequest
from services.common.fields import FieldChecks
from services.common.paid.settings import BUILTIN, ModelSettings
from services.common.settings import SettingsError, load
from services.generation.engines import MAX_ENGINES, Engines
from services.generation.extractive.engine import ExtractiveEngine
from services.generation.llm.fallback import FallbackEngine


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    async with engines_of_environment() as made:
        yield made


async def test_the_extractive_engine_stands_alone(engines: Engines):
    assert isinstance(engines.of(BUILTIN), ExtractiveEngine)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ("openai:gpt-6-luna", ["openai:gpt-6-luna"]),
        ("openai:a,anthropic:b", ["openai:a", "anthropic:b"]),
        (f"gemini:a,{BUILTIN},openai:b", ["gemini:a"]),
        ("openai:ns/model:7b@4bit", ["openai:ns/model:7b@4bit"]),
    ],
)
async def test_models_stand_in_for_each_other_in_order(models: str, names: list[str], engines: Engines):
    engine = engines.of(models)

    assert isinstance(engine, FallbackEngine)
    assert [each.name for each in engine._engines] == names
    assert engines.of(models) is engine


async def test_what_is_kept_is_bounded(engines: Engines):
    """Whoever may name models could otherwise fill the memory with them."""
    for number in range(MAX_ENGINES + 10):
        engines.of(f"openai:m{number}")

    assert engines._kept.cache_info().currsize == MAX_ENGINES


@pytest.mark.parametrize("models", ["", BUILTIN, "openai:any", "anthropic:x,gemini:y,extractive:builtin"])
async def test_models_that_may_be_named(models: str, engines: Engines):
    """A key that is missing is told when the model is used, since it may be there by then."""
    checks = FieldChecks()

    engines.check_models(checks, "model", models)

    checks.finish()


@pytest.mark.parametrize(
    "models",
    ["nobody:model", "openai", "openai:", ":model", "openai:a,,b", "openai:a b", "extractive:other", "OPENAI:a",
     "openai:a,nobody:b", ",".join(["openai:a"] * 6)],
)  # fmt: skip
async def test_models_that_cannot_be_are_named_with_their_field(models: str, engines: Engines):
    checks = FieldChecks()

    engines.check_models(checks, "model", models)

    with pytest.raises(InvalidRequest) as failure:
        checks.finish()
    assert [each.field for each in failure.value.violations] == ["model"]


async def test_an_unknown_provider_is_told_those_there_are(engines: Engines):
    checks = FieldChecks()

    engines.check_models(checks, "model", "nobody:model")

    with pytest.raises(InvalidRequest, match=r"extractive:builtin.*anthropic.*gemini.*openai.*nobody:model"):
        checks.finish()


async def test_a_server_that_the_settings_name_is_a_provider(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_COMPATIBLE__OLLAMA__BASE_URL", "http://127.0.0.1:11434/v1")
    checks = FieldChecks()

    async with engines_of_environment() as engines:
        engines.check_models(checks, "model", "ollama:qwen3:4b")
        engine = engines.of("ollama:qwen3:4b")

    checks.finish()
    assert isinstance(engine, FallbackEngine)


async def test_a_start_with_models_that_cannot_be_names_each_variable(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PAPERROUTE_MODELS__PLAN", "nobody:model")
    monkeypatch.setenv("PAPERROUTE_MODELS__WRITE", f"openai:gpt-6-luna,{BUILTIN}")
    monkeypatch.setenv("PAPERROUTE_MODELS__SUMMARIZE", "nobody:either")

    with pytest.raises(SettingsError) as failure:
        engines.require_defaults(load(ModelSettings), ("plan", "write", "frame"))

    first, second = failure.value.problems
    assert first.startswith("PAPERROUTE_MODELS__PLAN='nobody:model': ")
    assert second.startswith("PAPERROUTE_MODELS__WRITE='openai:gpt-6-luna': ")
    assert "OPENAI_API_KEY" in second


async def test_a_start_with_models_that_can_be_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_MODELS__WRITE", "openai:gpt-6-luna")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")

    async with engines_of_environment() as engines:
        engines.require_defaults(load(ModelSettings), ("plan", "write", "frame"))


def test_the_extractive_engine_loads_nothing_of_the_others():
    """A role that never makes a paid call must not pay for the libraries of those that do."""
    code = """
import sys
from services.common.server import RoleServer
from services.common.settings import SharedSettings, load
from services.generation.engines import Engines
from services.generation.parts import parts_of
import asyncio

async def main():
    parts = parts_of(RoleServer("127.0.0.1:0"), load(SharedSettings))
    Engines(parts.providers, parts.calls).of("extractive:builtin")

asyncio.run(main())
heavy = {"openai", "anthropic", "google.genai", "sqlalchemy", "alembic", "genai_prices", "aiolimiter", "rapidfuzz"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
