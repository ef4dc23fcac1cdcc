"""What the store on a server promises beyond every store: what is made there, and what happens when it refuses."""

import asyncio
import socket
import uuid
from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import SecretStr
from standins.qdrant_server import QdrantStandIn

from services.common.errors import NotReady, UpstreamFailed
from services.common.papers import Paper
from services.embedding.paper_vectors import Collection, Point, Selection
from services.embedding.payloads import payload_of
from services.embedding.qdrant_store import QdrantStore

COLLECTION = Collection(name="hash-8d", dimension=8)
NO_KEY = SecretStr("")


def points_of(*numbers: int) -> list[Point]:
    points = []
    for number in numbers:
        paper = Paper(paper_id=f"{number}", title="T", abstract="", published_at=datetime(2021, 1, 1, tzinfo=UTC))
        point_id = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
        vector = np.eye(8, dtype=np.float32)[number % 8]
        points.append(Point(point_id=point_id, vector=vector, payload=payload_of(paper, "hash")))
    return points


async def kept_ids(store: QdrantStore, *numbers: int) -> list[str]:
    return sorted(await store.fetch(COLLECTION, [point.point_id for point in points_of(*numbers)]))


async def test_what_is_filtered_by_is_indexed():
    """Without an index a server reads every payload of a collection."""
    async with QdrantStandIn() as qdrant:
        store = QdrantStore(qdrant.url, NO_KEY)
        await store.put(COLLECTION, points_of(1))
        await store.close()

    assert qdrant.indexes == {COLLECTION.name: {"published_at": "datetime", "categories": "keyword"}}


async def test_an_index_that_is_missing_is_made_later():
    """A replica that was killed after it made the collection leaves this behind."""
    async with QdrantStandIn() as qdrant:
        for numbers in ((1,), (2,)):
            qdrant.indexes.clear()
            store = QdrantStore(qdrant.url, NO_KEY)
            await store.put(COLLECTION, points_of(*numbers))
            await store.close()

    assert sorted(qdrant.indexes[COLLECTION.name]) == ["categories", "published_at"]


async def test_many_points_are_put_in_calls_a_server_accepts():
    async with QdrantStandIn() as qdrant:
        store = QdrantStore(qdrant.url, NO_KEY)
        await store.put(COLLECTION, points_of(*range(250)))
        found = await kept_ids(store, *range(250))
        await store.close()

    assert qdrant.upserts == [100, 100, 50]
    assert len(found) == 250


async def test_replicas_that_start_at_once_share_a_collection():
    """All find it missing; those that come second to make it are refused, and go on."""
    async with QdrantStandIn() as qdrant:
        stores = [QdrantStore(qdrant.url, NO_KEY) for _ in range(8)]
        await asyncio.gather(*(store.put(COLLECTION, points_of(number)) for number, store in enumerate(stores)))
        found = await kept_ids(stores[0], *range(8))
        await asyncio.gather(*(store.close() for store in stores))

    assert len(found) == 8


async def test_reading_makes_nothing_on_the_server():
    async with QdrantStandIn() as qdrant:
        store = QdrantStore(qdrant.url, NO_KEY)

        assert await kept_ids(store, 1) == []
        assert await store.find(COLLECTION, points_of(1)[0].vector, Selection(), 5) == []
        await store.close()

        assert qdrant.indexes == {}


async def test_a_server_that_does_not_answer_is_a_failure_that_may_pass():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    store = QdrantStore(f"http://127.0.0.1:{port}", NO_KEY)

    with pytest.raises(UpstreamFailed, match=r"the vector store: \S") as failure:
        await store.fetch(COLLECTION, [])
    await store.close()

    assert failure.value.retry_after_s > 0


async def test_a_server_that_fails_is_used_again_when_it_works():
    async with QdrantStandIn() as qdrant:
        store = QdrantStore(qdrant.url, NO_KEY)
        await store.put(COLLECTION, points_of(1))
        qdrant.fails_with = 503

        for call in (store.put(COLLECTION, points_of(2)), store.fetch(COLLECTION, []), kept_ids(store, 1)):
            with pytest.raises(UpstreamFailed, match="503"):
                await call
        qdrant.fails_with = None

        assert len(await kept_ids(store, 1, 2)) == 1
        await store.close()


async def test_a_server_that_comes_back_empty_gets_its_collection_again():
    async with QdrantStandIn() as qdrant:
        store = QdrantStore(qdrant.url, NO_KEY)
        await store.put(COLLECTION, points_of(1))
        qdrant.forget()

        with pytest.raises(UpstreamFailed, match="404"):
            await store.put(COLLECTION, points_of(2))
        await store.put(COLLECTION, points_of(2))

        assert len(await kept_ids(store, 1, 2)) == 1
        assert sorted(qdrant.indexes[COLLECTION.name]) == ["categories", "published_at"]
        await store.close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")  # the client is right to say so
@pytest.mark.parametrize("key", ["", "wrong"])
async def test_a_refused_key_is_told_with_what_to_set(key):
    async with QdrantStandIn(key="right") as qdrant:
        refused, accepted = QdrantStore(qdrant.url, SecretStr(key)), QdrantStore(qdrant.url, SecretStr("right"))

        with pytest.raises(NotReady, match="PAPERROUTE_EMBEDDING__STORE_KEY"):
            await refused.put(COLLECTION, points_of(1))
        await accepted.put(COLLECTION, points_of(1))
        await asyncio.gather(refused.close(), accepted.close())


async def test_a_server_below_a_path_is_reached():
    """Behind a proxy the URL goes on after the port."""
    async with QdrantStandIn(prefix="/vectors") as qdrant:
        store = QdrantStore(qdrant.url, NO_KEY)
        await store.put(COLLECTION, points_of(1))

        assert qdrant.url.endswith("/vectors")
        assert len(await kept_ids(store, 1)) == 1
        await store.close()
