"""Places that several parties share: who holds fewest gets the next one."""

import asyncio
import math
from collections import Counter, deque


class NoPlace(Exception):
    """No place is free, and as many wait as may."""


class Places:
    """So many places. One that becomes free goes to the party that holds fewest of those that wait for one.

    So a party that wants five does not wait for one that wants five hundred, whoever came first.
    """

    def __init__(self, most: float, *, most_each: float = math.inf, most_waiting: float = math.inf) -> None:
        """Make them.

        Args:
            most: places there are; infinity for no limit.
            most_each: most that one party may hold.
            most_waiting: most that may wait.
        """
        self.most = most
        self._most_each = most_each
        self._most_waiting = most_waiting
        self._held: Counter[str] = Counter()
        self._lines: dict[str, deque[asyncio.Future[bool]]] = {}
        self.held_count = 0
        self.waiting_count = 0

    @property
    def is_full(self) -> bool:
        """Whether every place is taken."""
        return self.held_count >= self.most

    async def take(self, party: str) -> None:
        """Take a place, once there is one; who took it must `leave`.

        Raises:
            NoPlace: as many wait as may, and this party has as many of them as any other. It may come after a wait,
                when another party with less came.
        """
        if not self.is_full and self._held[party] < self._most_each:
            self._hold(party)
            return
        if self.waiting_count >= self._most_waiting:
            self._make_room(party)
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(party, deque()).append(turn)
        self.waiting_count += 1
        try:
            has_place = await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(party, turn)
            elif turn.result():  # the turn came, and nobody is there to use it
                self.leave(party)
            raise
        if not has_place:
            raise NoPlace

    def leave(self, party: str) -> None:
        """Give a place back."""
        self.held_count -= 1
        self._held[party] -= 1
        if not self._held[party]:
            del self._held[party]
        self._let_go()

    def resize(self, most: float) -> None:
        """Change how many places there are; those beyond are not taken away from who holds them."""
        self.most = most
        self._let_go()

    def _let_go(self) -> None:
        while not self.is_full:
            waiting = [party for party in self._lines if self._held[party] < self._most_each]
            if not waiting:
                return
            party = min(waiting, key=self._held.__getitem__)
            turn = self._next(party, is_newest=False)
            if party in self._lines:  # of those with as much, the one that waits for longest is next
                self._lines[party] = self._lines.pop(party)
            if not turn.done():
                self._hold(party)
                turn.set_result(True)

    def _make_room(self, party: str) -> None:
        """Send away the newest of the party that has most, unless this one has as many.

        Raises:
            NoPlace: it has.
        """
        largest = max(self._lines, key=self._share, default=party)
        if self._share(largest) <= self._share(party) + 1:  # else the two would send each other away in turn
            raise NoPlace
        turn = self._next(largest, is_newest=True)
        if not turn.done():
            turn.set_result(False)

    def _share(self, party: str) -> int:
        return self._held[party] + len(self._lines.get(party, ()))

    def _hold(self, party: str) -> None:
        self._held[party] += 1
        self.held_count += 1

    def _next(self, party: str, *, is_newest: bool) -> "asyncio.Future[bool]":
        line = self._lines[party]
        turn = line.pop() if is_newest else line.popleft()
        self._left_line(party)
        return turn

    def _forget(self, party: str, turn: "asyncio.Future[bool]") -> None:
        """Take one that gave up out of its line, if it is still there."""
        if turn in self._lines.get(party, ()):
            self._lines[party].remove(turn)
            self._left_line(party)

    def _left_line(self, party: str) -> None:
        self.waiting_count -= 1
        if not self._lines[party]:
            del self._lines[party]
