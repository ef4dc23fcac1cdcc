"""A vector for each paper: read from the store when its text has been encoded before, else encoded and kept.

What is kept is also what is searched: the papers nearest to a text among all that were ever embedded.
"""

import asyncio
import hashlib
import re
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.papers import Paper
from services.embedding.payloads import paper_in, payload_of

Vector = NDArray[np.float32]
"""Shape (dimension,), L2 norm 1."""


class Encoder(Protocol):
    """Turns texts into vectors; `encode` blocks and is called in a thread, by several threads at once."""

    @property
    def name(self) -> str:
        """The encoder's provider and model, as "provider:model"."""

    @property
    def dimension(self) -> int:
        """Length of a vector; known before the model is opened."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return shape (len(texts), dimension); each row has L2 norm 1 and depends on its own text only.

        Without texts it does no more than open the model.

        Raises:
            NotReady: the encoder cannot be opened; a later call tries again.
            UpstreamFailed: a remote encoder does not answer.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """The vectors of one encoder, all of one length."""

    name: str
    dimension: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A vector as it is kept."""

    point_id: str
    """A UUID."""
    vector: Vector
    payload: Mapping[str, object]
    """What JSON can hold; made by `payloads.payload_of`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which papers may be found; nothing set means all."""

    published_from: datetime | None = None
    """Only papers published at this moment or later."""
    published_before: datetime | None = None
    """Only papers published before this moment."""
    categories: tuple[str, ...] = ()
    """Only papers with at least one of these; none means all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A point that was found."""

    payload: Mapping[str, object]
    similarity: float
    """Scalar product with the vector that was asked for."""


class VectorStore(Protocol):
    """Keeps points; a collection is made by the first put to it, and one that is not made yet is empty.

    All methods but `close` raise NotReady when the store cannot be opened, which the next call tries again, and
    UpstreamFailed when it does not do what it is asked.
    """

    async def fetch(self, collection: Collection, point_ids: Sequence[str]) -> Mapping[str, Vector]:
        """Return the vectors of those points that are kept, to the bit as they were put."""

    async def put(self, collection: Collection, points: Sequence[Point]) -> None:
        """Keep the points, at least one; once this returns they outlive the process. Repeating it changes nothing.

        When it fails, some of the points may be kept.
        """

    async def find(self, collection: Collection, vector: Vector, selection: Selection, limit: int) -> Sequence[Hit]:
        """Return the `limit` points of the selection nearest to `vector`, nearest first; fewer if there are no more."""

    async def close(self) -> None:
        """Let go of what was opened, after the calls under way; the store cannot be used any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedPapers:
    """The vectors of a request."""

    vectors: NDArray[np.float32]
    """Shape (n, dimension); row i belongs to paper i."""
    cached_count: int
    """How many of the rows were in the store already."""
    query_vector: Vector | None
    """None when there was no query."""
    call_count: int
    """How often the encoder was called: 0 or 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundPaper:
    """A paper near to a text."""

    paper: Paper
    """The record that was first embedded with its title and abstract."""
    similarity: float
    """Cosine similarity to the text, -1 to 1."""


