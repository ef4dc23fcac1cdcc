"""What a ledger takes and gives."""

from dataclasses import dataclass
from enum import Enum

from services.common.paid.caller import Caller
from services.common.paid.prices import Priced, PriceSource
from services.common.paid.usage import TokenUsage, Usage


class CallState(Enum):
    """What became of a recorded call; the names are those of the enum CallOutcome."""

    IN_FLIGHT = "in_flight"
    OK = "ok"
    TRUNCATED = "truncated"
    REFUSED = "refused"
    MALFORMED = "malformed"
    FAILED = "failed"
    LOST = "lost"
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True, slots=True)
class Payer:
    """Who paid for a call: its cost comes back to this one alone when it is served again."""

    tenant: str
    survey_id: str
    stage: str
    item: str


def payer_of(caller: Caller) -> Payer:
    """Return as whom a caller pays."""
    return Payer(tenant=caller.tenant, survey_id=caller.survey_id, stage=caller.stage, item=caller.item)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """An answer that was paid for before."""

    body: bytes
    payer: Payer
    paid: Usage

    def usage_for(self, caller: Caller) -> Usage:
        """Return the usage as a caller sees it: the payer what it paid, any other one what it was served instead."""
        paid = self.paid
        if payer_of(caller) == self.payer:
            return paid
        return Usage(
            model=paid.model,
            call_count=0,
            cost_nano_usd=0,
            avoided_cost_nano_usd=paid.cost_nano_usd or 0,
            served_call_count=1,
            served_input_tokens=paid.input_tokens,
            served_output_tokens=paid.output_tokens,
            is_estimated=paid.is_estimated,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """The right and the duty to make a call: nobody else makes it while the lease lasts."""

    call_id: str
    key: str
    started_at: float
    """Seconds since 1970, by the database's clock."""
    took_over: bool
    """Whether the process that made the call before is taken for dead."""
    lost_nano_usd: int = 0
    """The most that its call, which nobody will know the cost of, may have cost the same survey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """Another process makes the call now."""

    mine_nano_usd: int = 0
    """The most that it can cost the same survey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What became of a call, or of an attempt of one."""

    state: CallState
    tokens: TokenUsage
    priced: Priced
    response_id: str = ""
    answer: bytes = b""
    """Compressed; kept where the state is OK."""
    seconds: float = 0.0
    """How long the attempt took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedCall:
    """A call as the ledger keeps it, without its prompt and its answer. Moments are seconds since 1970."""

    call_id: str
    survey_id: str
    stage: str
    item: str
    state: CallState
    started_at: float
    finished_at: float | None
    usage: Usage
    price_source: PriceSource
    price_version: str
    prompt_id: str
    response_id: str
    worst_nano_usd: int | None = None
    """The most it could cost when it was sent; None where the price was unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallPage:
    """Some of a survey's calls, in the order they began."""

    calls: tuple[ListedCall, ...]
    next_page_token: str
    """Empty on the last page."""
