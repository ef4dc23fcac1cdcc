"""A stand-in for a Qdrant server: real HTTP on loopback, with the library's own in-memory engine behind it.

    async with QdrantStandIn() as qdrant:
        store = QdrantStore(qdrant.url)

It answers the calls that the vector store makes, and refuses what a server refuses: a wrong key, a collection made
twice, one that does not exist, a body that is too long. It runs in the event loop of the test.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

MAX_BODY_BYTES = 32 * 1024 * 1024
"""A server's default. Source: `service.max_request_size_mb` in Qdrant's configuration."""


class QdrantStandIn:
    """Serves at `url` for as long as its context is open."""

    def __init__(self, key: str = "", prefix: str = "") -> None:
        """Take the key that callers must send, empty for none, and the path below which all is served."""
        self.url = ""
        self.indexes: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """Kinds of the payload indexes, by collection and field."""
        self.upserts: list[int] = []
        """Number of points of each call that kept some."""
        self.fails_with: int | None = None
        """Status that every call is answered with; None answers properly."""
        self._key = key
        self._prefix = prefix

    async def __aenter__(self) -> Self:
        from qdrant_client import QdrantClient

        self._engine = QdrantClient(":memory:")
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._around])
        collection = f"{self._prefix}/collections/{{name}}"
        app.add_routes(
            [
                web.get(f"{collection}/exists", self._exists),
                web.put(collection, self._create),
                web.put(f"{collection}/index", self._index),
                web.put(f"{collection}/points", self._upsert),
                web.post(f"{collection}/points", self._retrieve),
                web.post(f"{collection}/points/query", self._query),
            ]
        )
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}{self._prefix}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        self._engine.close()

    def forget(self) -> None:
        """Lose every collection, as a server does that comes back with another disk."""
        for each in self._engine.get_collections().collections:
            self._engine.delete_collection(each.name)
        self.indexes.clear()

    @web.middleware
    async def _around(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]
    ) -> web.StreamResponse:
        if self.fails_with:
            return _refusal(self.fails_with, "as told")
        if request.headers.get("api-key", "") != self._key:
            return _refusal(403, "Forbidden: Invalid API key")
        name = request.match_info["name"]
        is_making = request.method == "PUT" and request.path.endswith(name)
        if not (is_making or request.path.endswith("/exists") or self._engine.collection_exists(name)):
            return _refusal(404, f"Not found: Collection `{name}` doesn't exist!")
        return web.json_response({"result": await handler(request), "status": "ok", "time": 0.0})

    async def _exists(self, request: web.Request) -> object:
        return {"exists": self._engine.collection_exists(request.match_info["name"])}

    async def _create(self, request: web.Request) -> object:
        from qdrant_client import models

        name = request.match_info["name"]
        if self._engine.collection_exists(name):
            raise web.HTTPConflict(text=f"Collection `{name}` already exists!")
        wanted = models.CreateCollection.model_validate(await request.json())
        return self._engine.create_collection(name, vectors_config=wanted.vectors)

    async def _index(self, request: web.Request) -> object:
        wanted = await request.json()
        self.indexes[request.match_info["name"]][wanted["field_name"]] = wanted["field_schema"]
        return _DONE

    async def _upsert(self, request: web.Request) -> object:
        from qdrant_client import models

        wanted = models.PointsList.model_validate(await request.json())
        self._engine.upsert(request.match_info["name"], wanted.points)
        self.upserts.append(len(wanted.points))
        return _DONE

    async def _retrieve(self, request: web.Request) -> object:
        from qdrant_client import models

        wanted = models.PointRequest.model_validate(await request.json())
        records = self._engine.retrieve(
            request.match_info["name"],
            wanted.ids,
            with_payload=wanted.with_payload or False,
            with_vectors=wanted.with_vector or False,
        )
        return [record.model_dump(mode="json") for record in records]

    async def _query(self, request: web.Request) -> object:
        from qdrant_client import models

        wanted = models.QueryRequest.model_validate(await request.json())
        found = self._engine.query_points(
            request.match_info["name"],
            query=wanted.query,
            query_filter=wanted.filter,
            limit=wanted.limit or 10,
            with_payload=wanted.with_payload or False,
        )
        return found.model_dump(mode="json")


_DONE = {"operation_id": 1, "status": "completed"}


def _refusal(status: int, error: str) -> web.Response:
    return web.json_response({"status": {"error": error}, "time": 0.0}, status=status)
