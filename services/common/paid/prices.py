"""Prices of calls: the operator's own, else those of the catalogue at the call's date, else none.

The catalogue is the package genai-prices, which is imported with the first price that is looked up and read without
the network. Nothing else of PaperRoute knows it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.common.paid.money import nano_of
from services.common.paid.usage import TokenUsage
from services.common.settings import SettingsError

VARIABLE = "PAPERROUTE_PAID__PRICES"
CATALOGUE_PROVIDERS: Mapping[str, str] = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
"""What the catalogue calls our providers. Servers that speak a provider's protocol are not in it."""
_WANTED = '{"provider:model": {"input_mtok": 0.5, "output_mtok": 2}} or {"provider:*": {"gpu_usd_per_hour": 1.2}}'
_MILLION = Decimal(1_000_000)
_MAX_USD = 100_000
MAX_KEPT = 4_096
"""Worst cases that are kept; most calls have one of a few dozen."""
_SECONDS_PER_HOUR = Decimal(3_600)

Usd = Annotated[Decimal, Field(ge=0, le=_MAX_USD, allow_inf_nan=False)]


class PriceSource(Enum):
    """Where a price came from."""

    UNPRICED = "unpriced"
    """The price is not known, which is not zero."""
    CATALOGUE = "catalogue"
    OVERRIDE = "override"
    """Set by the operator."""
    GPU_TIME = "gpu_time"
    """The operator's price of a GPU hour, by the time the call took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Priced:
    """What a call costs."""

    cost_nano_usd: int | None
    """None means unpriced."""
    source: PriceSource
    version: str
    """Of the catalogue, or a hash of the operator's prices; empty where there is no price."""


NOT_KNOWN = Priced(cost_nano_usd=None, source=PriceSource.UNPRICED, version="")
"""Where a price, or what was taken, is not known."""


class _TokenPrice(BaseModel):
    """USD per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_mtok: Usd
    cached_input_mtok: Usd | None = None
    cache_write_mtok: Usd | None = None
    output_mtok: Usd

    def usd(self, tokens: TokenUsage) -> Decimal:
        cached, written = tokens.cached_input_tokens, tokens.cache_write_tokens
        read_price = self.input_mtok if self.cached_input_mtok is None else self.cached_input_mtok
        write_price = self.input_mtok if self.cache_write_mtok is None else self.cache_write_mtok
        fresh = (tokens.input_tokens - cached - written) * self.input_mtok
        return (
            fresh + cached * read_price + written * write_price + tokens.output_tokens * self.output_mtok
        ) / _MILLION


class _GpuPrice(BaseModel):
    """USD for an hour of one GPU, shared by the calls that run at the same time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu_usd_per_hour: Usd
    gpus: Annotated[Decimal, Field(gt=0, le=100_000, allow_inf_nan=False)] = Decimal(1)

    def usd(self, seconds: float, mean_in_flight: float) -> Decimal:
        gpu_seconds = Decimal(seconds) * self.gpus / Decimal(max(1.0, mean_in_flight))
        return self.gpu_usd_per_hour / _SECONDS_PER_HOUR * gpu_seconds


