"""What goes wrong with a provider: one class for each row of the fault table, and one reaction for each class.

A provider's adapter turns the exceptions of its SDK into a `ProviderFault`; nothing else looks at them. `REACTIONS` is
the one place that says what is done about each class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from services.common.paid.usage import TokenUsage


class FaultKind(Enum):
    """Classes of faults."""

    RATE_LIMIT = "rate limit"
    """429: more requests or tokens than the account may send now."""
    OVERLOADED = "overloaded"
    """5xx, 529, a page of HTML from a gateway, "overloaded" as an event of a stream."""
    UNREACHABLE = "unreachable"
    """No connection, or it broke before an answer began."""
    TIMEOUT = "timeout"
    """No answer, or no further piece of one, within the time a call may take."""
    TRUNCATED = "truncated"
    """A stream that ended without a terminal reason, by a cut or by its end."""
    MALFORMED = "malformed"
    """A body or an event that cannot be read."""
    QUOTA = "quota spent"
    """The account has no money or quota left; waiting does not help."""
    KEY_REFUSED = "key refused"
    """401 or 403: the key is missing, wrong or not allowed to use the model."""
    NO_SUCH_MODEL = "no such model"
    TOO_LONG = "prompt too long"
    """The prompt is longer than the model's context or the provider's limit."""
    BAD_REQUEST = "bad request"
    """A request the provider will never accept, after any parameter it named was left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateState:
    """What an answer's headers say of the limits. None where they say nothing."""

    request_limit: float | None = None
    """Most requests at once: the size of the bucket."""
    requests_remaining: float | None = None
    requests_reset_s: float | None = None
    """Time until the bucket is full again; its rate is (limit - remaining) / reset."""
    token_limit: float | None = None
    tokens_remaining: float | None = None
    tokens_reset_s: float | None = None


class ProviderFault(Exception):
    """A call to a provider that brought no answer; told to callers by `services.common.paid.calls` only."""

    def __init__(
        self,
        kind: FaultKind,
        model: str,
        problem: str,
        *,
        retry_after_s: float | None = None,
        rate: RateState | None = None,
        tokens: TokenUsage | None = None,
    ) -> None:
        """Describe a fault.

        Args:
            kind: its class.
            model: "provider:model".
            problem: what the provider said, without keys and prompts, at most 300 characters.
            retry_after_s: how long the provider asks to wait; None when it does not say.
            rate: what the headers of the answer say of the limits.
            tokens: what was paid for all the same, as of a stream that broke; None for nothing.
        """
        super().__init__(f"{model}: {kind.value}: {problem}")
        self.kind = kind
        self.model = model
        self.problem = problem
        self.retry_after_s = retry_after_s
        self.rate = rate
        self.tokens = tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaction:
    """What is done about a class of faults."""

    max_retries: int
    """Further attempts of the same call, as far as the caller's deadline allows. -1 means as many as it allows."""
    pauses_everyone: bool = False
    """Whether all calls to the model wait, in all workers."""
    stands_in: bool = True
    """Whether another model may stand in afterwards; otherwise the operator has to change a setting."""


MAY_BE_PAID = frozenset({FaultKind.TIMEOUT, FaultKind.TRUNCATED, FaultKind.MALFORMED})
"""Faults of requests that the provider has taken on: where it does not say what it will bill, nobody knows."""

REACTIONS: Mapping[FaultKind, Reaction] = {
    FaultKind.RATE_LIMIT: Reaction(max_retries=-1, pauses_everyone=True),
    FaultKind.OVERLOADED: Reaction(max_retries=4),
    FaultKind.UNREACHABLE: Reaction(max_retries=3),
    FaultKind.TIMEOUT: Reaction(max_retries=1),
    FaultKind.TRUNCATED: Reaction(max_retries=2),
    FaultKind.MALFORMED: Reaction(max_retries=2),
    FaultKind.QUOTA: Reaction(max_retries=0),
    FaultKind.KEY_REFUSED: Reaction(max_retries=0, stands_in=False),
    FaultKind.NO_SUCH_MODEL: Reaction(max_retries=0, stands_in=False),
    FaultKind.TOO_LONG: Reaction(max_retries=0),
    FaultKind.BAD_REQUEST: Reaction(max_retries=0, stands_in=False),
}
