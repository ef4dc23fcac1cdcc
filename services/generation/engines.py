"""Which engine answers to which "provider:model"."""

from collections.abc import Mapping

from services.common.fields import FieldChecks
from services.common.settings import SettingsError
from services.generation.extractive.engine import ExtractiveEngine
from services.generation.settings import BUILTIN
from services.generation.tasks import Engine

Engines = Mapping[str, Engine]
"""By "provider:model"."""


def make_engines() -> Engines:
    """Return the engines there are; making them opens nothing."""
    return {BUILTIN: ExtractiveEngine()}


def check_model(checks: FieldChecks, engines: Engines, model: str) -> None:
    """Record a model that a request names and that there is not; none at all means the default."""
    known = ", ".join(sorted(engines))
    checks.require(not model or model in engines, "model", f"one of {known}, not {model[:40]!r}")


def require_defaults(engines: Engines, defaults: Mapping[str, str]) -> None:
    """Stop a start whose settings name models that there are not.

    Args:
        engines: those there are.
        defaults: the settings' values by the names of their variables.

    Raises:
        SettingsError: one line for each such setting.
    """
    known = ", ".join(sorted(engines))
    problems = [f"{name}={model!r}: one of {known}" for name, model in defaults.items() if model not in engines]
    if problems:
        raise SettingsError(problems)
