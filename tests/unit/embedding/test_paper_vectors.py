import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.common.deadlines import Deadline
from services.common.errors import UpstreamFailed
from services.common.paid.caller import Caller
from services.common.paid.usage import Usage
from services.common.papers import Paper
from services.embedding.paper_vectors import (
    Collection,
    EmbeddedPapers,
    Encoded,
    FoundPaper,
    Hit,
    PaperVectors,
    Point,
    Selection,
    collection_of,
    point_id_of,
    text_of,
    unit_rows,
)

CALLER = Caller(tenant="t", survey_id="s", stage="embed", item="", deadline=Deadline.after(600))


class HashEncoder:
    """Makes unit vectors of a text's hash and records what it was asked; each call costs 5."""

    def __init__(self, name: str = "hash:sha256", dimension: int = 8) -> None:
        self.name = name
        self.dimension = dimension
        self.asked: list[list[str]] = []
        self.public: list[list[str]] = []
        self.failures = 0
        self.gate: asyncio.Event | None = None

    async def encode(self, papers: Sequence[str], texts: Sequence[str], caller: Caller) -> Encoded:
        assert caller is CALLER
        self.asked.append([*papers, *texts])
        self.public.append([*papers])
        if self.gate:
            await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise UpstreamFailed("the encoder", "is busy")
        return Encoded(rows=self.rows([*papers, *texts]), usage=(Usage(model=self.name, cost_nano_usd=5),))

    def rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        digests = [hashlib.sha256(f"{self.name}|{text}".encode()).digest()[: self.dimension] for text in texts]
        rows = np.array([list(digest) for digest in digests], dtype=np.float32) + 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class MemoryStore:
    """Keeps points in dictionaries; gives way to other tasks in each call, as a real store does."""

    def __init__(self) -> None:
        self.points: dict[Collection, dict[str, Point]] = {}
        self.failures = 0
        self.searches: list[tuple[Selection, int]] = []

    async def fetch(self, collection: Collection, point_ids: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        await asyncio.sleep(0)
        kept = self.points.get(collection, {})
        return {each: kept[each].vector for each in point_ids if each in kept}

    async def put(self, collection: Collection, points: Sequence[Point]) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise UpstreamFailed("the store", "is full")
        self.points.setdefault(collection, {}).update({point.point_id: point for point in points})

    async def find(
        self, collection: Collection, vector: NDArray[np.float32], selection: Selection, limit: int
    ) -> Sequence[Hit]:
        await asyncio.sleep(0)
        self.searches.append((selection, limit))
        kept = self.points.get(collection, {}).values()
        hits = [Hit(payload=point.payload, similarity=float(point.vector @ vector)) for point in kept]
        return sorted(hits, key=lambda hit: -hit.similarity)[:limit]


class AngleEncoder:
    """Reads a text's last number as the angle of its vector, in degrees."""

    name = "angle:plane"
    dimension = 2

    async def encode(self, papers: Sequence[str], texts: Sequence[str], caller: Caller) -> Encoded:
        angles = np.radians([float(text.split()[-1]) for text in (*papers, *texts)])
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        return Encoded(rows=rows, usage=(Usage(model=self.name, cost_nano_usd=1),))


async def embed(vectors: PaperVectors, encoder: Any, papers: Sequence[Paper], query: str = "") -> EmbeddedPapers:
    return await vectors.embed(encoder, papers, query, CALLER)


async def find(
    vectors: PaperVectors, encoder: Any, text: str, selection: Selection, max_papers: int
) -> Sequence[FoundPaper]:
    return (await vectors.find(encoder, text, selection, max_papers, CALLER)).papers


def paper(paper_id: str = "2101.00001", title: str = "A title", abstract: str = "An abstract.") -> Paper:
    return Paper(paper_id=paper_id, title=title, abstract=abstract, published_at=datetime(2021, 1, 1, tzinfo=UTC))


def papers_from(*numbers: int) -> list[Paper]:
    return [paper(f"2101.{number:05}", title=f"Title {number}") for number in numbers]


async def test_rows_are_in_the_order_of_the_papers():
    """Known and new papers alternate; each row must still be its own paper's."""
    encoder = HashEncoder()
    vectors = PaperVectors(MemoryStore())
    await embed(vectors, encoder, papers_from(2, 4))

    embedded = await embed(vectors, encoder, papers_from(5, 4, 3, 2, 1))

    assert np.array_equal(embedded.vectors, encoder.rows([text_of(each) for each in papers_from(5, 4, 3, 2, 1)]))
    assert embedded.cached_count == 2
    assert embedded.query_vector is None


async def test_only_new_texts_are_encoded():
    encoder = HashEncoder()
    vectors = PaperVectors(MemoryStore())
    await embed(vectors, encoder, papers_from(1, 2))

    await embed(vectors, encoder, papers_from(1, 2, 3))

    assert encoder.asked == [
        ["Title 1\nAn abstract.", "Title 2\nAn abstract."],
        ["Title 3\nAn abstract."],
    ]


async def test_known_papers_without_a_query_need_no_encoder():
    encoder = HashEncoder()
    vectors = PaperVectors(MemoryStore())
    await embed(vectors, encoder, papers_from(1))

    embedded = await embed(vectors, encoder, papers_from(1))

    assert (embedded.cached_count, embedded.usage, len(encoder.asked)) == (1, (), 1)


async def test_papers_with_one_text_are_encoded_once_and_kept_twice():
    """Two records can share title and abstract; each needs its own payload."""
    encoder, store = HashEncoder(), MemoryStore()

    embedded = await embed(PaperVectors(store), encoder, [paper("2101.00001"), paper("2101.00002")])

    assert encoder.asked == [["A title\nAn abstract."]]
    assert np.array_equal(embedded.vectors[0], embedded.vectors[1])
    (points,) = store.points.values()
    assert sorted(str(point.payload["paper_id"]) for point in points.values()) == ["2101.00001", "2101.00002"]


async def test_query_is_encoded_in_the_same_call_and_not_kept():
    encoder, store = HashEncoder(), MemoryStore()

    embedded = await embed(PaperVectors(store), encoder, papers_from(1), query="What is new?")

    assert np.array_equal(embedded.query_vector, encoder.rows(["What is new?"])[0])
    assert len(embedded.usage) == len(encoder.asked) == 1
    assert [len(points) for points in store.points.values()] == [1]


async def test_query_beside_known_papers_is_encoded_alone():
    encoder = HashEncoder()
    vectors = PaperVectors(MemoryStore())
    await embed(vectors, encoder, papers_from(1, 2))

    embedded = await embed(vectors, encoder, papers_from(2, 1), query="What is new?")

    assert encoder.asked[1:] == [["What is new?"]]
    assert (embedded.cached_count, len(embedded.usage)) == (2, 1)


async def test_query_with_the_words_of_a_paper_gets_its_own_row():
    encoder = HashEncoder()

    embedded = await embed(PaperVectors(MemoryStore()), encoder, [paper()], query="A title\nAn abstract.")

    assert np.array_equal(embedded.query_vector, embedded.vectors[0])


async def test_requests_at_once_encode_a_paper_once():
    encoder, store = HashEncoder(), MemoryStore()
    vectors = PaperVectors(store)

    answers = await asyncio.gather(*(embed(vectors, encoder, papers_from(1, 2, 3)) for _ in range(5)))

    assert sorted(answer.cached_count for answer in answers) == [0, 3, 3, 3, 3]
    assert len(encoder.asked) == 1
    assert [len(points) for points in store.points.values()] == [3]
    assert all(np.array_equal(answer.vectors, answers[0].vectors) for answer in answers)


async def test_requests_at_once_for_other_papers_do_not_wait_for_each_other():
    """A remote encoder takes seconds; only who wants the same paper waits for it."""
    slow, quick = HashEncoder(), HashEncoder()
    slow.gate = asyncio.Event()
    vectors = PaperVectors(MemoryStore())
    first = asyncio.create_task(embed(vectors, slow, papers_from(1, 2)))
    while not slow.asked:
        await asyncio.sleep(0)

    second = await embed(vectors, quick, papers_from(3))
    third = asyncio.create_task(embed(vectors, quick, papers_from(2, 4)))
    slow.gate.set()

    assert (await first).cached_count == 0
    assert second.cached_count == 0
    assert (await third).cached_count == 1
    assert quick.asked == [["Title 3\nAn abstract."], ["Title 4\nAn abstract."]]


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
async def test_who_waits_for_a_request_that_ends_without_vectors_makes_them(end):
    broken, encoder = HashEncoder(), HashEncoder()
    broken.gate, broken.failures = asyncio.Event(), 1
    vectors = PaperVectors(MemoryStore())
    first = asyncio.create_task(embed(vectors, broken, papers_from(1)))
    while not broken.asked:
        await asyncio.sleep(0)
    second = asyncio.create_task(embed(vectors, encoder, papers_from(1, 2)))
    while not encoder.asked:
        await asyncio.sleep(0)

    if end == "fails":
        broken.gate.set()
    else:
        first.cancel()

    with pytest.raises((UpstreamFailed, asyncio.CancelledError)):
        await first
    assert (await second).cached_count == 0
    assert encoder.asked == [["Title 2\nAn abstract."], ["Title 1\nAn abstract."]]


async def test_usage_is_summed_over_the_calls_of_a_request():
    """The second call is for what another request did not bring."""
    broken, encoder = HashEncoder(), HashEncoder()
    broken.gate, broken.failures = asyncio.Event(), 1
    vectors = PaperVectors(MemoryStore())
    first = asyncio.create_task(embed(vectors, broken, papers_from(1)))
    while not broken.asked:
        await asyncio.sleep(0)
    second = asyncio.create_task(embed(vectors, encoder, papers_from(1, 2), "Why?"))
    while not encoder.asked:
        await asyncio.sleep(0)
    broken.gate.set()
    with pytest.raises(UpstreamFailed):
        await first

    (usage,) = (await second).usage

    assert (usage.call_count, usage.cost_nano_usd) == (2, 10)
    assert [each[-1] for each in encoder.asked] == ["Why?", "Title 1\nAn abstract."]


async def test_a_question_is_not_among_what_all_tenants_share():
    encoder = HashEncoder()

    await embed(PaperVectors(MemoryStore()), encoder, papers_from(1), query="Why?")

    assert encoder.public == [["Title 1\nAn abstract."]]


async def test_another_abstract_keeps_both_vectors():
    encoder = HashEncoder()
    vectors = PaperVectors(MemoryStore())
    first, second = paper(abstract="First version."), paper(abstract="Second version.")
    await embed(vectors, encoder, [first])
    await embed(vectors, encoder, [second])

    again = [await embed(vectors, encoder, [each]) for each in (first, second)]

    assert [each.cached_count for each in again] == [1, 1]
    assert not np.array_equal(again[0].vectors, again[1].vectors)


async def test_encoders_never_share_vectors():
    vectors = PaperVectors(MemoryStore())
    one, other, longer = HashEncoder("hash:a"), HashEncoder("hash:b"), HashEncoder("hash:a", dimension=16)

    answers = [await embed(vectors, encoder, papers_from(1)) for encoder in (one, other, longer)]

    assert [answer.cached_count for answer in answers] == [0, 0, 0]
    assert [answer.vectors.shape for answer in answers] == [(1, 8), (1, 8), (1, 16)]


async def test_a_failed_put_leaves_the_way_free_for_the_next_request():
    """What was not kept must not be reported as kept, and the collection must not stay locked."""
    store = MemoryStore()
    store.failures = 1
    vectors = PaperVectors(store)
    with pytest.raises(UpstreamFailed):
        await embed(vectors, HashEncoder(), papers_from(1))

    embedded = await embed(vectors, HashEncoder(), papers_from(1))

    assert embedded.cached_count == 0


@given(st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=5))
def test_any_sequence_of_requests_encodes_each_paper_once(requests: list[set[int]]):
    """Whatever came before, a request is answered with its own papers' vectors, and the counts add up."""
    encoder = HashEncoder()
    vectors = PaperVectors(MemoryStore())

    async def ask_all() -> None:
        seen: set[int] = set()
        for numbers in requests:
            asked = papers_from(*numbers)
            embedded = await embed(vectors, encoder, asked)
            assert np.array_equal(embedded.vectors, encoder.rows([text_of(each) for each in asked]))
            assert embedded.cached_count == len(numbers & seen)
            seen |= numbers

    asyncio.run(ask_all())

    encoded = [text for texts in encoder.asked for text in texts]
    assert len(encoded) == len(set(encoded))


