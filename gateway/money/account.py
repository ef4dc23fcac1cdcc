"""What a survey has spent, what it may still spend, and what its calls under way can take of that. Bookkeeping alone.

The ledgers tell the truth, but later: between two readings they say nothing, and a call that was given up may still be
paid for. So what one call to a service was granted counts whole until a reading that began after its end; what the
ledgers hold of it by then is not counted twice.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from paperroute.v1 import usage_pb2

from gateway.money.ledgers import cost_of

_ITEMIZED = ("summarize", "write")
"""Stages with a call to a service for each item, whose name begins those of the calls to models."""

Item = tuple[str, str]
"""Stage and item of a call to a service, "write" and "2.3": as the ledgers name the calls to models made for it."""


@dataclass(kw_only=True, slots=True, eq=False)
class Grant:
    """What one call to a service may spend, in nano-US-dollars."""

    item: Item
    amount: int
    before: int
    """What the ledgers held for the item when it was given."""
    is_sole: bool
    """Whether no other grant for the item was open then: whatever is new for the item is of this one."""
    extra: int
    """What it counts beyond what the ledgers tell."""
    sure_at: float | None = None
    """From when on the ledgers tell all it took; None while the call is under way."""


class Account:
    """The money of one survey, in nano-US-dollars. Moments are seconds on any one clock."""

    def __init__(self, limit: int | None) -> None:
        """Open it; None means that the survey has no limit of its own."""
        self.limit = limit
        self.known = 0
        """What the ledgers held at the last reading; calls whose cost nobody knows at their worst."""
        self.held = 0
        """What the grants count beyond what the ledgers tell."""
        self._by_item: Counter[Item] = Counter()
        self._in_flight: Counter[Item] = Counter()
        self._grants: set[Grant] = set()
        self._open_items: Counter[Item] = Counter()

    @property
    def left(self) -> int | None:
        """What nothing has taken and nobody holds; below 0 where more was spent than allowed, None without limit."""
        return None if self.limit is None else self.limit - self.known - self.held

    @property
    def in_flight(self) -> int:
        """Part of `known` that may come back: calls whose cost is not known yet."""
        return self._in_flight.total()

    @property
    def in_flight_elsewhere(self) -> int:
        """Part of that which belongs to no grant: nobody here is told when it comes back."""
        return sum(cost for item, cost in self._in_flight.items() if not self._open_items[item])

    @property
    def is_busy(self) -> bool:
        """Whether calls are under way that were granted something."""
        return any(grant.sure_at is None for grant in self._grants)

    def give(self, item: Item, amount: int) -> Grant:
        """Set an amount aside for a call that begins now."""
        is_sole = not self._open_items[item]
        grant = Grant(item=item, amount=amount, before=self._by_item[item], is_sole=is_sole, extra=amount)
        self._grants.add(grant)
        self._open_items[item] += 1
        self.held += amount
        return grant

    def ended(self, grant: Grant, sure_at: float) -> None:
        """Note that a call has ended, and from when on a reading tells all it took."""
        grant.sure_at = sure_at

    def drop(self, grant: Grant) -> None:
        """Count a grant no longer: its call was not made, or the ledgers tell all of it."""
        self._grants.remove(grant)
        self._open_items[grant.item] -= 1
        self.held -= grant.extra

    def settling(self, now: float) -> tuple[int, float]:
        """Return what a reading that begins now may free of grants that have ended, and when one more is sure.

        Infinity stands for never.
        """
        freed, next_at = 0, math.inf
        for grant in self._grants:
            if grant.sure_at is not None and grant.sure_at <= now:
                freed += grant.extra + self._in_flight[grant.item]
            elif grant.sure_at is not None:
                next_at = min(next_at, grant.sure_at)
        return freed, next_at

    def learn(self, calls: Iterable[usage_pb2.RecordedCall], read_at: float) -> None:
        """Take in a reading of the ledgers that began at a moment."""
        self._by_item, self._in_flight = Counter(), Counter()
        for call in calls:
            item, cost = _item_of(call), cost_of(call)
            self._by_item[item] += cost
            if call.outcome == usage_pb2.CALL_OUTCOME_IN_FLIGHT:
                self._in_flight[item] += cost
        self.known = self._by_item.total()
        for grant in [each for each in self._grants if each.sure_at is not None and each.sure_at <= read_at]:
            self.drop(grant)
        for grant in self._grants:
            if grant.is_sole:
                grant.extra = max(0, grant.before + grant.amount - self._by_item[grant.item])
        self.held = sum(grant.extra for grant in self._grants)


def _item_of(call: usage_pb2.RecordedCall) -> Item:
    return call.stage, call.item.partition(" ")[0] if call.stage in _ITEMIZED else ""
