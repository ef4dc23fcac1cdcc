"""Settings of model providers, and their keys, which can be renewed without a restart."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import BaseSettings

from services.common.errors import NotReady
from services.common.providers.capabilities import overrides_in
from services.common.settings import PREFIX, SettingsError, load, settings_config

COMPATIBLE = f"{PREFIX}COMPATIBLE__"
_SERVER_NAME = re.compile(r"[A-Z0-9_-]+")


class ProviderSettings(BaseSettings):
    """Settings of one provider; each is read from PAPERROUTE_<PROVIDER>__<NAME>.

    Those of a server that speaks OpenAI's protocol are read from PAPERROUTE_COMPATIBLE__<SERVER>__<NAME>.
    """

    model_config = settings_config("")

    base_url: str = Field(default="", pattern=r"^(https?://\S+)?$", repr=False)
    """Address of the API; empty means the provider's own. A compatible server needs one."""
    api_key: SecretStr = SecretStr("")
    """Also read from the provider's usual variable, such as OPENAI_API_KEY. A compatible server may need none."""
    api_key_file: Path | None = None
    """File that holds the key instead; it is read again whenever it changes."""
    requests_per_minute: PositiveInt | None = None
    """Most requests of this account to each model; None learns it from the provider's answers."""
    tokens_per_minute: PositiveInt | None = None
    """Most tokens of this account to each model; None learns it from the provider's answers."""
    max_in_flight: PositiveInt = 256
    """Most calls to each model at once."""
    timeout_s: PositiveFloat = 120.0
    """Longest wait for an answer, or for the next piece of one."""
    capabilities: str = ""
    """Corrections of what models are known to take, as JSON by regular expressions of their names:
    {"qwen.*": {"json_mode": "object", "seed": true, "off": {"reasoning_effort": "none"}}}; the fields are those of
    `Capabilities`."""

    @field_validator("capabilities")
    @classmethod
    def _are_readable(cls, value: str) -> str:
        overrides_in(value)
        return value


class ProviderKey:
    """The key of a provider, read anew from its file when that changes; it shows in no repr."""

    def __init__(self, provider: str, settings: ProviderSettings, *, variable: str, is_needed: bool = True) -> None:
        """Say where the key is.

        Args:
            provider: whose key it is.
            settings: hold it, or name its file.
            variable: which to set when it is missing.
            is_needed: whether there are no calls without one.
        """
        self._provider = provider
        self._settings = settings
        self.variable = variable
        self._is_needed = is_needed
        self._read_from: tuple[int, int, int] | None = None
        self._read = ""

    def current(self) -> str:
        """Return the key; empty when there is none and none is needed.

        Raises:
            NotReady: it is missing, or its file cannot be read.
        """
        file = self._settings.api_key_file
        key = self._from(file) if file else self._settings.api_key.get_secret_value().strip()
        if not key and self._is_needed:
            raise NotReady(self._provider, f"its key is missing; set {self.variable}")
        return key

    def _from(self, file: Path) -> str:
        try:
            found = file.stat()
            state = (found.st_mtime_ns, found.st_size, found.st_ino)
            if state != self._read_from:
                self._read = file.read_text(encoding="utf-8").strip()
                self._read_from = state
        except (OSError, UnicodeDecodeError) as error:
            problem = f"the file of its key, {file}, cannot be read ({type(error).__name__})"
            raise NotReady(self._provider, problem) from error
        return self._read


def provider_settings(provider: str, key_variables: Sequence[str]) -> ProviderSettings:
    """Return the settings of a provider as the environment has them; its key also by the usual names.

    Raises:
        SettingsError: a variable has a bad value or a name that no setting has.
    """
    settings = _loaded(provider)
    usual = next((os.environ[name] for name in key_variables if os.environ.get(name)), "")
    if usual and not settings.api_key.get_secret_value():
        return settings.model_copy(update={"api_key": SecretStr(usual)})
    return settings


def compatible_settings(taken: Sequence[str]) -> Mapping[str, ProviderSettings]:
    """Return the settings of all servers that speak OpenAI's protocol, by their names.

    Args:
        taken: names that no server can have.

    Raises:
        SettingsError: a variable has a bad value or a name that no setting has, or a server has no address.
    """
    mine = sorted(name for name in os.environ if name.startswith(COMPATIBLE))
    split = [(name, *name.removeprefix(COMPATIBLE).partition("__")) for name in mine]
    problems = [
        f"{name}: no such setting; {COMPATIBLE}<NAME>__BASE_URL names a server" for name, *_, rest in split if not rest
    ]
    found: dict[str, ProviderSettings] = {}
    for name in dict.fromkeys(server for _, server, _, rest in split if rest):
        server = name.lower()
        try:
            settings = _loaded(f"compatible__{server}")
        except SettingsError as error:
            problems += error.problems
            continue
        if not _SERVER_NAME.fullmatch(name) or server in taken:
            problems.append(f"{COMPATIBLE}{name}__...: a server cannot be called {server!r}; choose another name")
        elif not settings.base_url:
            problems.append(f"{COMPATIBLE}{name}__BASE_URL: an address, such as http://127.0.0.1:11434/v1")
        found[server] = settings
    if problems:
        raise SettingsError(problems)
    return found


def _loaded(group: str) -> ProviderSettings:
    kind = type("ProviderSettings", (ProviderSettings,), {"model_config": settings_config(group)})
    return load(cast("type[ProviderSettings]", kind))
