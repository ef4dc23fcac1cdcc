"""Pages that arXiv gave before, kept in the retrieval store for all replicas; the least used give way to new ones."""

import hashlib
import json
import logging
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from paperroute.v1 import retrieval_service_pb2 as pb

from services.common.database import Database, clock_s
from services.common.errors import PaperRouteError
from services.common.papers import Paper, message_of, paper_of
from services.retrieval.arxiv_client import ArxivPage

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageRequest:
    """What one page is asked for with."""

    query: str
    by_relevance: bool
    start: int
    size: int

    def key(self, url: str) -> str:
        """Return the name of the page; the order of the words that a query joins by AND does not matter."""
        clauses = sorted(self.query.split(" AND "))
        asked = json.dumps([url, clauses, self.by_relevance, self.start, self.size])
        return hashlib.sha256(asked.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundPage:
    """A page and when arXiv gave it."""

    page: ArxivPage
    answered_at: datetime
    """UTC."""
    is_cached: bool


class PageCache:
    """Keeps the pages of the API at one address."""

    def __init__(self, store: Database, url: str, max_bytes: int) -> None:
        self._store = store
        self._url = url
        self._max_bytes = max_bytes

    async def find(
        self, asked: PageRequest, *, max_age_s: float, not_before: datetime | None = None
    ) -> FoundPage | None:
        """Return the page if one is kept that is at most that old and was not given before that moment."""
        key = asked.key(self._url)
        return await self._store.run(lambda connection: _found(connection, key, max_age_s, not_before))

    async def keep(self, asked: PageRequest, page: ArxivPage) -> datetime:
        """Keep a page and return the moment, UTC; when the store fails the page is not kept.

        A page without papers is not: when arXiv errs, the next search finds out.
        """
        if not page.entry_count:
            return datetime.now(UTC)
        key, papers = asked.key(self._url), _packed(page)
        try:
            now = await self._store.run(lambda connection: self._put(connection, key, papers, page))
        except PaperRouteError as error:
            logger.warning("could not keep a page: %s", error.message)
            return datetime.now(UTC)
        return datetime.fromtimestamp(now, UTC)

    def _put(self, connection: "Connection", key: str, papers: bytes, page: ArxivPage) -> float:
        from sqlalchemy import delete, insert

        from services.retrieval.tables import page as table

        now = clock_s(connection)
        connection.execute(delete(table).where(table.c.key == key))
        connection.execute(
            insert(table).values(
                key=key,
                papers=papers,
                entry_count=page.entry_count,
                total_count=page.total_count,
                answered_at=now,
                used_at=now,
                size_bytes=len(papers),
            )
        )
        _evict(connection, self._max_bytes)
        return now


def _found(connection: "Connection", key: str, max_age_s: float, not_before: datetime | None) -> FoundPage | None:
    from sqlalchemy import select, update

    from services.retrieval.tables import page as table

    row = connection.execute(select(table).where(table.c.key == key)).one_or_none()
    if row is None:
        return None
    answered_at = datetime.fromtimestamp(row.answered_at, UTC)
    now = clock_s(connection)
    if now - row.answered_at > max_age_s or (not_before and answered_at < not_before):
        return None
    connection.execute(update(table).where(table.c.key == key).values(used_at=now))
    page = ArxivPage(papers=_unpacked(row.papers), entry_count=row.entry_count, total_count=row.total_count)
    return FoundPage(page=page, answered_at=answered_at, is_cached=True)


def _evict(connection: "Connection", max_bytes: int) -> None:
    """Drop the pages that were not used for longest until the others fit."""
    from sqlalchemy import delete, func, select

    from services.retrieval.tables import page as table

    excess = connection.execute(select(func.sum(table.c.size_bytes))).scalar_one() - max_bytes
    if excess <= 0:
        return
    dropped = []
    for row in connection.execute(select(table.c.key, table.c.size_bytes).order_by(table.c.used_at)):
        dropped.append(row.key)
        excess -= row.size_bytes
        if excess <= 0:
            break
    connection.execute(delete(table).where(table.c.key.in_(dropped)))


def _packed(page: ArxivPage) -> bytes:
    return zlib.compress(pb.SearchResult(papers=map(message_of, page.papers)).SerializeToString())


def _unpacked(papers: bytes) -> tuple[Paper, ...]:
    return tuple(map(paper_of, pb.SearchResult.FromString(zlib.decompress(papers)).papers))
