"""Calls that want a grant: how much, and who goes first."""

import asyncio
from dataclasses import dataclass, field

from paperroute.v1 import survey_pb2 as pb

from gateway.money.account import Grant, Item
from gateway.money.worst import Worst

PLENTY = 32
"""A call is granted the most it can use where the room is so many times that."""
SOME = 8
"""It is granted twice the least where the room is so many times that."""
AGAIN = 4
"""How many times what a call came back with it is granted at least."""


@dataclass(kw_only=True, slots=True, eq=False)
class Wish:
    """A call that wants its grant."""

    item: Item
    worst: Worst
    above: int | None
    """What it was granted before and was not enough; None for the first time."""
    rank: int
    """Who goes first: the lower."""
    grant: "asyncio.Future[Grant]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def least(self) -> int:
        """Less than this is of no use."""
        return self.worst.least if self.above is None else self.above + 1

    @property
    def needed(self) -> int:
        """What it waits for."""
        return self.worst.least if self.above is None else self.portion

    @property
    def portion(self) -> int:
        """What it is granted where money is not short."""
        return 2 * self.worst.least if self.above is None else max(self.worst.most, AGAIN * self.above, self.least)

    def size(self, room: int) -> int | None:
        """Return how much is granted where there is so much room and others want some too; None: it is too little."""
        if self.above is None and not self.worst.most:
            return 0
        if self.needed > room:
            return None
        if self.above is not None:
            return self.portion if self.worst.most else max(self.least, room // 2)
        if self.worst.most * PLENTY <= room:
            return self.worst.most
        return self.portion if self.portion * SOME <= room else self.worst.least


def rank_of(stage: pb.Stage.ValueType, above: int | None) -> int:
    """Return who goes first: what others wait for, then summaries, then what is only to be made better."""
    is_one_of_many = stage in {pb.STAGE_SUMMARIZE, pb.STAGE_WRITE}
    if above is not None and is_one_of_many:
        return 2
    return 1 if stage == pb.STAGE_SUMMARIZE else 0
