"""Prompt caches as providers keep them: what a request begins with may have been read before."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from standins.provider_wire import UNITS_PER_TOKEN, Asked, Dialect, tokens_in, units_in

BLOCK_TOKENS = 128
MIN_CACHED_TOKENS = 1_024


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """A beginning of a prompt that may be cached."""

    digest: bytes
    tokens: int
    is_kept: bool
    """Whether this request has it cached."""


class PromptCache:
    """Beginnings of the prompts whose answers have begun, by model."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], set[bytes]] = {}

    def split(self, dialect: Dialect, asked: Asked, beginnings: Sequence[Beginning]) -> tuple[int, int]:
        """Return how many of a request's input tokens are read from the cache and how many are written to it."""
        known = self._known.get((asked.provider, asked.model), set())
        read = max((each.tokens for each in beginnings if each.digest in known), default=0)
        if not dialect.is_cached_by_mark:
            return read, 0
        written = max((each.tokens for each in beginnings if each.is_kept), default=0)
        return read, max(0, written - read)

    def remember(self, asked: Asked, beginnings: Sequence[Beginning]) -> None:
        """Keep what a request begins with, now that its answer begins."""
        known = self._known.setdefault((asked.provider, asked.model), set())
        known.update(each.digest for each in beginnings if each.is_kept)


def beginnings_of(dialect: Dialect, asked: Asked) -> list[Beginning]:
    """Return the beginnings of a prompt that may be read from the cache."""
    if dialect.uncached_models.match(asked.model):
        return []
    digest, found = hashlib.blake2b(digest_size=16), []
    for part, tokens, is_kept in _marked_parts(asked) if dialect.is_cached_by_mark else _whole_blocks(asked):
        digest.update(part.encode(errors="replace"))
        if tokens >= MIN_CACHED_TOKENS:
            found.append(Beginning(digest=digest.digest(), tokens=tokens, is_kept=is_kept))
    return found


def _marked_parts(asked: Asked) -> Iterator[tuple[str, int, bool]]:
    """Yield each block up to the last mark, with the tokens up to its end and whether it has a mark."""
    last = max((at for at, block in enumerate(asked.blocks) if block.is_marked), default=-1)
    tokens = 0
    for block in asked.blocks[: last + 1]:
        tokens += tokens_in(block.text)
        yield block.text, tokens, block.is_marked


def _whole_blocks(asked: Asked) -> Iterator[tuple[str, int, bool]]:
    """Yield each 128 tokens of the prompt, with the tokens up to their end."""
    text = "".join(block.text for block in asked.blocks)
    step = BLOCK_TOKENS * UNITS_PER_TOKEN
    units, start, begun, wanted = 0, 0, 0, step
    for length, weight in units_in(text):
        while units + length * weight >= wanted:
            end = start + -(-(wanted - units) // weight)
            yield text[begun:end], wanted // UNITS_PER_TOKEN, True
            begun, wanted = end, wanted + step
        units, start = units + length * weight, start + length
