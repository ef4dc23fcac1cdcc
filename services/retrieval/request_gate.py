"""One request to arXiv at a time and a pause between two, for all replicas that share a store.

Who wants to send a request takes a place in a queue that the store keeps. The first in the queue gets the turn when
nobody holds it, the spacing since the last request is over and no cooldown runs. Places and turns are leases: who dies
loses them within seconds. When arXiv throttles, all wait: at least as long as it asks for, longer each time in a row.
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from services.common.database import Database, clock_s
from services.common.errors import PaperRouteError
from services.common.telemetry import metrics, names
from services.retrieval.arxiv_client import Fault, PageUnreadable
from services.retrieval.cooldown import Cooldown

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

logger = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_S = 6.0
"""A place or a turn that was not renewed for so long belongs to a dead process."""
ARRIVAL_S = 1.0
"""Longest a request is under way to arXiv. The spacing counts from then, or from the answer when that is earlier: the
moment of sending does not tell when a request arrives."""
MAX_COOLDOWN_S = 300.0
"""Longest cooldown that arXiv did not ask for itself."""
_MAX_DOUBLINGS = 20
_SHORTEST_POLL_S, _LONGEST_POLL_S = 0.02, 1.0
_GATE = "arxiv"
OUTCOMES = ("ok", "refused", "failed", "cached", "stale")
"""What becomes of a request that is counted, or of one that a kept page made needless."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueWait:
    """What stands before a request."""

    position: int
    """Place in the queue, from 1."""
    expected_s: float
    """Time until the turn, as it looks now."""
    cooldown_s: float
    """What is left of the pause that arXiv's throttling calls for; part of `expected_s`."""
    poll_s: float
    """When to ask again, in seconds."""


