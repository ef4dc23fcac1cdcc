"""Checks of request fields: every rule is tried, and all that are broken are reported at once."""

import re
from typing import Any

from services.common.errors import InvalidRequest, Violation

LANGUAGE = re.compile(r"[a-z]{2,3}")
MODEL = re.compile(r"[a-z0-9_-]+:[^\s,]{1,200}")
MAX_MODELS = 5


class FieldChecks:
    """Collects violations; `finish` raises when there are any."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Record a broken rule."""
        self._violations.append(Violation(field=field, description=description))

    def require(self, is_kept: bool, field: str, description: str) -> bool:
        """Record a broken rule unless it is kept; return whether it is."""
        if not is_kept:
            self.add(field, description)
        return is_kept

    def length(self, field: str, value: str, low: int, high: int) -> bool:
        """Require a text of `low` to `high` characters without NUL; blanks count only against `high`."""
        if not self.require("\0" not in value, field, "no NUL character"):
            return False
        found = len(value) if value.strip() or len(value) > high else 0
        wanted = f"{low:,} to {high:,} characters" if low else f"at most {high:,} characters"
        return self.require(low <= found <= high, field, f"{wanted}, not {found:,}")

    def number(self, field: str, value: int, low: int, high: int) -> bool:
        """Require 0, which means the default, or a number of `low` to `high`."""
        return self.require(value == 0 or low <= value <= high, field, f"{low:,} to {high:,}, not {value:,}")

    def count(self, field: str, found: int, low: int, high: int) -> bool:
        """Require `low` to `high` items."""
        return self.require(low <= found <= high, field, f"{low:,} to {high:,} items, not {found:,}")

    def unique(self, field: str, values: list[str]) -> bool:
        """Require that no value stands twice; name one that does."""
        seen: set[str] = set()
        for value in values:
            if value in seen:
                self.add(field, f"{value!r} stands there twice")
                return False
            seen.add(value)
        return True

    def enum(self, field: str, value: int, kind: Any) -> bool:  # Any: protobuf's enum wrappers share no base class
        """Require a value the contract knows; list those it knows."""
        names = [name.removeprefix(_prefix(kind)).lower() for name in kind.keys()[1:]]
        return self.require(value in kind.values(), field, f"one of {', '.join(names)}, not {value}")

    def model(self, field: str, value: str) -> bool:
        """Require nothing, which means the default, or "provider:model"."""
        is_model = not value or MODEL.fullmatch(value) is not None
        return self.require(is_model, field, f"provider:model, not {value[:80]!r}")

    def models(self, field: str, value: str) -> bool:
        """Require nothing, which means the default, or at most 5 times "provider:model", separated by commas."""
        names = value.split(",") if value else []
        is_list = len(names) <= MAX_MODELS and all(MODEL.fullmatch(name) for name in names)
        return self.require(is_list, field, f"provider:model, more of them after commas, not {value[:80]!r}")

    def finish(self) -> None:
        """End the checks.

        Raises:
            InvalidRequest: at least one rule is broken; it names them all.
        """
        if self._violations:
            raise InvalidRequest(self._violations)


def _prefix(kind: Any) -> str:
    """Return what all names of an enum begin with: "SOURCE_" for SOURCE_UNSPECIFIED."""
    first: str = kind.keys()[0]
    return first.removesuffix("UNSPECIFIED")
