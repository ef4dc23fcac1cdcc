"""Providers of a stand-in server, by their real libraries, and requests to them."""

from typing import Any

from pydantic import SecretStr
from standins.provider_server import ProviderStandIn

from services.common.providers.chat import ChatRequest
from services.common.providers.registry import Providers
from services.common.providers.settings import ProviderSettings

MODELS = {
    "openai": "gpt-6-luna",
    "anthropic": "claude-sonnet-5-5",
    "gemini": "gemini-3.8-flash",
    "ollama": "qwen2.5:1.5b",
}
KEY = "sk-a1b2c3d4e5f6-not-to-be-seen"


class Texts:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def text(self, piece: str) -> None:
        self.pieces.append(piece)

    def restart(self, reason: str) -> None:
        raise AssertionError(reason)


def providers_at(server: ProviderStandIn, **settings: Any) -> Providers:
    """Return all providers, each with the stand-in as its server."""
    given: dict[str, Any] = {"api_key": SecretStr(KEY), **settings}
    urls = {"openai": server.openai_url, "anthropic": server.anthropic_url, "gemini": server.gemini_url}
    own = {name: ProviderSettings(base_url=url, **given) for name, url in urls.items()}
    return Providers(own, {"ollama": ProviderSettings(base_url=server.openai_url, **settings)})


def request_to(provider: str, **parts: Any) -> ChatRequest:
    """Return a request for a model of a provider; `parts` replace its own."""
    given = {"model": MODELS[provider], "system": "You write.", "prompt": "Write of LoRA.", "max_output_tokens": 500}
    return ChatRequest(**{**given, **parts})
