"""Vectors for texts: words hashed into places, so that texts with the same words lie near each other."""

import hashlib
import math
import re

_PLACES_PER_WORD = 8
FULL_DIMENSION = 3_072


def hashed_vector(text: str, dimension: int, *, is_normalized: bool) -> list[float]:
    """Return the first `dimension` of 3,072 values; the whole has length 1, and the part too where it is wanted."""
    whole = [0.0] * FULL_DIMENSION
    for word in re.findall(r"\w+", text.casefold()) or [text]:
        digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=4 * _PLACES_PER_WORD).digest()
        for at in range(0, len(digest), 4):
            number = int.from_bytes(digest[at : at + 4], "little")
            whole[number % FULL_DIMENSION] += 1.0 if number >> 31 else -1.0
    part = _scaled(whole[:dimension], whole)
    return _scaled(part, part) if is_normalized else part


def _scaled(values: list[float], by: list[float]) -> list[float]:
    """Return values divided by the length of a vector."""
    length = math.sqrt(sum(value * value for value in by)) or 1.0
    return [value / length for value in values]
