import asyncio
import gc
import logging
import socket
import sqlite3
import stat
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.common.errors import NotReady, UpstreamFailed
from services.embedding.paper_vectors import Collection, Point
from services.embedding.qdrant_store import QdrantStore

COLLECTION = Collection(name="hash-8d", dimension=8)


def unit_rows(count: int, dimension: int = 8, seed: int = 7) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def points_of(rows: NDArray[np.float32]) -> list[Point]:
    return [
        Point(point_id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))), vector=row, payload={"number": number})
        for number, row in enumerate(rows)
    ]


def ids_of(points: Sequence[Point]) -> list[str]:
    return [point.point_id for point in points]


async def stored_payloads(folder: Path) -> list[object]:
    """Return what a plain Qdrant client finds in the folder once the store has let go of it."""

    def read() -> list[object]:
        from qdrant_client import QdrantClient

        client = QdrantClient(path=str(folder))
        records, _ = client.scroll(COLLECTION.name, limit=1_000, with_payload=True)
        client.close()
        return sorted(record.payload["number"] for record in records if record.payload)

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("where", ["folder", "memory"])
async def test_vectors_come_back_to_the_bit(where, tmp_path):
    """What is read later must equal what the first caller was given."""
    rows = unit_rows(200)
    points = points_of(rows)
    store = QdrantStore(tmp_path / "qdrant" if where == "folder" else ":memory:")

    await store.put(COLLECTION, points)
    found = await store.fetch(COLLECTION, ids_of(points))
    await store.close()

    assert np.array_equal(np.stack([found[each] for each in ids_of(points)]), rows)


async def test_vectors_outlive_the_store_to_the_bit(tmp_path):
    rows = unit_rows(50)
    points = points_of(rows)
    first = QdrantStore(tmp_path / "qdrant")
    await first.put(COLLECTION, points)
    await first.close()

    second = QdrantStore(tmp_path / "qdrant")
    found = await second.fetch(COLLECTION, ids_of(points))
    await second.close()

    assert np.array_equal(np.stack([found[each] for each in ids_of(points)]), rows)


async def test_only_what_is_kept_is_found(tmp_path):
    points = points_of(unit_rows(3))
    store = QdrantStore(tmp_path / "qdrant")

    before = await store.fetch(COLLECTION, ids_of(points))
    await store.put(COLLECTION, points[:2])
    after = await store.fetch(COLLECTION, ids_of(points))
    elsewhere = await store.fetch(Collection(name="other-8d", dimension=8), ids_of(points))
    await store.close()

    assert list(before) == []
    assert sorted(after) == sorted(ids_of(points[:2]))
    assert list(elsewhere) == []


async def test_repeated_puts_keep_one_point_with_its_payload(tmp_path):
    points = points_of(unit_rows(3))
    store = QdrantStore(tmp_path / "qdrant")

    await store.put(COLLECTION, points)
    await asyncio.gather(store.put(COLLECTION, points), store.put(COLLECTION, points[1:]))
    await store.close()

    assert await stored_payloads(tmp_path / "qdrant") == [0, 1, 2]


async def test_first_calls_at_once_open_the_folder_once(tmp_path):
    """A second opening would find the folder locked by the first."""
    store = QdrantStore(tmp_path / "qdrant")

    answers = await asyncio.gather(*(store.fetch(COLLECTION, []) for _ in range(8)))
    await store.close()

    assert answers == [{}] * 8


async def test_folder_is_its_owners_alone(tmp_path):
    """The store's files are pickles: who can write them can run code."""
    (tmp_path / "qdrant").mkdir(mode=0o755)
    store = QdrantStore(tmp_path / "qdrant")

    await store.open()
    await store.close()

    assert stat.S_IMODE((tmp_path / "qdrant").stat().st_mode) == 0o700


async def test_a_missing_data_folder_is_made_for_its_owner(tmp_path):
    store = QdrantStore(tmp_path / "data" / "qdrant")

    await store.open()
    await store.close()

    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


async def test_a_folder_in_use_is_told_with_what_to_set_until_it_is_free(tmp_path):
    holder, other = QdrantStore(tmp_path / "qdrant"), QdrantStore(tmp_path / "qdrant")
    await holder.open()

    for _ in range(2):
        with pytest.raises(NotReady) as failure:
            await other.fetch(COLLECTION, [])
        assert "in use by another process" in failure.value.message
        for name in ("PAPERROUTE_EMBEDDING__STORE", "PAPERROUTE_DATA_DIR", "--gateway"):
            assert name in failure.value.message
    await holder.close()

    assert await other.fetch(COLLECTION, []) == {}
    await other.close()


# The client opens its lock file before it finds it taken, and leaves closing it to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
async def test_a_folder_in_use_by_another_qdrant_client_is_told_too(tmp_path):
    from qdrant_client import QdrantClient

    holder = await asyncio.to_thread(QdrantClient, path=str(tmp_path / "qdrant"))
    store = QdrantStore(tmp_path / "qdrant")

    with pytest.raises(NotReady, match="in use by another process"):
        await store.open()
    gc.collect()  # here, where the warning is expected
    holder.close()
    await store.open()
    await store.close()


async def test_memory_takes_the_place_of_a_folder_in_use_where_that_is_wanted(tmp_path, caplog):
    points = points_of(unit_rows(2))
    holder = QdrantStore(tmp_path / "qdrant")
    await holder.open()
    other = QdrantStore(tmp_path / "qdrant", memory_when_locked=True)

    with caplog.at_level(logging.WARNING):
        await other.put(COLLECTION, points)
    found = await other.fetch(COLLECTION, ids_of(points))
    await other.close()
    await holder.fetch(COLLECTION, [])
    await holder.close()

    assert sorted(found) == sorted(ids_of(points))
    assert "in use by another process" in caplog.text
    assert await stored_payloads(tmp_path / "qdrant") == []


async def test_a_file_in_the_folders_place_is_told(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    store = QdrantStore(tmp_path / "data" / "qdrant")

    with pytest.raises(NotReady, match="PAPERROUTE_DATA_DIR"):
        await store.open()
    await store.close()


async def test_a_damaged_folder_is_told_until_it_is_repaired(tmp_path):
    """Failing to open must leave nothing locked: the next call tries again."""
    folder = tmp_path / "qdrant"
    folder.mkdir()
    (folder / "meta.json").write_text("{")
    store = QdrantStore(folder)
    with pytest.raises(NotReady, match="cannot be opened"):
        await store.open()

    (folder / "meta.json").unlink()

    assert await store.fetch(COLLECTION, []) == {}
    await store.close()


async def test_a_server_that_does_not_answer_is_a_failure_that_may_pass():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    store = QdrantStore(f"http://127.0.0.1:{port}")

    with pytest.raises(UpstreamFailed, match="the vector store") as failure:
        await store.fetch(COLLECTION, [])
    await store.close()

    assert failure.value.retry_after_s > 0


async def test_a_failing_disk_is_a_failure_that_may_pass(tmp_path):
    points = points_of(unit_rows(2))
    store = QdrantStore(tmp_path / "qdrant")
    await store.fetch(COLLECTION, [])
    (file,) = (tmp_path / "qdrant").rglob("storage.sqlite")
    database = sqlite3.connect(file)
    database.execute("ALTER TABLE points RENAME TO away")

    with pytest.raises(UpstreamFailed, match="no such table"):
        await store.put(COLLECTION, points)
    database.execute("ALTER TABLE away RENAME TO points")
    database.close()
    await store.put(COLLECTION, points)
    await store.close()

    assert await stored_payloads(tmp_path / "qdrant") == [0, 1]
