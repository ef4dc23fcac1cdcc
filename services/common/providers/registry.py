"""The providers there are: found by the names of modules beside this one, loaded when one is asked for.

A provider is one module: KEY_VARIABLES, the usual names of its key, and `make`, which returns its `Provider`. Servers
that speak OpenAI's protocol need no module: the settings name them.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Protocol, Self, cast

from services.common import providers as package
from services.common.errors import NotReady
from services.common.paid.governor import ConfiguredLimits
from services.common.providers.chat import Provider
from services.common.providers.settings import (
    COMPATIBLE,
    ProviderKey,
    ProviderSettings,
    compatible_settings,
    provider_settings,
)
from services.common.server import RoleServer
from services.common.settings import PREFIX, SettingsError

PROTOCOL = "openai"
"""Whose module serves the servers that the settings name."""
RESERVED = ("extractive", "wordllama", "fastembed")
"""Names of engines and encoders that need no server."""


class ProviderModule(Protocol):
    """What the module of a provider has."""

    KEY_VARIABLES: Sequence[str]

    def make(self, name: str, settings: ProviderSettings, key: ProviderKey) -> Provider:
        """Return the provider; nothing is opened yet."""
        ...


class Providers:
    """All providers of a process; each is made when a model of it is first asked for."""

    def __init__(self, own: Mapping[str, ProviderSettings], compatible: Mapping[str, ProviderSettings]) -> None:
        """Name them.

        Args:
            own: settings of the providers that have a module.
            compatible: settings of the servers that speak OpenAI's protocol.
        """
        self._own = own
        self._compatible = compatible
        self._made: dict[str, Provider] = {}

    @classmethod
    def from_environment(cls) -> Self:
        """Return the providers as the environment has them.

        Raises:
            SettingsError: a variable has a bad value or a name that no setting has; all of them are named.
        """
        problems: list[str] = []
        own: dict[str, ProviderSettings] = {}
        for name, module in _modules().items():
            try:
                own[name] = provider_settings(name, module.KEY_VARIABLES)
            except SettingsError as error:
                problems += error.problems
        try:
            compatible = compatible_settings(taken=(*_modules(), *RESERVED))
        except SettingsError as error:
            problems += error.problems
        if problems:
            raise SettingsError(problems)
        return cls(own, compatible)

    @property
    def names(self) -> Sequence[str]:
        """What may stand before the colon in "provider:model"."""
        return sorted([*self._own, *self._compatible])

    def find(self, name: str) -> Provider | None:
        """Return a provider, always the same one; None when there is none of that name."""
        if name not in self._made:
            settings = self._settings(name)
            if settings is None:
                return None
            module = _module(PROTOCOL if name in self._compatible else name)
            self._made[name] = module.make(name, settings, self._key(name, settings))
        return self._made[name]

    def limits_of(self, model: str) -> ConfiguredLimits:
        """Return the limits set for the provider of "provider:model"; the defaults for one that there is not."""
        settings = self._settings(model.partition(":")[0]) or ProviderSettings()
        return ConfiguredLimits(
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            max_in_flight=settings.max_in_flight,
        )

    def problem_of(self, model: str) -> str | None:
        """Return why "provider:model" cannot be used, as far as that shows without a call; None when nothing does."""
        name, _, rest = model.partition(":")
        settings = self._settings(name)
        if settings is None or not rest:
            return f"provider:model with one of the providers {', '.join(self.names)}, not {model[:40]!r}"
        try:
            self._key(name, settings).current()
        except NotReady as error:
            return error.message
        return None

    async def close(self) -> None:
        """Close all clients."""
        for provider in self._made.values():
            await provider.close()

    def _settings(self, name: str) -> ProviderSettings | None:
        return self._own.get(name) or self._compatible.get(name)

    def _key(self, name: str, settings: ProviderSettings) -> ProviderKey:
        if name in self._compatible:
            return ProviderKey(name, settings, variable=f"{COMPATIBLE}{name.upper()}__API_KEY", is_needed=False)
        usual = _module(name).KEY_VARIABLES[0]
        return ProviderKey(name, settings, variable=f"{usual} or {PREFIX}{name.upper()}__API_KEY")


def providers_of(host: RoleServer) -> Providers:
    """Return the providers that the roles of a server share.

    Raises:
        SettingsError: the environment cannot be used.
    """
    return host.once("providers", Providers.from_environment, Providers.close)


def _modules() -> Mapping[str, ProviderModule]:
    """Return the modules of providers; importing them loads no provider's library."""
    found = {each.name: _module(each.name) for each in pkgutil.iter_modules(package.__path__)}
    return {name: module for name, module in found.items() if hasattr(module, "KEY_VARIABLES")}


def _module(name: str) -> ProviderModule:
    return cast("ProviderModule", importlib.import_module(f"{package.__name__}.{name}"))
