"""What the commands make of their arguments; what cannot be one becomes a value that the gateway refuses.

So it names the field together with all others that are broken.
"""

from decimal import Decimal, InvalidOperation
from typing import Any

from services.common.paid.money import nano_of

REFUSED = 2**31 - 1
"""No enum will ever hold it, and no count allows it."""
REFUSED_COST = -1
_MAX_NANO = 2**63


def enum_value(kind: Any, prefix: str, name: str) -> Any:
    """Return the value of an enum by its name as people write it: "max-papers" for PREFIX_MAX_PAPERS."""
    full = f"{prefix}{name.upper().replace('-', '_')}"
    return kind.Value(full) if full in kind.keys()[1:] else REFUSED


def enum_name(kind: Any, prefix: str, value: int) -> str:
    """Return the name of an enum's value as people write it."""
    return str(kind.Name(value)).removeprefix(prefix).lower().replace("_", "-")


def nano_usd(text: str) -> int:
    """Return an amount of US dollars in nano-US-dollars."""
    try:
        nano = nano_of(Decimal(text.removeprefix("$")))
    except (InvalidOperation, ValueError, OverflowError):
        return REFUSED_COST
    return nano if 0 <= nano < _MAX_NANO else REFUSED_COST
