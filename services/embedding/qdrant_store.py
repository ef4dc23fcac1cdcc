"""Keeps vectors in a Qdrant server, which several replicas of the service can share."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from services.common.errors import NotReady, UpstreamFailed
from services.embedding.paper_vectors import Collection, Hit, Point, Selection, Vector
from services.embedding.payloads import CATEGORIES, PUBLISHED_AT

if TYPE_CHECKING:
    from pydantic import SecretStr
    from qdrant_client import AsyncQdrantClient
    from qdrant_client.models import Filter

WHAT = "the vector store"
TIMEOUT_S = 10
"""Longest a single call to the server may take."""
RETRY_AFTER_S = 1.0
MAX_PUT_POINTS = 100
"""Points of a call: with abstracts as long as they may be, they stay below the 32 MiB that a server accepts."""
ALREADY_EXISTS = 409
NOT_ALLOWED = (401, 403)
_Result = TypeVar("_Result")


class QdrantStore:
    """A `VectorStore`. Opened by the first call; one that failed to open is opened by the next."""

    def __init__(self, url: str, key: "SecretStr") -> None:
        """Name the server by its URL, with port 6333 where that names none, and its API key; empty for none."""
        self._url = url
        self._key = key
        self._opening = asyncio.Lock()
        self._client: AsyncQdrantClient | None = None
        self._collections: set[str] = set()

    async def fetch(self, collection: Collection, point_ids: Sequence[str]) -> Mapping[str, Vector]:
        """Return the vectors of those points that are kept, to the bit as they were put.

        Raises:
            NotReady: the store cannot be opened or refuses the key.
            UpstreamFailed: it does not answer.
        """

        async def job(client: "AsyncQdrantClient") -> Mapping[str, Vector]:
            if not await self._exists(client, collection):
                return {}
            records = await client.retrieve(collection.name, point_ids, with_payload=False, with_vectors=True)
            return {str(record.id): np.asarray(record.vector, dtype=np.float32) for record in records}

        return await self._tried(job)

    async def put(self, collection: Collection, points: Sequence[Point]) -> None:
        """Keep the points, at least one; once this returns the server has them. Repeating it changes nothing.

        Raises:
            NotReady: the store cannot be opened or refuses the key.
            UpstreamFailed: it does not answer; some of the points may be kept.
        """

        async def job(client: "AsyncQdrantClient") -> None:
            from qdrant_client import models

            await self._make(client, collection)
            structs = [
                models.PointStruct(id=point.point_id, vector=point.vector.tolist(), payload=dict(point.payload))
                for point in points
            ]
            for start in range(0, len(structs), MAX_PUT_POINTS):
                await client.upsert(collection.name, structs[start : start + MAX_PUT_POINTS], wait=True)

        await self._tried(job)

    async def find(self, collection: Collection, vector: Vector, selection: Selection, limit: int) -> Sequence[Hit]:
        """Return the `limit` points of the selection nearest to `vector`, nearest first; fewer if there are no more.

        The search of a server with many points is approximate.

        Raises:
            NotReady: the store cannot be opened or refuses the key.
            UpstreamFailed: it does not answer.
        """

        async def job(client: "AsyncQdrantClient") -> Sequence[Hit]:
            if not await self._exists(client, collection):
                return []
            found = await client.query_points(
                collection.name,
                query=vector.tolist(),
                query_filter=_filter_of(selection),
                limit=limit,
                with_payload=True,
            )
            return [Hit(payload=each.payload or {}, similarity=each.score) for each in found.points]

        return await self._tried(job)

    async def close(self) -> None:
        """Close what was opened; the store cannot be used any more."""
        if self._client:
            await self._client.close()

    async def _tried(self, job: "Callable[[AsyncQdrantClient], Awaitable[_Result]]") -> _Result:
        client = await self._opened()
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

        try:
            return await job(client)
        except (ApiException, QdrantException) as error:
            self._collections.clear()  # a server may come back empty
            if isinstance(error, UnexpectedResponse) and error.status_code in NOT_ALLOWED:
                raise NotReady(WHAT, "the server refuses the key; set PAPERROUTE_EMBEDDING__STORE_KEY") from error
            raise UpstreamFailed(WHAT, str(error) or repr(error), retry_after_s=RETRY_AFTER_S) from error

    async def _opened(self) -> "AsyncQdrantClient":
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._open)  # the import alone takes a second
            return self._client

    def _open(self) -> "AsyncQdrantClient":
        try:
            from qdrant_client import AsyncQdrantClient
        except ImportError as error:
            raise NotReady(WHAT, "its package is missing; pip install 'paperroute[embedding]'") from error
        return AsyncQdrantClient(
            url=self._url,
            api_key=self._key.get_secret_value() or None,
            timeout=TIMEOUT_S,
            check_compatibility=False,  # the check warns where a call would fail
        )

    async def _exists(self, client: "AsyncQdrantClient", collection: Collection) -> bool:
        """Return whether the collection is made; once it is, the server is not asked again."""
        return collection.name in self._collections or await client.collection_exists(collection.name)

    async def _make(self, client: "AsyncQdrantClient", collection: Collection) -> None:
        """Make the collection and its indexes where they are missing; other replicas may be doing the same."""
        from qdrant_client import models
        from qdrant_client.http.exceptions import UnexpectedResponse

        if collection.name in self._collections:
            return
        if not await client.collection_exists(collection.name):
            # Dot, not Cosine: on unit vectors they are equal, but Cosine normalizes again and changes the last bits.
            parameters = models.VectorParams(size=collection.dimension, distance=models.Distance.DOT)
            try:
                await client.create_collection(collection.name, vectors_config=parameters)
            except UnexpectedResponse as error:
                if error.status_code != ALREADY_EXISTS:
                    raise
        for field, kind in (
            (PUBLISHED_AT, models.PayloadSchemaType.DATETIME),
            (CATEGORIES, models.PayloadSchemaType.KEYWORD),
        ):
            await client.create_payload_index(collection.name, field, kind, wait=True)
        self._collections.add(collection.name)


def _filter_of(selection: Selection) -> "Filter | None":
    from qdrant_client import models

    conditions: list[models.Condition] = []
    if selection.published_from or selection.published_before:
        span = models.DatetimeRange(gte=selection.published_from, lt=selection.published_before)
        conditions.append(models.FieldCondition(key=PUBLISHED_AT, range=span))
    if selection.categories:
        conditions.append(models.FieldCondition(key=CATEGORIES, match=models.MatchAny(any=[*selection.categories])))
    return models.Filter(must=conditions) if conditions else None
