"""What model calls took and cost, in one form for all providers."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from paperroute.v1 import usage_pb2


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenUsage:
    """Tokens of one call, as its provider counted them."""

    input_tokens: int = 0
    """All of them: cached ones included."""
    cached_input_tokens: int = 0
    """Those of the input that the provider read from its cache."""
    cache_write_tokens: int = 0
    """Those of the input that the provider wrote to its cache."""
    output_tokens: int = 0
    """All of them: reasoning included."""
    reasoning_tokens: int = 0
    is_estimated: bool = False
    """Whether we counted, because the provider did not say."""


MAX_TOKENS = 10**10
"""More than any call takes: what a server counts beyond it is nonsense, and too much for the columns of a table."""


def plausible(tokens: TokenUsage) -> TokenUsage:
    """Return counts as they can be, whatever a server counted: none below 0, no part larger than its whole."""
    cached, written = _count(tokens.cached_input_tokens), _count(tokens.cache_write_tokens)
    reasoning = _count(tokens.reasoning_tokens)
    return TokenUsage(
        input_tokens=max(_count(tokens.input_tokens), cached + written),
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=max(_count(tokens.output_tokens), reasoning),
        reasoning_tokens=reasoning,
        is_estimated=tokens.is_estimated,
    )


def _count(found: int) -> int:
    return max(0, min(int(found), MAX_TOKENS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the calls of one model took and cost; the fields are those of the message ModelUsage."""

    model: str
    """As it was called, "provider:model"."""
    call_count: int = 1
    """Calls that were paid for, like the tokens below; what the ledger answered is in the fields that are served."""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int | None
    """None means unpriced, which is not zero."""
    avoided_cost_nano_usd: int = 0
    served_call_count: int = 0
    served_input_tokens: int = 0
    served_output_tokens: int = 0
    is_estimated: bool = False
    """Whether we counted the tokens, because the provider did not say."""


_COUNTS = tuple(each.name for each in fields(Usage) if each.name not in {"model", "cost_nano_usd", "is_estimated"})


def usage_message(usage: Usage) -> usage_pb2.ModelUsage:
    """Return the message."""
    values = {field.name: getattr(usage, field.name) for field in fields(usage) if field.name != "is_estimated"}
    source = usage_pb2.USAGE_SOURCE_ESTIMATED if usage.is_estimated else usage_pb2.USAGE_SOURCE_PROVIDER
    return usage_pb2.ModelUsage(source=source, **values)


def summed(usages: Iterable[Usage]) -> tuple[Usage, ...]:
    """Return one usage a model, in the order of first mention; one unpriced part makes a sum unpriced."""
    totals: dict[str, Usage] = {}
    for usage in usages:
        total = totals.get(usage.model)
        totals[usage.model] = usage if total is None else _sum(total, usage)
    return tuple(totals.values())


def _sum(left: Usage, right: Usage) -> Usage:
    is_priced = left.cost_nano_usd is not None and right.cost_nano_usd is not None
    counts = {name: getattr(left, name) + getattr(right, name) for name in _COUNTS}
    return Usage(
        model=left.model,
        cost_nano_usd=(left.cost_nano_usd or 0) + (right.cost_nano_usd or 0) if is_priced else None,
        is_estimated=left.is_estimated or right.is_estimated,
        **counts,
    )
