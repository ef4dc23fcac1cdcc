"""The roles `paperroute serve` knows; a role's modules are imported when it is chosen."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line shows its help without loading any of this
    from pydantic_settings import BaseSettings

    from services.common.role import Mount


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """Where a role's settings class, its `mount` and its `main` are found."""

    module: str
    settings_module: str
    settings_name: str

    def settings(self) -> "type[BaseSettings]":
        """Return the role's settings class."""
        kind: type[BaseSettings] = getattr(importlib.import_module(self.settings_module), self.settings_name)
        return kind

    def mount(self) -> "Mount[Any]":
        """Return what adds the role's service to a server."""
        mount: Mount[Any] = importlib.import_module(self.module).mount
        return mount

    async def main(self) -> None:
        """Serve the role until a signal."""
        await importlib.import_module(self.module).main()


def _role(package: str, name: str) -> Role:
    return Role(
        module=f"{package}.server",
        settings_module=f"{package}.settings",
        settings_name=f"{name}Settings",
    )


ROLES = {
    "retrieval": _role("services.retrieval", "Retrieval"),
    "embedding": _role("services.embedding", "Embedding"),
    "ordering": _role("services.ordering", "Ordering"),
    "generation": _role("services.generation", "Generation"),
    "summarization": Role(
        module="services.generation.summarization_server",
        settings_module="services.generation.settings",
        settings_name="SummarizationSettings",
    ),
    "gateway": _role("gateway", "Gateway"),
}