def test_point_ids_are_the_same_for_ever():
    """They find what earlier releases stored; a change of the rule would encode every paper again."""
    assert point_id_of(paper("1706.03762", "Attention", "We propose.")) == "2f530c03-e0d1-59b2-bdb3-38a4f9a6856f"


def test_point_ids_depend_on_paper_and_text():
    variants = [
        paper(),
        paper(paper_id="2101.00002"),
        paper(title="Another title"),
        paper(abstract="Another abstract."),
    ]

    assert len({point_id_of(each) for each in variants}) == len(variants)


def test_collection_names_are_folder_names_and_never_collide():
    """A model's name may hold what a folder cannot, and names may differ in nothing else."""
    encoders = [
        HashEncoder("openai:text-embedding-3-small", 256),
        HashEncoder("openai:text-embedding-3-small", 1536),
        HashEncoder("local:org/model", 256),
        HashEncoder("local:org_model", 256),
        HashEncoder("local:org-model", 256),
        HashEncoder("local:" + 100 * "a", 256),
        HashEncoder("local:" + 101 * "a", 256),
    ]

    names = [collection_of(encoder).name for encoder in encoders]

    assert len({name.lower() for name in names}) == len(encoders)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(name) < 128 for name in names)


async def test_found_papers_come_nearest_first_as_they_were_embedded():
    vectors = PaperVectors(MemoryStore())
    papers = [paper(f"2101.{number:05}", abstract=f"at {angle}") for number, angle in enumerate((90, 0, 60, 180))]
    await embed(vectors, AngleEncoder(), papers)

    found = await find(vectors, AngleEncoder(), "near 0", Selection(), 3)

    assert [each.paper for each in found] == [papers[1], papers[2], papers[0]]
    assert np.allclose([each.similarity for each in found], [1, 0.5, 0], atol=1e-6)


