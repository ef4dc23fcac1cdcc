"""For whom a call is made and what it may spend."""

from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum

from paperroute.v1 import usage_pb2

from services.common.deadlines import Deadline
from services.common.errors import BudgetReached, Unpriced
from services.common.fields import FieldChecks

DEFAULT_TENANT = "default"
MAX_NAME_CHARACTERS = 128


class Scope(Enum):
    """Whose recorded answers may be served again."""

    PUBLIC = "public"
    """Prompts made of arXiv records alone: shared by all tenants."""
    TENANT = "tenant"
    """Prompts that hold a question or a tenant's own paper: never shared."""


class Priority(IntEnum):
    """Who goes first where calls wait."""

    INTERACTIVE = 0
    """Somebody watches the text grow."""
    BULK = 1
    """One of many."""


class Purse:
    """What one RPC may still spend over all its model calls; calls side by side reserve before they spend."""

    def __init__(self, limit_nano_usd: int | None = None) -> None:
        """Fill it; None means without limit."""
        self._limit = limit_nano_usd
        self._taken = 0
        self.is_reached = False
        """Whether a call was left out because it could have cost more than was left."""

    def reserve(self, model: str, worst_nano_usd: int | None) -> int:
        """Set aside the most that a call can cost and return it.

        Raises:
            BudgetReached: it could cost more than is left.
            Unpriced: there is a limit and the model's price is not known.
        """
        if self._limit is None:
            return 0
        if worst_nano_usd is None:
            raise Unpriced(model)
        if self._taken + worst_nano_usd > self._limit:
            self.is_reached = True
            raise BudgetReached(self._limit)
        self._taken += worst_nano_usd
        return worst_nano_usd

    @property
    def left_nano_usd(self) -> int | None:
        """What may still be spent; None means without limit."""
        return None if self._limit is None else max(0, self._limit - self._taken)

    def settle(self, reserved_nano_usd: int, spent_nano_usd: int) -> None:
        """Replace what was set aside by what was spent."""
        self._taken += spent_nano_usd - reserved_nano_usd


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks for a call. Its tenant, survey, stage and item together name the payer."""

    tenant: str
    survey_id: str
    stage: str
    """"write"."""
    item: str
    """What for: a paper's id, "2.3" for a section, with "repair 1" and the like behind it."""
    deadline: Deadline
    purse: Purse = field(default_factory=Purse)
    priority: Priority = Priority.INTERACTIVE
    cache_off: bool = False
    """Whether answers that other surveys recorded are left aside."""
    is_private: bool = False
    """Whether no other tenant may be served what is recorded, whatever the prompt holds."""

    def for_step(self, step: str) -> "Caller":
        """Return the caller of a further call for the same item: "repair 1"."""
        return replace(self, item=f"{self.item} {step}".strip())


def check_call(checks: FieldChecks, call: usage_pb2.CallContext) -> None:
    """Record what breaks the rules of the message CallContext."""
    limit = call.max_cost_nano_usd
    checks.require(limit >= 0, "call.max_cost_nano_usd", f"0 or more, not {limit}")
    checks.enum("call.call_scope", call.call_scope, usage_pb2.CallScope)
    for name in ("tenant", "survey_id"):
        checks.length(f"call.{name}", getattr(call, name), 0, MAX_NAME_CHARACTERS)


def caller_of(
    call: usage_pb2.CallContext,
    deadline: Deadline,
    *,
    stage: str,
    item: str = "",
    priority: Priority = Priority.INTERACTIVE,
) -> Caller:
    """Return who asks, from a request whose rules have been checked."""
    return Caller(
        tenant=call.tenant or DEFAULT_TENANT,
        survey_id=call.survey_id,
        stage=stage,
        item=item,
        deadline=deadline,
        purse=Purse(call.max_cost_nano_usd if call.HasField("max_cost_nano_usd") else None),
        priority=priority,
        cache_off=call.cache_off,
        is_private=call.call_scope == usage_pb2.CALL_SCOPE_TENANT,
    )
