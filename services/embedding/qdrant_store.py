"""Keeps vectors in Qdrant: a folder or the memory of this process, or a server."""

import asyncio
import logging
import pickle
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from services.common.errors import NotReady, UpstreamFailed
from services.embedding.paper_vectors import Collection, Point, Vector

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

logger = logging.getLogger(__name__)

MEMORY = ":memory:"
LOCK_FILE = "paperroute.lock"
WHAT = "the vector store"
RETRY_AFTER_S = 1.0
_Result = TypeVar("_Result")


class QdrantStore:
    """A `VectorStore`. Opened by the first call, or by `open`; one that failed to open is opened by the next.

    The client's local mode blocks and keeps SQLite connections, which belong to the thread that made them: one thread
    of the store's own opens, uses and closes it. That thread is also why concurrent first calls open it once.
    """

    def __init__(self, location: Path | str, *, memory_when_locked: bool = False) -> None:
        """Name where the vectors are.

        Args:
            location: a folder, ":memory:", or the URL of a server.
            memory_when_locked: whether memory takes the place of a folder that another process holds.
        """
        self._location = location
        self._memory_when_locked = memory_when_locked
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qdrant")
        self._client: QdrantClient | None = None
        self._closing = ExitStack()
        self._collections: set[str] = set()

    async def open(self) -> None:
        """Open the store ahead of the first call.

        Raises:
            NotReady: it cannot be opened.
        """
        await self._run(lambda _client: None)

    async def fetch(self, collection: Collection, point_ids: Sequence[str]) -> Mapping[str, Vector]:
        """Return the vectors of those points that are kept, to the bit as they were put.

        Raises:
            NotReady: the store cannot be opened.
            UpstreamFailed: it does not answer.
        """

        def job(client: "QdrantClient") -> Mapping[str, Vector]:
            self._ensure(client, collection)
            records = client.retrieve(collection.name, point_ids, with_payload=False, with_vectors=True)
            return {str(record.id): np.asarray(record.vector, dtype=np.float32) for record in records}

        return await self._run(job)

    async def put(self, collection: Collection, points: Sequence[Point]) -> None:
        """Keep the points, at least one; once this returns they outlive the process. Repeating it changes nothing.

        Raises:
            NotReady: the store cannot be opened.
            UpstreamFailed: it does not answer; some of the points may be kept.
        """

        def job(client: "QdrantClient") -> None:
            from qdrant_client import models

            self._ensure(client, collection)
            structs = [
                models.PointStruct(id=point.point_id, vector=point.vector.tolist(), payload=dict(point.payload))
                for point in points
            ]
            client.upsert(collection.name, structs, wait=True)

        await self._run(job)

    async def close(self) -> None:
        """Close what was opened, after the calls under way; the store cannot be used any more."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._closing.close)
        self._thread.shutdown()

    async def _run(self, job: "Callable[[QdrantClient], _Result]") -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._tried, job)

    def _tried(self, job: "Callable[[QdrantClient], _Result]") -> _Result:
        client = self._opened()
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        try:
            return job(client)
        except (ApiException, QdrantException, sqlite3.Error, OSError) as error:
            self._collections.clear()  # a server may come back empty
            raise UpstreamFailed(WHAT, str(error), retry_after_s=RETRY_AFTER_S) from error

    def _opened(self) -> "QdrantClient":
        if self._client is None:
            self._client = self._open()
            self._closing.callback(self._client.close)
        return self._client

    def _open(self) -> "QdrantClient":
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise NotReady(WHAT, "its package is missing; pip install 'paperroute[embedding]'") from error
        if isinstance(self._location, Path):
            return self._open_folder(self._location)
        if self._location == MEMORY:
            return QdrantClient(location=MEMORY)
        return QdrantClient(url=self._location, check_compatibility=False)  # the check warns where a call would fail

    def _open_folder(self, folder: Path) -> "QdrantClient":
        from portalocker import AlreadyLocked, LockException
        from qdrant_client import QdrantClient

        try:
            with ExitStack() as undo:
                undo.callback(_lock(folder))
                client = QdrantClient(path=str(folder))
                self._closing.push(undo.pop_all())
        except (AlreadyLocked, RuntimeError) as error:  # RuntimeError: a client that is not ours holds it
            if self._memory_when_locked:
                logger.warning("%s is in use by another process; vectors are kept in memory this time", folder)
                return QdrantClient(location=MEMORY)
            raise NotReady(WHAT, _advice_when_locked(folder)) from error
        except (OSError, ValueError, KeyError, LockException, sqlite3.Error, pickle.PickleError) as error:
            advice = f"{folder} cannot be opened ({error}); repair or remove it, or set PAPERROUTE_DATA_DIR to another"
            raise NotReady(WHAT, advice) from error
        return client

    def _ensure(self, client: "QdrantClient", collection: Collection) -> None:
        """Make the collection unless it exists."""
        from qdrant_client import models

        if collection.name in self._collections:
            return
        if not client.collection_exists(collection.name):
            # Dot, not Cosine: on unit vectors they are equal, but Cosine normalizes again and changes the last bits.
            parameters = models.VectorParams(size=collection.dimension, distance=models.Distance.DOT)
            client.create_collection(collection.name, vectors_config=parameters)
        self._collections.add(collection.name)


def _lock(folder: Path) -> Callable[[], None]:
    """Make the folder, for its owner only, hold it for this process, and return what lets go of it.

    The client has a lock too, but takes it after it has read, and on first use written, the folder's files: of two
    processes that start at once, one could wipe the other's list of collections.
    """
    import portalocker

    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)  # the client reads pickles from it
    file = (folder / LOCK_FILE).open("a")
    try:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except BaseException:
        file.close()
        raise
    return file.close


def _advice_when_locked(folder: Path) -> str:
    return (
        f"{folder} is in use by another process; use that one with --gateway, "
        "or set PAPERROUTE_EMBEDDING__STORE (:memory: or a server's URL) or PAPERROUTE_DATA_DIR"
    )