async def test_equally_near_papers_come_by_their_identifier():
    """Two records can share a text; which one a store names first is chance."""
    vectors = PaperVectors(MemoryStore())
    await embed(vectors, AngleEncoder(), [paper(each, abstract="at 10") for each in ("2101.00003", "2101.00001")])

    found = await find(vectors, AngleEncoder(), "near 0", Selection(), 5)

    assert [each.paper.paper_id for each in found] == ["2101.00001", "2101.00003"]


async def test_of_several_texts_of_a_paper_the_nearest_is_found():
    vectors = PaperVectors(MemoryStore())
    for angle in (50, 20, 80):
        await embed(vectors, AngleEncoder(), [paper(abstract=f"at {angle}")])

    (found,) = await find(vectors, AngleEncoder(), "near 0", Selection(), 5)

    assert found.paper.abstract == "at 20"


@pytest.mark.parametrize("max_papers", [1, 2, 3, 4, 5, 9])
async def test_papers_with_many_texts_do_not_take_the_places_of_others(max_papers):
    """Twenty texts of one paper lie nearer than the other four papers."""
    vectors = PaperVectors(MemoryStore())
    for angle in range(20):
        await embed(vectors, AngleEncoder(), [paper("2101.00001", abstract=f"at {angle}")])
    others = [paper(f"2101.{number:05}", abstract=f"at {number + 30}") for number in range(2, 6)]
    await embed(vectors, AngleEncoder(), others)

    found = await find(vectors, AngleEncoder(), "near 0", Selection(), max_papers)

    expected = ["2101.00001", "2101.00002", "2101.00003", "2101.00004", "2101.00005"]
    assert [each.paper.paper_id for each in found] == expected[:max_papers]


