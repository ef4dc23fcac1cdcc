"""What the store in a folder promises beyond every store: one process, kills, damage, a temporary place."""

import asyncio
import logging
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.common.errors import NotReady, UpstreamFailed
from services.common.papers import Paper
from services.embedding.edge_store import EdgeStore
from services.embedding.paper_vectors import Collection, Point, Selection
from services.embedding.payloads import payload_of

ROOT = Path(__file__).parents[3]
COLLECTION = Collection(name="hash-8d", dimension=8)
BATCH = 10

STREAM_OF_PUTS = """
import asyncio, sys, uuid
from pathlib import Path
import numpy as np
from services.embedding.edge_store import EdgeStore
from services.embedding.paper_vectors import Collection, Point

async def main(folder, number, batch):
    store = EdgeStore(Path(folder))
    while True:
        points = []
        for each in range(number, number + batch):
            row = np.random.default_rng(each).normal(size=8).astype(np.float32)
            payload = {"paper_id": str(each), "published_at": "2021-01-01T00:00:00Z", "categories": ["cs.CV"]}
            point_id = str(uuid.uuid5(uuid.NAMESPACE_OID, str(each)))
            points.append(Point(point_id=point_id, vector=row / np.linalg.norm(row), payload=payload))
        await store.put(Collection(name="hash-8d", dimension=8), points)
        number += batch
        print(number, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""
"""Puts points from a number on, without end, and prints after each batch how far it has come."""


def points_of(*numbers: int) -> list[Point]:
    """Return the points that the stream of puts makes of these numbers, with other payloads."""
    points = []
    for number in numbers:
        row = np.random.default_rng(number).normal(size=8).astype(np.float32)
        paper = Paper(paper_id=f"{number}", title="T", abstract="", published_at=datetime(2021, 1, 1, tzinfo=UTC))
        point_id = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
        points.append(Point(point_id=point_id, vector=row / np.linalg.norm(row), payload=payload_of(paper, "hash")))
    return points


def ids_of(points: Sequence[Point]) -> list[str]:
    return [point.point_id for point in points]


def rows_of(points: Sequence[Point]) -> NDArray[np.float32]:
    return np.stack([point.vector for point in points])


async def kept_numbers(store: EdgeStore, selection: Selection | None = None) -> list[int]:
    hits = await store.find(COLLECTION, points_of(0)[0].vector, selection or Selection(), 10_000)
    return sorted(int(str(hit.payload["paper_id"])) for hit in hits)


async def test_nothing_acknowledged_is_lost_by_kills_in_a_stream_of_puts(tmp_path):
    """Whatever the last batch left behind, the next process opens it, completes it and finds each point once."""
    acknowledged = 0
    for batches in (1, 4, 9, 16):
        command = [sys.executable, "-c", STREAM_OF_PUTS, str(tmp_path / "vectors"), str(acknowledged), str(BATCH)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                for _ in range(batches):
                    assert process.stdout
                    acknowledged = int(process.stdout.readline())
            finally:
                process.kill()

        points = points_of(*range(acknowledged))
        store = EdgeStore(tmp_path / "vectors")
        found = await store.fetch(COLLECTION, ids_of(points))
        numbers = await kept_numbers(store, Selection(categories=("cs.CV",)))
        await store.close()

        assert np.stack([found[each] for each in ids_of(points)]).tobytes() == rows_of(points).tobytes()
        assert set(range(acknowledged)) <= set(numbers)
        assert len(numbers) == len(set(numbers))


async def test_a_process_killed_while_it_made_a_collection_leaves_none(tmp_path):
    store = EdgeStore(tmp_path / "vectors")
    await store.put(COLLECTION, points_of(1))
    await store.close()
    made = tmp_path / "vectors" / COLLECTION.name
    made.rename(made.with_name(f"{made.name}.unfinished"))
    store = EdgeStore(tmp_path / "vectors")

    assert await store.fetch(COLLECTION, ids_of(points_of(1))) == {}
    await store.put(COLLECTION, points_of(2))
    assert await kept_numbers(store) == [2]
    await store.close()

    assert sorted(path.name for path in (tmp_path / "vectors").iterdir()) == [COLLECTION.name, "paperroute.lock"]


async def test_reading_makes_nothing(tmp_path):
    """An encoder that is only asked about leaves no files behind."""
    store = EdgeStore(tmp_path / "vectors")

    await store.fetch(COLLECTION, ids_of(points_of(1)))
    await store.find(COLLECTION, points_of(1)[0].vector, Selection(), 5)
    await store.close()

    assert [path.name for path in (tmp_path / "vectors").iterdir()] == ["paperroute.lock"]


async def test_folder_is_its_owners_alone(tmp_path):
    (tmp_path / "vectors").mkdir(mode=0o755)
    store = EdgeStore(tmp_path / "vectors")

    await store.fetch(COLLECTION, [])
    await store.close()

    assert stat.S_IMODE((tmp_path / "vectors").stat().st_mode) == 0o700


async def test_a_missing_data_folder_is_made_for_its_owner(tmp_path):
    store = EdgeStore(tmp_path / "data" / "vectors")

    await store.fetch(COLLECTION, [])
    await store.close()

    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


async def test_a_folder_in_use_is_told_with_what_to_set_until_it_is_free(tmp_path):
    holder, other = EdgeStore(tmp_path / "vectors"), EdgeStore(tmp_path / "vectors")
    await holder.fetch(COLLECTION, [])

    for _ in range(2):
        with pytest.raises(NotReady) as failure:
            await other.fetch(COLLECTION, [])
        assert "in use by another process" in failure.value.message
        for name in ("PAPERROUTE_EMBEDDING__STORE", "PAPERROUTE_DATA_DIR", "--gateway"):
            assert name in failure.value.message
    await holder.close()

    assert await other.fetch(COLLECTION, []) == {}
    await other.close()


async def test_a_collection_in_use_by_another_program_is_told_too(tmp_path):
    """Such as a notebook that reads the folder with the engine's own library."""
    from qdrant_edge import EdgeShard

    store = EdgeStore(tmp_path / "vectors")
    await store.put(COLLECTION, points_of(1))
    await store.close()
    shard = EdgeShard.load(str(tmp_path / "vectors" / COLLECTION.name))
    store = EdgeStore(tmp_path / "vectors")

    with pytest.raises(NotReady, match="in use by another process"):
        await store.fetch(COLLECTION, [])
    shard.close()

    assert len(await store.fetch(COLLECTION, ids_of(points_of(1)))) == 1
    await store.close()


