"""A stand-in server and what makes providers of it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from providing import Texts, providers_at
from standins.provider_server import ProviderStandIn

from services.common.providers.registry import Providers


@pytest.fixture
async def server() -> AsyncIterator[ProviderStandIn]:
    async with ProviderStandIn() as made:
        yield made


@pytest.fixture
async def connect(server: ProviderStandIn) -> AsyncIterator[Callable[..., Providers]]:
    """What makes providers of the stand-in, which are closed at the end."""
    made: list[Providers] = []

    def providers(**settings: Any) -> Providers:
        made.append(providers_at(server, **settings))
        return made[-1]

    yield providers
    for each in made:
        await each.close()


@pytest.fixture
def texts() -> Texts:
    return Texts()