class PaperVectors:
    """Embeds papers through a store, so that no text is encoded twice by one encoder, and finds them again."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def embed(self, encoder: Encoder, papers: Sequence[Paper], query: str = "") -> EmbeddedPapers:
        """Return the vectors of `papers`, in their order, and of `query`; new ones are in the store by then.

        Args:
            encoder: makes the vectors that are missing.
            papers: at least one, `paper_id` unique among them.
            query: a text to encode beside them, which is not kept; empty for none.

        Raises:
            NotReady: the encoder or the store cannot be opened.
            UpstreamFailed: the store or a remote encoder does not answer.
        """
        collection = collection_of(encoder)
        by_id = {point_id_of(paper): paper for paper in papers}
        cached = await self._store.fetch(collection, list(by_id))
        if len(cached) == len(by_id):
            made, query_vector = await self._make(collection, encoder, {}, query)
        else:
            # One at a time in a collection: who waits for the same papers finds them in the store afterwards.
            async with self._locks[collection.name]:
                cached = await self._store.fetch(collection, list(by_id))
                new = {point_id: paper for point_id, paper in by_id.items() if point_id not in cached}
                made, query_vector = await self._make(collection, encoder, new, query)
        return EmbeddedPapers(
            vectors=np.stack([made[point_id] if point_id in made else cached[point_id] for point_id in by_id]),
            cached_count=len(cached),
            query_vector=query_vector,
            call_count=1 if made or query else 0,
        )

    async def find(self, encoder: Encoder, text: str, selection: Selection, max_papers: int) -> Sequence[FoundPaper]:
        """Return the papers of the selection nearest to `text`, nearest first, equally near ones by `paper_id`.

        A paper that was embedded with several texts is found once, by the nearest of them.

        Args:
            encoder: encodes the text; only papers embedded with it are found.
            text: not kept.
            selection: which papers may be found.
            max_papers: most papers to return, at least 1.

        Raises:
            NotReady: the encoder or the store cannot be opened.
            UpstreamFailed: the store or a remote encoder does not answer.
        """
        (vector,) = await asyncio.to_thread(encoder.encode, [text])
        limit = max_papers
        while True:
            hits = await self._store.find(collection_of(encoder), vector, selection, limit)
            nearest: dict[object, Hit] = {}
            for hit in hits:
                nearest.setdefault(hit.payload["paper_id"], hit)
            if len(nearest) >= max_papers or len(hits) < limit:
                break
            limit *= 2  # some papers took several of the places
        found = [FoundPaper(paper=paper_in(hit.payload), similarity=_cosine(hit)) for hit in nearest.values()]
        return sorted(found, key=lambda each: (-each.similarity, each.paper.paper_id))[:max_papers]

    async def _make(
        self, collection: Collection, encoder: Encoder, new: Mapping[str, Paper], query: str
    ) -> tuple[dict[str, Vector], Vector | None]:
        """Encode the papers and the query in one call and keep the papers' vectors; return those and the query's."""
        texts = list(dict.fromkeys(map(text_of, new.values())))
        asked = [*texts, query] if query else texts
        rows: Sequence[Vector] = list(await asyncio.to_thread(encoder.encode, asked)) if asked else []
        by_text = dict(zip(texts, rows, strict=False))
        made = {point_id: by_text[text_of(paper)] for point_id, paper in new.items()}
        if made:
            points = [
                Point(point_id=each, vector=made[each], payload=payload_of(paper, text_hash_of(paper)))
                for each, paper in new.items()
            ]
            await self._store.put(collection, points)
        return made, rows[-1] if query else None


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows of `rows`, shape (n, d), scaled to L2 norm 1.

    A row of zeros, which a text without tokens gives, has no direction; it becomes the unit vector of the first axis,
    so that it can be compared like any other and two such texts are equal.
    """
    rows = rows.copy()
    rows[~rows.any(axis=1), 0] = 1
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def collection_of(encoder: Encoder) -> Collection:
    """Return the collection of an encoder; its name is that of no other encoder or dimension.

    The name can be that of a folder; the hash keeps apart names that differ only in characters a folder cannot have.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", encoder.name.lower()).strip("-")[:80]
    digest = hashlib.sha256(encoder.name.encode()).hexdigest()[:8]
    return Collection(name=f"{readable}-{digest}-{encoder.dimension}d", dimension=encoder.dimension)


def text_of(paper: Paper) -> str:
    """Return what is encoded of a paper."""
    return f"{paper.title}\n{paper.abstract}"


def text_hash_of(paper: Paper) -> str:
    """Return the SHA-256 of the encoded text, in hexadecimal."""
    return hashlib.sha256(text_of(paper).encode()).hexdigest()


def point_id_of(paper: Paper) -> str:
    """Return the UUID of a paper and its text: a changed abstract makes another point, and both are kept."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"arxiv:{paper.paper_id}#{text_hash_of(paper)}"))


def _cosine(hit: Hit) -> float:
    """Return the similarity of two unit vectors without the rounding that can carry it past 1."""
    return max(-1.0, min(1.0, hit.similarity))
