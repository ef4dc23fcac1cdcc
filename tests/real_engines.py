"""Engines over the real providers' libraries, the real ledger and the real governor; only the server is played."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from standins.provider_server import ProviderStandIn

from services.common.server import RoleServer
from services.common.settings import SharedSettings, load
from services.generation.engines import Engines
from services.generation.parts import parts_of

KEYS = {"OPENAI": "OPENAI_API_KEY", "ANTHROPIC": "ANTHROPIC_API_KEY", "GEMINI": "GEMINI_API_KEY"}


def point_at(provider: ProviderStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set all three providers' keys and addresses to those of the stand-in."""
    for name, variable in KEYS.items():
        monkeypatch.setenv(variable, "sk-of-a-stand-in")
        monkeypatch.setenv(f"PAPERROUTE_{name}__BASE_URL", getattr(provider, f"{name.lower()}_url"))


@contextlib.asynccontextmanager
async def engines_of_environment() -> AsyncIterator[Engines]:
    """Make what a role makes, without its server."""
    host = RoleServer("127.0.0.1:0")
    parts = parts_of(host, load(SharedSettings))
    try:
        yield Engines(parts.providers, parts.calls)
    finally:
        await host.stop(0)
