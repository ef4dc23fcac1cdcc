"""What every vector store promises, run against both: the engine in this process and a server behind HTTP."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr
from standins.qdrant_server import QdrantStandIn

from services.common.errors import NotReady
from services.common.papers import Paper
from services.embedding.edge_store import EdgeStore
from services.embedding.paper_vectors import Collection, Point, Selection, VectorStore
from services.embedding.payloads import paper_in, payload_of
from services.embedding.qdrant_store import QdrantStore

COLLECTION = Collection(name="hash-8d", dimension=8)
ALL = Selection()
Opening = Callable[[], VectorStore]
"""Opens the same vectors each time; what one store has put, the next one finds."""


@asynccontextmanager
async def edge_folder(tmp_path: Path) -> AsyncIterator[Opening]:
    yield lambda: EdgeStore(tmp_path / "vectors")


@asynccontextmanager
async def qdrant_server(tmp_path: Path) -> AsyncIterator[Opening]:
    async with QdrantStandIn() as qdrant:
        yield lambda: QdrantStore(qdrant.url, SecretStr(""))


@pytest.fixture(params=[pytest.param(edge_folder, id="edge"), pytest.param(qdrant_server, id="server")])
async def opening(request, tmp_path) -> AsyncIterator[Opening]:
    async with request.param(tmp_path) as opened:
        yield opened


@pytest.fixture
async def store(opening) -> AsyncIterator[VectorStore]:
    opened = opening()
    yield opened
    await opened.close()


def unit_rows(count: int, dimension: int = 8, seed: int = 7) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def paper(number: int, **parts: object) -> Paper:
    plain = Paper(
        paper_id=f"2101.{number:05}",
        title=f"Title {number}",
        abstract="An abstract.",
        published_at=datetime(2021, 1, 1, tzinfo=UTC) + timedelta(days=number),
        categories=("cs.CV",),
    )
    return replace(plain, **parts)


def points_of(rows: NDArray[np.float32], papers: Sequence[Paper] = ()) -> list[Point]:
    papers = papers or [paper(number) for number in range(len(rows))]
    return [
        Point(point_id=str(uuid.uuid5(uuid.NAMESPACE_OID, each.paper_id)), vector=row, payload=payload_of(each, "hash"))
        for row, each in zip(rows, papers, strict=True)
    ]


def ids_of(points: Sequence[Point]) -> list[str]:
    return [point.point_id for point in points]


def angles(*degrees: float) -> NDArray[np.float32]:
    """Return unit vectors in the plane of the first two axes."""
    rows = np.zeros((len(degrees), 8), dtype=np.float32)
    rows[:, 0], rows[:, 1] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return rows


async def found_numbers(store: VectorStore, selection: Selection, vector: NDArray[np.float32] | None = None):
    """Return the numbers of all papers of a selection, nearest first."""
    hits = await store.find(COLLECTION, angles(0)[0] if vector is None else vector, selection, 1_000)
    return [int(str(hit.payload["paper_id"])[-5:]) for hit in hits]


async def test_hundreds_of_vectors_come_back_to_the_bit(store):
    """What is read later must equal what the first caller was given."""
    rows = unit_rows(500)
    points = points_of(rows)

    await store.put(COLLECTION, points)
    found = await store.fetch(COLLECTION, ids_of(points))

    assert len(found) == 500
    assert np.stack([found[each] for each in ids_of(points)]).tobytes() == rows.tobytes()


async def test_bits_that_no_decimal_fraction_has_come_back_too(store):
    """The smallest float32, neighbours of one, a negative zero."""
    row = np.array([1e-45, np.nextafter(np.float32(1), np.float32(0)), -0.0, 1 / 3, 0, 0, 0, 0], dtype=np.float32)
    points = points_of(row[np.newaxis])

    await store.put(COLLECTION, points)

    assert (await store.fetch(COLLECTION, ids_of(points)))[points[0].point_id].tobytes() == row.tobytes()


async def test_vectors_and_records_outlive_the_store(opening):
    rows = unit_rows(50)
    points = points_of(rows)
    first = opening()
    await first.put(COLLECTION, points)
    await first.close()

    second = opening()
    kept = await second.fetch(COLLECTION, ids_of(points))
    selected = await found_numbers(second, Selection(published_before=paper(3).published_at))
    await second.close()

    assert np.stack([kept[each] for each in ids_of(points)]).tobytes() == rows.tobytes()
    assert sorted(selected) == [0, 1, 2]


async def test_only_what_is_kept_is_fetched(store):
    points = points_of(unit_rows(3))

    before = await store.fetch(COLLECTION, ids_of(points))
    await store.put(COLLECTION, points[:2])

    assert before == {}
    assert sorted(await store.fetch(COLLECTION, ids_of(points))) == sorted(ids_of(points[:2]))
    assert await store.fetch(COLLECTION, []) == {}


async def test_a_collection_never_put_to_is_empty(store):
    assert await store.find(COLLECTION, unit_rows(1)[0], ALL, 10) == []


async def test_collections_are_never_mixed(store):
    """The same papers embedded by two encoders: each finds its own vectors, of its own length."""
    other = Collection(name="hash-16d", dimension=16)
    points, longer = points_of(unit_rows(3)), points_of(unit_rows(2, dimension=16))

    await store.put(COLLECTION, points)
    await store.put(other, longer)
    kept, kept_longer = [await store.fetch(each, ids_of(points)) for each in (COLLECTION, other)]

    assert {vector.shape for vector in kept.values()} == {(8,)}
    assert {vector.shape for vector in kept_longer.values()} == {(16,)}
    assert (len(kept), len(kept_longer)) == (3, 2)
    assert len(await store.find(other, longer[0].vector, ALL, 10)) == 2


async def test_repeated_puts_keep_one_point(store):
    points = points_of(unit_rows(3))

    await store.put(COLLECTION, points)
    await asyncio.gather(store.put(COLLECTION, points), store.put(COLLECTION, points[1:]))

    assert sorted(await found_numbers(store, ALL)) == [0, 1, 2]


async def test_a_put_that_was_kept_in_part_is_completed_by_repeating_it(store):
    points = points_of(unit_rows(6))
    await store.put(COLLECTION, points[:4])

    await store.put(COLLECTION, points)

    assert sorted(await found_numbers(store, ALL)) == [0, 1, 2, 3, 4, 5]


async def test_first_calls_at_once_open_the_store_once(store):
    """A second opening of a folder would find it locked by the first; a second collection of a name is refused."""
    points = points_of(unit_rows(8))

    await asyncio.gather(*(store.put(COLLECTION, [point]) for point in points))

    assert len(await store.fetch(COLLECTION, ids_of(points))) == 8


async def test_nearest_come_first_with_their_cosine(store):
    await store.put(COLLECTION, points_of(angles(90, 10, 180, 60)))

    hits = await store.find(COLLECTION, angles(0)[0], ALL, 3)

    assert [hit.payload["title"] for hit in hits] == ["Title 1", "Title 3", "Title 0"]
    assert np.allclose([hit.similarity for hit in hits], np.cos(np.radians([10, 60, 90])), atol=1e-6)


async def test_a_found_record_is_the_one_that_was_put(store):
    """Every field, to the microsecond and the last character."""
    full = paper(
        7,
        version=3,
        authors=("Ada Lovelace", "岡 潔"),
        primary_category="cs.CV",
        categories=("cs.CV", "eess.IV"),
        is_day_known=False,
        published_at=datetime(2017, 6, 12, 17, 57, 34, 123456, tzinfo=UTC),
        updated_at=datetime(2023, 8, 2, tzinfo=UTC),
        comment='15 pages, "accepted"\u2028\\end{x} \U0001f4c4',
        doi="10.1000/1",
        journal_ref="Nature 1 (2020)",
        is_paraphrased=True,
        title="$\\mathcal{O}(n)$\u0000",
        abstract="x" * 200_000,
    )
    await store.put(COLLECTION, points_of(unit_rows(1), [full]))

    (hit,) = await store.find(COLLECTION, unit_rows(1)[0], ALL, 10)

    assert paper_in(hit.payload) == full


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        pytest.param(Selection(published_from=paper(3).published_at), [3, 4, 5], id="from is included"),
        pytest.param(Selection(published_before=paper(3).published_at), [0, 1, 2], id="before is not"),
        pytest.param(
            Selection(published_from=paper(1).published_at, published_before=paper(3).published_at), [1, 2], id="span"
        ),
        pytest.param(
            Selection(published_from=paper(2).published_at + timedelta(microseconds=1)), [3, 4, 5], id="microsecond"
        ),
        pytest.param(Selection(published_from=datetime(1, 1, 1, tzinfo=UTC)), [0, 1, 2, 3, 4, 5], id="first moment"),
        pytest.param(Selection(published_from=datetime.max.replace(tzinfo=UTC)), [], id="last moment"),
        pytest.param(Selection(categories=("cs.CL",)), [1, 3, 5], id="category"),
        pytest.param(Selection(categories=("cs.LG",)), [3], id="category that is not the first"),
        pytest.param(Selection(categories=("cs.LG", "cs.CV")), [0, 2, 3, 4], id="any of the categories"),
        pytest.param(Selection(categories=("cs",)), [], id="whole categories only"),
        pytest.param(
            Selection(published_from=paper(2).published_at, categories=("cs.CV",)), [2, 4], id="both must hold"
        ),
    ],
)
async def test_only_papers_of_the_selection_are_found(store, selection, numbers):
    """The nearest is always number 5, so that a filter applied after the search would be seen."""
    categories = [("cs.CV",), ("cs.CL",), ("cs.CV",), ("cs.CL", "cs.LG"), ("cs.CV",), ("cs.CL",)]
    papers = [paper(number, categories=each) for number, each in enumerate(categories)]
    await store.put(COLLECTION, points_of(angles(60, 50, 40, 30, 20, 10), papers))

    assert sorted(await found_numbers(store, selection)) == numbers


async def test_a_filter_leaves_the_places_to_those_it_lets_through(store):
    papers = [paper(number, categories=("cs.CV",) if number < 400 else ("cs.CL",)) for number in range(403)]
    await store.put(COLLECTION, points_of(angles(*np.linspace(0, 80, 403)), papers))

    hits = await store.find(COLLECTION, angles(0)[0], Selection(categories=("cs.CL",)), 2)

    assert [hit.payload["paper_id"] for hit in hits] == ["2101.00400", "2101.00401"]


async def test_papers_without_categories_are_found_only_without_a_filter(store):
    await store.put(COLLECTION, points_of(unit_rows(1), [paper(0, categories=())]))

    assert await found_numbers(store, ALL) == [0]
    assert await found_numbers(store, Selection(categories=("cs.CV",))) == []


@pytest.mark.parametrize("method", ["fetch", "put", "find"])
async def test_a_missing_package_is_told_with_what_to_install(store, method, monkeypatch):
    for name in ("qdrant_edge", "qdrant_client"):
        monkeypatch.setitem(sys.modules, name, None)
    point = points_of(unit_rows(1))[0]
    parts = {"fetch": [[point.point_id]], "put": [[point]], "find": [point.vector, ALL, 1]}

    with pytest.raises(NotReady, match=r"the vector store: .*pip install 'paperroute\[embedding\]'"):
        await getattr(store, method)(COLLECTION, *parts[method])


async def test_a_store_that_was_never_used_can_be_closed(opening):
    await opening().close()
