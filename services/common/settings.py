"""Settings come from the environment, are read once, in `main`, and a bad one stops the start by its name."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import platformdirs
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "PAPERROUTE_"
ROLES = ("retrieval", "embedding", "ordering", "generation", "summarization", "gateway")
GROUPS = (*ROLES, "models", "paid", "compatible")
"""What may stand before "__" in the name of a variable, besides the names of providers."""
PROVIDERS = Path(__file__).parent / "providers"
"""Folder of the providers, a module each."""
Settings = TypeVar("Settings", bound=BaseSettings)
MIN_TOKEN_LENGTH = 20
"""Shorter ones can be guessed."""
MAX_PORT = 65_535


def _token_of(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if len(text) < MIN_TOKEN_LENGTH or not all("!" <= character <= "~" for character in text):
        raise ValueError(f"at least {MIN_TOKEN_LENGTH} characters, ASCII without blanks")
    return value


def _endpoint_of(value: str) -> str:
    if value and not _is_address(value.removeprefix("http://").removeprefix("https://"), lowest_port=1):
        raise ValueError("host:port, or https://host:port for a receiver that encrypts")
    return value


def _listen_of(value: str) -> str:
    if value and not _is_address(value, lowest_port=0):
        raise ValueError("host:port; port 0 picks a free one")
    return value


def _is_address(value: str, lowest_port: int) -> bool:
    host, _, port = value.rpartition(":")
    is_host = re.fullmatch(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]", host) is not None
    return is_host and re.fullmatch(r"[0-9]{1,5}", port) is not None and lowest_port <= int(port) <= MAX_PORT


TokenSecret = Annotated[SecretStr, AfterValidator(_token_of)]
"""A token that travels in a header; it shows in no repr, log or error."""


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
    log_format: Literal["text", "json"] = "text"
    """json writes one object a line, with the ids of trace and span."""
    otlp_endpoint: Annotated[str, AfterValidator(_endpoint_of)] = ""
    """host:port of an OTLP gRPC receiver for traces and metrics, https://host:port for one that encrypts; empty sends
    none and does not import the SDK."""
    metrics_listen: Annotated[str, AfterValidator(_listen_of)] = ""
    """host:port at which a Prometheus may scrape the metrics of this process, port 0 picks a free one; empty for none.
    """
    trace_content: bool = False
    """Whether spans of model calls hold prompts and answers: they are then readable wherever traces are."""
    service_token: TokenSecret | None = None
    """What services prove each other that they belong together; the same for all roles. At least 20 characters."""
    allow_insecure_listen: bool = False
    """Whether a role may listen beyond loopback without the tokens and the encryption that it asks for."""


class ClientSettings(BaseSettings):
    """How a program reaches a gateway; each is read from PAPERROUTE_<NAME>."""

    model_config = settings_config("")

    token: TokenSecret | None = None
    """Says who the program is: the secret of a token, or the gateway's PAPERROUTE_GATEWAY__ADMIN_TOKEN."""
    ca: str = ""
    """PEM file of the certificates that the gateway's is checked with, or "system" for those everybody trusts. With it
    the channel is encrypted, without it is not."""
    client_cert: Path | None = None
    """PEM file of the certificate, with its chain, that the program shows to the gateway."""
    client_key: Path | None = None
    """PEM file of that certificate's key."""
    allow_insecure_token: bool = False
    """Whether the token may be sent beyond loopback without encryption."""


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
        problems += [_line_of(kind, prefix, dict(each)) for each in error.errors()]
    if problems:
        raise SettingsError(problems)
    return settings


def _line_of(kind: type[BaseSettings], prefix: str, error: Mapping[str, object]) -> str:
    location = error["loc"]
    name = str(location[0]) if isinstance(location, tuple) and location else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    field = kind.model_fields.get(name)
    is_shown = field is None or (field.repr and not _holds_secret(field.annotation))
    found = f"={error.get('input')!r}" if is_shown else ""
    return f"{prefix}{name.upper()}{found}: {message}"


def _holds_secret(annotation: Any) -> bool:  # Any: what a field is declared as
    return annotation is SecretStr or any(_holds_secret(part) for part in get_args(annotation))


def _unknown_names(kind: type[BaseSettings], prefix: str, names: Mapping[str, str]) -> list[str]:
    sharing = (SharedSettings, ClientSettings) if prefix == PREFIX else ()
    known = {f"{prefix}{field.upper()}" for each in (kind, *sharing) for field in each.model_fields}
    mine = [name for name in names if name.startswith(prefix) and name not in known]
    if prefix == PREFIX:  # variables of the roles begin with the shared prefix too
        groups = {*GROUPS, *(module.stem for module in PROVIDERS.glob("*.py"))}
        mine = [name for name in mine if name.removeprefix(PREFIX).split("__")[0].lower() not in groups]
    return [f"{name}: no such setting{_suggestion(name, known)}" for name in sorted(mine)]


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
