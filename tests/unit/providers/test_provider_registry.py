"""Which providers there are, and that none costs anything before it is used."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from standins.provider_server import ProviderStandIn

from services.common import providers as package
from services.common.providers.registry import Providers, providers_of
from services.common.providers.settings import ProviderSettings
from services.common.server import RoleServer

ROOT = Path(__file__).parents[3]
HEAVY = (
    "openai",
    "anthropic",
    "google.genai",
    "httpx2",
    "aiohttp",
    "sqlalchemy",
    "numpy",
    "genai_prices",
    "aiolimiter",
)


def test_knowing_the_providers_loads_none_of_their_libraries():
    code = (
        "import sys; from services.common.providers.registry import Providers; p = Providers.from_environment(); "
        "[p.find(name) for name in p.names]; p.problem_of('openai:gpt'); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_provider_is_made_once():
    providers = Providers.from_environment()

    assert list(providers.names) == ["anthropic", "gemini", "openai"]
    for name in providers.names:
        found = providers.find(name)
        assert found is providers.find(name)
        assert found.name == name
        assert found.endpoint.startswith("https://")


@pytest.mark.parametrize("name", ["mistral", "", "chat", "settings", "registry", "compatible", "extractive", "../x"])
def test_other_names_are_no_providers(name):
    """Among them modules of the same folder."""
    assert Providers.from_environment().find(name) is None


@pytest.mark.parametrize("model", ["mistral:large", "openai:", "openai", "", ":", "chat:x", "extractive:builtin"])
def test_a_model_of_no_provider_is_told_with_those_there_are(model):
    problem = Providers({"openai": ProviderSettings(api_key=SecretStr("k"))}, {}).problem_of(model)

    assert problem
    assert "openai" in problem
    assert repr(model) in problem


def test_limits_are_those_of_the_models_provider():
    settings = ProviderSettings(requests_per_minute=60, tokens_per_minute=9_000, max_in_flight=4)
    providers = Providers({"openai": settings}, {"vllm": ProviderSettings(base_url="http://x", max_in_flight=2)})

    limits = providers.limits_of("openai:gpt")
    assert (limits.requests_per_minute, limits.tokens_per_minute, limits.max_in_flight) == (60, 9_000, 4)
    assert providers.limits_of("vllm:a:b").max_in_flight == 2
    assert providers.limits_of("nobody:x").requests_per_minute is None


def test_a_provider_is_one_more_module(monkeypatch, tmp_path):
    """Nothing else has to be told of it."""
    (tmp_path / "mistral.py").write_text(
        "KEY_VARIABLES = ('MISTRAL_API_KEY',)\n"
        "class Mistral:\n"
        "    def __init__(self, name, settings, key): self.name, self.key = name, key.current()\n"
        "make = Mistral\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setenv("MISTRAL_API_KEY", "k")
    importlib.invalidate_caches()

    providers = Providers.from_environment()

    assert "mistral" in providers.names
    found = providers.find("mistral")
    assert (found.name, found.key) == ("mistral", "k")
    monkeypatch.delitem(sys.modules, f"{package.__name__}.mistral")


async def test_the_roles_of_a_server_share_providers_until_it_stops(server: ProviderStandIn, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    host = RoleServer("127.0.0.1:0")
    closed = []

    first, second = providers_of(host), providers_of(host)
    found = first.find("openai")

    async def close() -> None:
        closed.append(found)

    monkeypatch.setattr(found, "close", close)
    await host.start()
    await host.stop(drain_s=0)

    assert first is second
    assert closed == [found]


@pytest.mark.parametrize(
    ("provider", "variable"),
    [
        ("openai", "OPENAI_API_KEY or PAPERROUTE_OPENAI__API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY or PAPERROUTE_ANTHROPIC__API_KEY"),
        ("gemini", "GEMINI_API_KEY or PAPERROUTE_GEMINI__API_KEY"),
        ("ollama", "PAPERROUTE_COMPATIBLE__OLLAMA__API_KEY"),
    ],
)
def test_each_provider_knows_where_its_key_is_set(provider: str, variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_COMPATIBLE__OLLAMA__BASE_URL", "http://127.0.0.1:1/v1")

    found = Providers.from_environment().find(provider)

    assert found is not None
    assert found.key_variable == variable
