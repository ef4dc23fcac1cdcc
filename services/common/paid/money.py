"""Money: a whole number of nano-US-dollars in messages and tables, Decimal where it is worked out."""

from decimal import ROUND_HALF_UP, Decimal

NANO = Decimal(1_000_000_000)
"""Nano-US-dollars in a US dollar."""


def nano_of(usd: Decimal) -> int:
    """Return US dollars as nano-US-dollars, half up."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_UP))


def usd_of(nano_usd: int) -> Decimal:
    """Return nano-US-dollars as US dollars, exactly."""
    return Decimal(nano_usd) / NANO


def shown(nano_usd: int, places: int = 4) -> str:
    """Return US dollars to that many places, half up: "0.0059". Round only what is shown, and sums last."""
    return str(usd_of(nano_usd).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))