async def test_a_search_that_fills_its_places_at_once_is_made_once():
    store = MemoryStore()
    vectors = PaperVectors(store)
    await embed(vectors, AngleEncoder(), [paper(f"2101.{number:05}", abstract=f"at {number}") for number in range(9)])
    selection = Selection(categories=("cs.CV",))

    await find(vectors, AngleEncoder(), "near 0", selection, 4)

    assert store.searches == [(selection, 4)]


async def test_similarity_never_passes_one():
    """A float32 product of a unit vector with itself can be 1.0000001."""
    encoder, store = HashEncoder(dimension=32), MemoryStore()
    vectors = PaperVectors(store)
    papers = papers_from(*range(200))
    await embed(vectors, encoder, papers)

    for each in papers:
        (found,) = await find(vectors, encoder, text_of(each), Selection(), 1)
        assert found.similarity <= 1
    products = [float(point.vector @ point.vector) for points in store.points.values() for point in points.values()]
    assert max(products) > 1


async def test_only_papers_embedded_with_the_encoder_are_found():
    vectors = PaperVectors(MemoryStore())
    await embed(vectors, HashEncoder("hash:a"), papers_from(1))

    assert await find(vectors, HashEncoder("hash:b"), "Title 1", Selection(), 5) == ()


def test_unit_rows_have_norm_one_and_a_row_of_zeros_is_the_first_axis():
    """A zero vector has no direction; dividing by its length would give NaN."""
    rows = unit_rows(np.array([[3, 4], [0, 0], [0, -2]], dtype=np.float32))

    assert np.array_equal(rows, np.array([[0.6, 0.8], [1, 0], [0, -1]], dtype=np.float32))
    assert rows.dtype == np.float32
