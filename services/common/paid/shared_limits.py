"""What all workers that call a model with the same key share: its cooldown, its limits, and which workers there are."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from services.common.database import Database, clock_s

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping, Table

    from services.common.paid.bucket import Limit

ALIVE_S = 3.0
"""A worker that gave no sign of life for so long does not use the model any more."""
FORGOTTEN_S = 60.0
"""After so long its row is removed."""
KNOWN_S = 3_600.0
"""Limits that nobody noted for so long are not used any more."""
MAX_COOLDOWN_S = 120.0
"""Longest cooldown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What one worker tells the others of a model."""

    is_active: bool = True
    """Whether it needs a part of the limits now."""
    cooldown_s: float = 0.0
    """Nobody may call it for so long; 0 for nothing new."""
    requests: "Limit | None" = None
    """The whole limit of requests, as its server told it; None for nothing."""
    tokens: "Limit | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What all workers know of a model."""

    cooldown_s: float
    """What is left of its cooldown, 0 to 120."""
    requests: "Limit | None"
    tokens: "Limit | None"
    worker_count: int
    """Workers that need a part of the limits now, this one always included."""


class SharedLimits:
    """One worker's view of the tables `<owner>_limit` and `<owner>_worker`."""

    def __init__(self, database: Database, owner: str) -> None:
        """Name the owner of the tables; nothing is read yet.

        Args:
            database: holds the tables; whoever makes it makes them.
            owner: "generation" or "embedding".
        """
        self.worker_id = uuid.uuid4().hex
        self._database = database
        self._owner = owner

    async def exchange(self, model: str, told: Told) -> Shared:
        """Tell the others something, that this worker lives among it, and return what all know now.

        Raises:
            NotReady: the database cannot be opened.
            UpstreamFailed: it does not answer.
        """
        return await self._database.run(lambda connection: self._exchange(connection, model, told))

    async def leave(self) -> None:
        """Tell the others that this worker is gone.

        Raises:
            NotReady: the database cannot be opened.
            UpstreamFailed: it does not answer.
        """
        await self._database.run(self._leave)

    @cached_property
    def _tables(self) -> "tuple[Table, Table]":
        from sqlalchemy import MetaData

        from services.common.paid.limit_tables import limit_table, worker_table

        metadata = MetaData()
        return limit_table(self._owner, metadata), worker_table(self._owner, metadata)

    def _exchange(self, connection: "Connection", model: str, told: Told) -> Shared:
        row = self._locked(connection, model)  # one worker after the other, so that no two wait for each other
        now = clock_s(connection)
        others = self._sign(connection, model, now, is_active=told.is_active)
        known = {**row, **self._note(connection, row, told, now)}
        is_fresh = known["updated_at"] > now - KNOWN_S
        return Shared(
            cooldown_s=_left_s(known["cooldown_until"], now),
            requests=_limit_of(known["request_limit"], known["requests_per_s"]) if is_fresh else None,
            tokens=_limit_of(known["token_limit"], known["tokens_per_s"]) if is_fresh else None,
            worker_count=others + 1,
        )

    def _locked(self, connection: "Connection", model: str) -> "RowMapping":
        """Return the model's row; nobody else reads it before the end of the transaction."""
        from sqlalchemy import select, text

        limit = self._tables[0]
        query = select(limit).where(limit.c.model == model).with_for_update()
        found = connection.execute(query).mappings().one_or_none()
        if found is None:  # two may find that out at once
            add = f"INSERT INTO {limit.name} (model) VALUES (:model) ON CONFLICT DO NOTHING"  # noqa: S608
            connection.execute(text(add), {"model": model})
            found = connection.execute(query).mappings().one()
        return found

    def _note(self, connection: "Connection", row: "RowMapping", told: Told, now: float) -> Mapping[str, float]:
        """Write what is new, and return it."""
        from sqlalchemy import update

        news: dict[str, float] = {}
        if told.cooldown_s > _left_s(row["cooldown_until"], now):
            news["cooldown_until"] = now + told.cooldown_s
        if told.requests:
            news |= {"request_limit": told.requests.size, "requests_per_s": told.requests.per_s, "updated_at": now}
        if told.tokens:
            news |= {"token_limit": told.tokens.size, "tokens_per_s": told.tokens.per_s, "updated_at": now}
        if news:
            limit = self._tables[0]
            connection.execute(update(limit).where(limit.c.model == row["model"]).values(news))
        return news

    def _sign(self, connection: "Connection", model: str, now: float, *, is_active: bool) -> int:
        """Give a sign of life, or take it back, and return how many others gave theirs."""
        from sqlalchemy import delete, func, insert, select

        worker = self._tables[1]
        mine = worker.c.worker_id == self.worker_id
        is_over = mine | (worker.c.seen_at < now - FORGOTTEN_S)
        connection.execute(delete(worker).where(worker.c.model == model, is_over))
        alive = select(func.count()).select_from(worker)
        others = connection.execute(alive.where(worker.c.model == model, worker.c.seen_at > now - ALIVE_S)).scalar_one()
        if is_active:
            connection.execute(insert(worker).values(worker_id=self.worker_id, model=model, seen_at=now))
        return int(others)

    def _leave(self, connection: "Connection") -> None:
        from sqlalchemy import delete

        worker = self._tables[1]
        connection.execute(delete(worker).where(worker.c.worker_id == self.worker_id))


def _left_s(until: float, now: float) -> float:
    """Return what is left of a cooldown; one that ends too far away was noted before the clock was put back."""
    left_s = until - now
    return left_s if 0 < left_s <= MAX_COOLDOWN_S else 0.0


def _limit_of(size: float | None, per_s: float | None) -> "Limit | None":
    from services.common.paid.bucket import Limit

    return Limit(size=size, per_s=per_s) if size and per_s else None
