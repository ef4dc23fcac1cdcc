"""Settings come from the environment, are read once, in `main`, and a bad one stops the start by its name."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "PAPERROUTE_"
ROLES = ("retrieval", "embedding", "ordering", "generation", "summarization", "gateway")
GROUPS = (*ROLES, "models", "paid", "compatible")
"""What may stand before "__" in the name of a variable, besides the names of providers."""
PROVIDERS = Path(__file__).parent / "providers"
"""Folder of the providers, a module each."""
Settings = TypeVar("Settings", bound=BaseSettings)


def settings_config(role: str) -> SettingsConfigDict:
    """Return the configuration of a role's settings class: read from PAPERROUTE_<ROLE>__<NAME>."""
    prefix = f"{PREFIX}{role.upper()}__" if role else PREFIX
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="forbid", env_ignore_empty=True)


class SharedSettings(BaseSettings):
    """What all roles share; each is read from PAPERROUTE_<NAME>."""

    model_config = settings_config("")

    data_dir: Path = Path(platformdirs.user_data_dir("paperroute", appauthor=False))
    """Folder of the store files; made when it is missing, readable by its owner only."""
    database_url: str = Field(default="", repr=False)
    """PostgreSQL for what replicas share, "postgresql://user:password@host/name"; empty keeps it in files."""
    log_level: str = "warning"
    """debug, info, warning or error."""
    otlp_endpoint: str = ""
    """host:port of an OTLP gRPC receiver for traces; empty sends none and does not import the SDK."""
    allow_insecure_listen: bool = False
    """Whether a role may listen beyond loopback although nothing is encrypted or authenticated yet."""


class SettingsError(Exception):
    """Environment variables that cannot be used; `problems` has one line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(kind: type[Settings], environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of a class as the environment has them.

    Raises:
        SettingsError: a variable has a bad value or a name that no setting has.
    """
    names = os.environ if environment is None else environment
    prefix = str(kind.model_config["env_prefix"])
    problems = _unknown_names(kind, prefix, names)
    try:
        settings = kind()
    except ValidationError as error:
        problems += [_line_of(prefix, dict(each)) for each in error.errors()]
    if problems:
        raise SettingsError(problems)
    return settings


def _line_of(prefix: str, error: Mapping[str, object]) -> str:
    location = error["loc"]
    name = str(location[0]) if isinstance(location, tuple) and location else ""
    found = error.get("input")
    return f"{prefix}{name.upper()}={found!r}: {error['msg']}"


def _unknown_names(kind: type[BaseSettings], prefix: str, names: Mapping[str, str]) -> list[str]:
    known = {f"{prefix}{field.upper()}" for field in kind.model_fields}
    mine = [name for name in names if name.startswith(prefix) and name not in known]
    if prefix == PREFIX:  # variables of the roles begin with the shared prefix too
        groups = {*GROUPS, *(module.stem for module in PROVIDERS.glob("*.py"))}
        mine = [name for name in mine if name.removeprefix(PREFIX).split("__")[0].lower() not in groups]
    return [f"{name}: no such setting{_suggestion(name, known)}" for name in sorted(mine)]


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