class PriceBook:
    """Finds what a call costs."""

    def __init__(self, overrides_json: str) -> None:
        """Read the operator's prices; the catalogue is read with the first price that is looked up in it.

        Args:
            overrides_json: "provider:model", or "provider:*" for all models of a provider that are not named, with USD
                per million tokens (`input_mtok`, `output_mtok`; `cached_input_mtok` and `cache_write_mtok` cost as
                input unless given) or with `gpu_usd_per_hour` and the number of `gpus`. Empty for none.

        Raises:
            SettingsError: it cannot be used; every problem is named.
        """
        self._own = _own_prices(overrides_json) if overrides_json else {}
        self._own_version = hashlib.sha256(overrides_json.encode()).hexdigest()[:8]
        self._kept = lru_cache(MAX_KEPT)(self._worst)

    @staticmethod
    def load() -> None:
        """Read the catalogue, which takes a while, so that the first price does not."""
        from genai_prices.data_snapshot import get_snapshot

        get_snapshot()

    def price(
        self, model: str, tokens: TokenUsage, *, at: datetime, seconds: float = 0.0, mean_in_flight: float = 1.0
    ) -> Priced:
        """Return what a call cost.

        Args:
            model: "provider:model".
            tokens: what it took; plausible counts.
            at: when it was made, with its time zone: prices are dated.
            seconds: how long it ran, for a price by the GPU hour.
            mean_in_flight: calls that ran at the same time and share that GPU.
        """
        own = self._own.get(model) or self._own.get(f"{model.partition(':')[0]}:*")
        if isinstance(own, _GpuPrice):
            cost = nano_of(own.usd(seconds, mean_in_flight))
            return Priced(cost_nano_usd=cost, source=PriceSource.GPU_TIME, version=self._own_version)
        if own:
            cost = nano_of(own.usd(tokens))
            return Priced(cost_nano_usd=cost, source=PriceSource.OVERRIDE, version=self._own_version)
        return _catalogue_price(model, tokens, at)

    def worst(self, model: str, tokens: TokenUsage, *, at: datetime, seconds: float) -> int | None:
        """Return the most that a call can cost, in nano-US-dollars; None means unpriced.

        All of the input counts as read from a cache, written to one, or neither, whichever costs most. What was looked
        up before is kept: finding a price takes longer than all else about a call.

        Args:
            model: "provider:model".
            tokens: the most it can take.
            at: when it is made, with its time zone.
            seconds: the longest it can run, for a price by the GPU hour.
        """
        minute = at.replace(second=0, microsecond=0)  # prices change on the minute
        return self._kept(model, tokens.input_tokens, tokens.output_tokens, minute, seconds)

    def _worst(self, model: str, tokens_in: int, tokens_out: int, at: datetime, seconds: float) -> int | None:
        fresh = TokenUsage(input_tokens=tokens_in, output_tokens=tokens_out)
        ways = (fresh, replace(fresh, cache_write_tokens=tokens_in), replace(fresh, cached_input_tokens=tokens_in))
        costs = [self.price(model, each, at=at, seconds=seconds).cost_nano_usd for each in ways]
        known = [cost for cost in costs if cost is not None]
        return max(known) if len(known) == len(costs) else None


def _catalogue_price(model: str, tokens: TokenUsage, at: datetime) -> Priced:
    import genai_prices

    provider, _, name = model.partition(":")
    if provider not in CATALOGUE_PROVIDERS:
        return NOT_KNOWN
    usage = genai_prices.Usage(
        input_tokens=tokens.input_tokens,
        cache_read_tokens=tokens.cached_input_tokens,
        cache_write_tokens=tokens.cache_write_tokens,
        output_tokens=tokens.output_tokens,
    )
    try:
        found = genai_prices.calc_price(
            usage, name, provider_id=CATALOGUE_PROVIDERS[provider], genai_request_timestamp=at
        )
    except LookupError:
        return NOT_KNOWN
    # The catalogue counts tokens of a kind that it has no price for as free.
    has_price = found.model_price.input_mtok is not None
    if not has_price or (tokens.output_tokens and found.model_price.output_mtok is None):
        return NOT_KNOWN
    return Priced(
        cost_nano_usd=nano_of(found.total_price),
        source=PriceSource.CATALOGUE,
        version=f"genai-prices {genai_prices.__version__}",
    )


def _own_prices(overrides_json: str) -> dict[str, _TokenPrice | _GpuPrice]:
    try:
        entries = json.loads(overrides_json)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SettingsError([f"{VARIABLE}: JSON such as {_WANTED}; {error.msg} at {where}"]) from error
    if not isinstance(entries, dict):
        raise SettingsError([f"{VARIABLE}: an object such as {_WANTED}"])
    prices: dict[str, _TokenPrice | _GpuPrice] = {}
    problems: list[str] = []
    for model, entry in entries.items():
        provider, _, name = model.partition(":")
        if not (provider and name and isinstance(entry, dict)):
            problems.append(f"{VARIABLE}: {model!r}: wanted is a model with its price, such as {_WANTED}")
            continue
        kind = _GpuPrice if "gpu_usd_per_hour" in entry else _TokenPrice
        try:
            prices[model] = kind.model_validate(entry)
        except ValidationError as error:
            problems += [f"{VARIABLE}: {model}: {each['loc'][0]}: {each['msg']}" for each in error.errors()]
    if problems:
        raise SettingsError(problems)
    return prices