class RequestGate:
    """The queue before one arXiv; all searches of a process share one of these."""

    def __init__(
        self,
        store: Database,
        *,
        spacing_s: float,
        cooldown_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Make a gate; nothing is read from the store yet.

        Args:
            store: shared by all whose requests must keep their distance.
            spacing_s: least time between two requests.
            cooldown_s: pause after a throttled request; it doubles with each further one in a row.
            chance: draws the jitter, in [0, 1).
        """
        self._store = store
        self._spacing_s = spacing_s
        self._cooldown_s = cooldown_s
        self._chance = chance
        self._cooldown = Cooldown()
        metrics.begin(metrics.arxiv_requests, names.OUTCOME, OUTCOMES)
        self._under_way: set[asyncio.Task[Any]] = set()

    def place(self) -> "Place":
        """Return a place that is taken with its first `wait` and given up at the end of its context."""
        return Place(self)

    async def close(self) -> None:
        """Give up the turn of a request under way; its answer is not waited for."""
        self._cooldown.close()
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _wait(self, ticket: str) -> QueueWait | None:
        return await self._store.run(lambda connection: self._advance(connection, ticket))

    async def _leave(self, ticket: str) -> None:
        await self._quietly(lambda connection: _forget(connection, ticket))

    async def _run(self, turn: "_Turn", request: Callable[[], T], keep: Callable[[T], Awaitable[None]]) -> T:
        task = asyncio.create_task(self._hold(turn, request, keep))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its caller may have gone
        return await asyncio.shield(task)

    async def _hold(self, turn: "_Turn", request: Callable[[], T], keep: Callable[[T], Awaitable[None]]) -> T:
        renewing = asyncio.create_task(self._renew(turn.ticket))
        try:
            answer = await asyncio.to_thread(turn.sent, request)
            await keep(answer)
            turn.is_answered = True
        except PageUnreadable as error:
            turn.throttling = error if error.is_throttling else None
            raise
        else:
            return answer
        finally:
            renewing.cancel()
            if turn.sent_at is not None:
                metrics.arxiv_requests.add(1, {names.OUTCOME: turn.outcome})
            await self._quietly(lambda connection: self._end(connection, turn))

    async def _renew(self, ticket: str) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            await self._quietly(lambda connection: _extend_turn(connection, ticket))

    async def _quietly(self, work: "Callable[[Connection], None]") -> None:
        """Run work whose failure only means that a lease ends by itself."""
        try:
            await self._store.run(work)
        except PaperRouteError as error:
            logger.warning("could not write to the queue before arXiv: %s", error.message)

    def _advance(self, connection: "Connection", ticket: str) -> QueueWait | None:
        """Take the turn and return None when it is the ticket's; else return what stands before it."""
        gate = _locked_gate(connection)
        now = clock_s(connection)
        ahead = _queue_up(connection, gate, ticket, now)
        is_held = bool(gate.holder) and gate.lease_until > now
        ready_at = max(self._spaced_from(gate, now), gate.cooldown_until)
        cooldown_s = max(gate.cooldown_until - now, 0)
        self._cooldown.heard(cooldown_s)
        if not ahead and not is_held and ready_at <= now:
            _take(connection, ticket, now)
            return None
        left_s = max(ready_at - now, gate.request_s + self._spacing_s if is_held else 0)
        return QueueWait(
            position=ahead + 1,
            expected_s=left_s + ahead * max(self._spacing_s, gate.request_s),
            cooldown_s=cooldown_s,
            poll_s=_clamped(ready_at - now if not ahead else left_s / 2),
        )

    def _spaced_from(self, gate: "Row[Any]", now: float) -> float:
        """Return the moment from which the last request is far enough away."""
        if gate.holder and gate.lease_until <= now:  # a dead process may have sent one as long as it had the turn
            return float(gate.lease_until + self._spacing_s)
        return float(min(gate.next_start_at, now + self._spacing_s))  # a clock that was put back must not block us

    def _end(self, connection: "Connection", turn: "_Turn") -> None:
        from sqlalchemy import update

        from services.retrieval.tables import gate as table

        gate = _locked_gate(connection)
        now = clock_s(connection)
        values: dict[str, object] = {"holder": ""} if gate.holder == turn.ticket else {}
        took_s = turn.took_s()
        if took_s is not None:
            values["next_start_at"] = now - max(took_s - ARRIVAL_S, 0) + self._spacing_s
            values["request_s"] = (gate.request_s + took_s) / 2
        if turn.throttling:
            values["throttled_count"] = gate.throttled_count + 1
            pause_s = max(turn.throttling.retry_after_s, self._pause_s(gate.throttled_count))
            values["cooldown_until"] = until = max(gate.cooldown_until, now + pause_s)
            self._cooldown.heard(until - now)
        elif turn.is_answered:
            values["throttled_count"] = 0
        if values:
            connection.execute(update(table).where(table.c.name == _GATE).values(values))

    def _pause_s(self, throttled_count: int) -> float:
        """Return the cooldown after that many throttled requests in a row before this one, +- 25 %."""
        pause_s = self._cooldown_s * 2.0 ** min(throttled_count, _MAX_DOUBLINGS)
        return float(min(pause_s, MAX_COOLDOWN_S) * (0.75 + self._chance() / 2))


class Place:
    """A place in the queue, and the turn once it has come."""

    def __init__(self, gate: RequestGate) -> None:
        self._gate = gate
        self._turn = _Turn(ticket=uuid.uuid4().hex)
        self._came_at = 0.0
        self._is_in_store = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._is_in_store:
            await self._gate._leave(self._turn.ticket)  # noqa: SLF001  # the other half of this class

    async def wait(self) -> QueueWait | None:
        """Return what stands before the request; None means that it is its turn. To be asked again every `poll_s`."""
        self._is_in_store = True
        self._turn.since = time.monotonic()
        self._came_at = self._came_at or self._turn.since
        return await self._gate._wait(self._turn.ticket)  # noqa: SLF001

    async def run(self, request: Callable[[], T], keep: Callable[[T], Awaitable[None]]) -> T:
        """Send the request in a thread, hand its answer to `keep`, end the turn and return the answer.

        A request that has begun goes on when the caller is cancelled: the next one may not start beside it.
        """
        self._is_in_store = False
        metrics.arxiv_wait.record(time.monotonic() - self._came_at)
        return await self._gate._run(self._turn, request, keep)  # noqa: SLF001


@dataclass(kw_only=True, slots=True)
class _Turn:
    """What became of a turn."""

    ticket: str
    since: float = 0.0
    sent_at: float | None = None
    is_answered: bool = False
    throttling: PageUnreadable | None = None

    def sent(self, request: Callable[[], T]) -> T:
        """Run the request in the current thread, unless the turn has ended meanwhile: a machine may sleep."""
        now = time.monotonic()
        if now > self.since + LEASE_S:
            raise PageUnreadable("the request lost its turn", fault=Fault.BROKEN)
        self.sent_at = now
        return request()

    @property
    def outcome(self) -> str:
        """Return what became of the request, for metrics."""
        return "refused" if self.throttling else "ok" if self.is_answered else "failed"

    def took_s(self) -> float | None:
        """Return the time since the request was sent, None when it was not."""
        return None if self.sent_at is None else time.monotonic() - self.sent_at


def _locked_gate(connection: "Connection") -> "Row[Any]":
    """Return the gate's row; nobody else reads it before the end of the transaction."""
    from sqlalchemy import select, text

    from services.retrieval.tables import gate

    query = select(gate).where(gate.c.name == _GATE).with_for_update()
    found = connection.execute(query).one_or_none()
    if found is None:  # two may find that out at once
        insert = f"INSERT INTO {gate.name} (name) VALUES (:name) ON CONFLICT DO NOTHING"  # noqa: S608
        connection.execute(text(insert), {"name": _GATE})
        found = connection.execute(query).one()
    return found


def _queue_up(connection: "Connection", gate: "Row[Any]", ticket: str, now: float) -> int:
    """Renew a ticket, or let it join at the end, and return how many living ones are before it."""
    from sqlalchemy import delete, func, insert, select, update

    from services.retrieval.tables import gate as gates
    from services.retrieval.tables import ticket as tickets

    lease_until = now + LEASE_S
    connection.execute(delete(tickets).where(tickets.c.lease_until < now, tickets.c.ticket != ticket))
    renewed = connection.execute(
        update(tickets).where(tickets.c.ticket == ticket).values(lease_until=lease_until).returning(tickets.c.number)
    )
    number = renewed.scalar_one_or_none()
    if number is None:
        number = gate.last_number + 1
        connection.execute(update(gates).where(gates.c.name == _GATE).values(last_number=number))
        connection.execute(insert(tickets).values(ticket=ticket, number=number, lease_until=lease_until))
    before = select(func.count()).select_from(tickets).where(tickets.c.number < number)
    return int(connection.execute(before).scalar_one())


def _take(connection: "Connection", ticket: str, now: float) -> None:
    from sqlalchemy import delete, update

    from services.retrieval.tables import gate
    from services.retrieval.tables import ticket as tickets

    connection.execute(delete(tickets).where(tickets.c.ticket == ticket))
    connection.execute(update(gate).where(gate.c.name == _GATE).values(holder=ticket, lease_until=now + LEASE_S))


def _extend_turn(connection: "Connection", ticket: str) -> None:
    from sqlalchemy import update

    from services.retrieval.tables import gate

    lease_until = clock_s(connection) + LEASE_S
    connection.execute(update(gate).where(gate.c.holder == ticket).values(lease_until=lease_until))


def _forget(connection: "Connection", ticket: str) -> None:
    from sqlalchemy import delete, update

    from services.retrieval.tables import gate
    from services.retrieval.tables import ticket as tickets

    connection.execute(delete(tickets).where(tickets.c.ticket == ticket))
    connection.execute(update(gate).where(gate.c.holder == ticket).values(holder=""))


def _clamped(seconds: float) -> float:
    return min(max(seconds, _SHORTEST_POLL_S), _LONGEST_POLL_S)
