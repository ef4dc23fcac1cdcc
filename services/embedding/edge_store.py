"""Keeps vectors in a folder of this process with Qdrant Edge, the engine of the Qdrant server as a library.

A collection is a shard of its own, in a folder of its own. Its vectors stay unindexed: among 100,000 of them the exact
search takes 5 ms, while building the graph of an approximate one takes a minute and more than twice the memory.
Source: own measurements with qdrant-edge-py 0.9.0.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from services.common.errors import NotReady, UpstreamFailed
from services.embedding.paper_vectors import Collection, Hit, Point, Selection, Vector
from services.embedding.payloads import CATEGORIES, PUBLISHED_AT

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard, Filter

logger = logging.getLogger(__name__)

LOCK_FILE = "paperroute.lock"
WHAT = "the vector store"
RETRY_AFTER_S = 1.0
MAX_PUT_POINTS = 100
"""Points of a batch, which the engine takes in some milliseconds."""
_Result = TypeVar("_Result")


class EdgeStore:
    """A `VectorStore`. Opened by the first call; one that failed to open is opened by the next.

    What `put` has acknowledged outlives a killed process through the engine's log, and a loss of power because every
    `put` ends with a flush to the disk (some milliseconds). A `put` that was cut off may have been kept in part, and
    repeating it completes it.

    One thread of the store's own does everything, one call after the other. More threads would be no quicker: the
    engine keeps the interpreter's lock while it works. For the same reason points are put in batches, between which
    the rest of the process goes on.
    """

    def __init__(self, folder: Path | None, *, memory_when_locked: bool = False) -> None:
        """Name where the vectors are.

        Args:
            folder: where they are kept; None keeps them no longer than the store is open. The engine needs files for
                that too: a temporary folder, which stays behind only when the process is killed.
            memory_when_locked: whether to go on as with None when another process holds the folder.
        """
        self._location = folder
        self._memory_when_locked = memory_when_locked
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vectors")
        self._closing = ExitStack()
        self._folder: Path | None = None
        self._shards: dict[str, EdgeShard] = {}

    async def fetch(self, collection: Collection, point_ids: Sequence[str]) -> Mapping[str, Vector]:
        """Return the vectors of those points that are kept, to the bit as they were put.

        Raises:
            NotReady: the store cannot be opened.
            UpstreamFailed: it fails.
        """

        def job() -> Mapping[str, Vector]:
            shard = self._shard(collection)
            records = shard.retrieve([*point_ids], with_payload=False, with_vector=True) if shard else []
            return {str(record.id): np.asarray(record.vector, dtype=np.float32) for record in records}

        return await self._run(collection, job)

    async def put(self, collection: Collection, points: Sequence[Point]) -> None:
        """Keep the points, at least one; once this returns they are on the disk. Repeating it changes nothing.

        Raises:
            NotReady: the store cannot be opened.
            UpstreamFailed: it fails; some of the points may be kept.
        """

        def job() -> None:
            shard = self._shard(collection) or self._make(collection)
            import qdrant_edge as edge  # opening has told if it is missing

            edge_points = [edge.Point(each.point_id, each.vector.tolist(), dict(each.payload)) for each in points]
            for start in range(0, len(edge_points), MAX_PUT_POINTS):
                batch = edge_points[start : start + MAX_PUT_POINTS]
                shard.update(edge.UpdateOperation.upsert_points(batch))
            shard.flush()

        await self._run(collection, job)

    async def find(self, collection: Collection, vector: Vector, selection: Selection, limit: int) -> Sequence[Hit]:
        """Return the `limit` points of the selection nearest to `vector`, nearest first; fewer if there are no more.

        Raises:
            NotReady: the store cannot be opened.
            UpstreamFailed: it fails.
        """

        def job() -> Sequence[Hit]:
            shard = self._shard(collection)
            if shard is None:
                return []
            import qdrant_edge as edge

            nearest = edge.Query.Nearest(vector.tolist())
            found = shard.query(
                edge.QueryRequest(limit, query=nearest, filter=_filter_of(selection), with_payload=True)
            )
            return [Hit(payload=each.payload or {}, similarity=each.score) for each in found]

        return await self._run(collection, job)

    async def close(self) -> None:
        """Close what was opened, after the calls under way; the store cannot be used any more."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _run(self, collection: Collection, job: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._tried, collection, job)

    def _tried(self, collection: Collection, job: Callable[[], _Result]) -> _Result:
        try:
            return job()
        except BaseException as error:
            if not (_is_of_engine(error) or isinstance(error, OSError)):
                raise
            self._close_shard(collection.name)  # the next call opens it anew
            raise UpstreamFailed(WHAT, str(error), retry_after_s=RETRY_AFTER_S) from error

    def _shard(self, collection: Collection) -> "EdgeShard | None":
        """Return the shard of a collection; None when the collection was never made."""
        shard = self._shards.get(collection.name)
        if shard:
            return shard
        path = self._opened() / collection.name
        return self._load(path) if path.exists() else None

    def _make(self, collection: Collection) -> "EdgeShard":
        """Make the shard of a collection; a process killed here leaves none rather than half of one."""
        import qdrant_edge as edge

        folder = self._opened()
        unfinished = folder / f"{collection.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        # Dot, not Cosine: on unit vectors they are equal, but Cosine normalizes again and changes the last bits.
        parameters = edge.EdgeVectorParams(size=collection.dimension, distance=edge.Distance.Dot)
        shard = edge.EdgeShard.create(
            str(unfinished),
            edge.EdgeConfig(vectors=parameters, max_search_threads=1),  # there is one segment
        )
        for field, kind in (
            (PUBLISHED_AT, edge.PayloadSchemaType.Datetime),
            (CATEGORIES, edge.PayloadSchemaType.Keyword),
        ):
            shard.update(edge.UpdateOperation.create_field_index(field, kind))
        shard.flush()
        shard.close()
        unfinished.rename(folder / collection.name)
        return self._load(folder / collection.name)

    def _load(self, path: Path) -> "EdgeShard":
        import qdrant_edge as edge

        try:
            shard = edge.EdgeShard.load(str(path))
        except BaseException as error:
            if not _is_of_engine(error):
                raise
            advice = _advice_when_locked(path) if "WouldBlock" in str(error) else _advice_when_damaged(path, error)
            raise NotReady(WHAT, advice) from error
        self._shards[path.name] = shard
        return shard

    def _close(self) -> None:
        for name in list(self._shards):
            self._close_shard(name)
        self._closing.close()

    def _close_shard(self, name: str) -> None:
        """Close a shard if it is open; what it has acknowledged is on the disk, so that a failure loses nothing."""
        shard = self._shards.pop(name, None)
        try:
            if shard:
                shard.close()
        except BaseException as error:
            if not _is_of_engine(error):
                raise
            logger.warning("%s could not be closed: %s", name, error)

    def _opened(self) -> Path:
        if self._folder is None:
            self._folder = self._open()
        return self._folder

    def _open(self) -> Path:
        """Hold the folder for this process and return it, or a temporary one."""
        try:
            import portalocker
            import qdrant_edge  # noqa: F401 # told here if it is missing
        except ImportError as error:
            raise NotReady(WHAT, "its package is missing; pip install 'paperroute[embedding]'") from error
        if self._location is None:
            return self._temporary_folder()
        try:
            self._closing.callback(_lock(self._location))
        except portalocker.AlreadyLocked as error:
            if self._memory_when_locked:
                logger.warning("%s is in use by another process; vectors are not kept this time", self._location)
                return self._temporary_folder()
            raise NotReady(WHAT, _advice_when_locked(self._location)) from error
        except (OSError, portalocker.LockException) as error:
            raise NotReady(WHAT, _advice_when_damaged(self._location, error)) from error
        return self._location

    def _temporary_folder(self) -> Path:
        """Return a new folder for its owner only, which is removed at the end."""
        return Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="paperroute-vectors-")))


def _filter_of(selection: Selection) -> "Filter | None":
    import qdrant_edge as edge

    first, end = selection.published_from, selection.published_before
    conditions = []
    if first or end:
        span = edge.RangeDateTime(gte=first.isoformat() if first else None, lt=end.isoformat() if end else None)
        conditions.append(edge.FieldCondition(PUBLISHED_AT, range=span))
    if selection.categories:
        conditions.append(edge.FieldCondition(CATEGORIES, match=edge.MatchAny(list(selection.categories))))
    return edge.Filter(must=[*conditions]) if conditions else None


def _is_of_engine(error: BaseException) -> bool:
    """Return whether the engine raised it: it has no class of its own, and a panic in it is no `Exception`."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _lock(folder: Path) -> Callable[[], None]:
    """Make the folder, for its owner only, hold it for this process, and return what lets go of it.

    The engine locks each shard too, but later: of two processes that start at once, both would make one.
    """
    import portalocker

    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
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


def _advice_when_damaged(folder: Path, error: BaseException) -> str:
    return f"{folder} cannot be opened ({error}); repair or remove it, or set PAPERROUTE_DATA_DIR to another"