async def test_a_temporary_place_is_taken_for_a_folder_in_use_where_that_is_wanted(tmp_path, caplog):
    holder = EdgeStore(tmp_path / "vectors")
    await holder.fetch(COLLECTION, [])
    other = EdgeStore(tmp_path / "vectors", memory_when_locked=True)

    with caplog.at_level(logging.WARNING):
        await other.put(COLLECTION, points_of(1, 2))
    found = await other.fetch(COLLECTION, ids_of(points_of(1, 2)))
    await other.close()

    assert len(found) == 2
    assert "in use by another process" in caplog.text
    assert await kept_numbers(holder) == []
    await holder.close()


async def test_what_is_not_to_be_kept_is_gone_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = EdgeStore(None)

    await store.put(COLLECTION, points_of(1))
    (folder,) = tmp_path.iterdir()
    mode = stat.S_IMODE(folder.stat().st_mode)
    await store.close()

    assert mode == 0o700
    assert list(tmp_path.iterdir()) == []


async def test_stores_that_keep_nothing_share_nothing():
    one, other = EdgeStore(None), EdgeStore(None)

    await one.put(COLLECTION, points_of(1))
    numbers = await kept_numbers(other)
    await asyncio.gather(one.close(), other.close())

    assert numbers == []


async def test_a_file_in_the_folders_place_is_told(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    store = EdgeStore(tmp_path / "data" / "vectors")

    with pytest.raises(NotReady, match="PAPERROUTE_DATA_DIR"):
        await store.fetch(COLLECTION, [])
    await store.close()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("edge_config.json", id="the engine refuses"),
        # The engine's native code panics here, which is no ordinary exception and must not end the process.
        pytest.param("segments/*/vector_storage/deleted/status.dat", id="the engine panics"),
    ],
)
async def test_a_damaged_collection_is_told_until_it_is_repaired(name, tmp_path):
    """Failing to open must leave nothing locked: the next call tries again."""
    store = EdgeStore(tmp_path / "vectors")
    await store.put(COLLECTION, points_of(1))
    await store.close()
    (file,) = (tmp_path / "vectors" / COLLECTION.name).glob(name)
    whole = file.read_bytes()
    file.write_bytes(b"")
    store = EdgeStore(tmp_path / "vectors")

    for _ in range(2):
        with pytest.raises(NotReady, match="cannot be opened"):
            await store.fetch(COLLECTION, [])
    file.write_bytes(whole)

    assert len(await store.fetch(COLLECTION, ids_of(points_of(1)))) == 1
    await store.close()


async def test_a_damaged_collection_leaves_the_others_usable(tmp_path):
    other = Collection(name="other-8d", dimension=8)
    store = EdgeStore(tmp_path / "vectors")
    await store.put(COLLECTION, points_of(1))
    await store.close()
    (tmp_path / "vectors" / COLLECTION.name / "edge_config.json").write_text("{")
    store = EdgeStore(tmp_path / "vectors")

    with pytest.raises(NotReady):
        await store.fetch(COLLECTION, [])
    await store.put(other, points_of(1))

    assert len(await store.fetch(other, ids_of(points_of(1)))) == 1
    await store.close()


async def test_a_failing_put_is_a_failure_that_may_pass(tmp_path):
    """Files that vanish are one; the collection is opened anew by the next call."""
    store = EdgeStore(tmp_path / "vectors")
    await store.put(COLLECTION, points_of(1))
    shutil.rmtree(tmp_path / "vectors" / COLLECTION.name)

    with pytest.raises(UpstreamFailed, match="the vector store") as failure:
        await store.put(COLLECTION, points_of(2))
    await store.put(COLLECTION, points_of(3))

    assert failure.value.retry_after_s > 0
    assert await kept_numbers(store) == [3]
    await store.close()


async def test_a_refused_point_leaves_the_collection_usable(tmp_path):
    """The engine writes to its log before it looks; what it refused must not come back from there."""
    longer = Collection(name=COLLECTION.name, dimension=16)
    odd = Point(point_id=str(uuid.uuid4()), vector=np.ones(16, dtype=np.float32) / 4, payload={"paper_id": "9"})
    store = EdgeStore(tmp_path / "vectors")
    await store.put(COLLECTION, points_of(1))

    with pytest.raises(UpstreamFailed, match="expected dim: 8, got 16"):
        await store.put(longer, [odd])
    await store.put(COLLECTION, points_of(2))
    await store.close()

    reopened = EdgeStore(tmp_path / "vectors")
    assert await kept_numbers(reopened) == [1, 2]
    await reopened.close()
