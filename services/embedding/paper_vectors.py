"""A vector for each paper: read from the store when its text has been encoded before, else encoded and kept.

What is kept is also what is searched: the papers nearest to a text among all that were ever embedded.
"""

import asyncio
import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.paid.caller import Caller
from services.common.paid.usage import Usage, summed
from services.common.papers import Paper
from services.embedding.payloads import paper_in, payload_of

Vector = NDArray[np.float32]
"""Shape (dimension,), L2 norm 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Vectors of texts, and what they took."""

    rows: NDArray[np.float32]
    """Shape (n, dimension), each row with L2 norm 1: those of the papers, then those of the other texts."""
    usage: tuple[Usage, ...]


class Encoder(Protocol):
    """Turns texts into vectors; used by several calls at once."""

    @property
    def name(self) -> str:
        """The encoder's provider and model, as "provider:model"."""

    @property
    def dimension(self) -> int:
        """Length of a vector; known before the model is opened."""

    async def open(self) -> None:
        """Do ahead what the first call would have to wait for.

        Raises:
            NotReady: the encoder cannot be opened; a later call tries again.
        """

    async def encode(self, papers: Sequence[str], texts: Sequence[str], caller: Caller) -> Encoded:
        """Return a vector for each text, which depends on that text only.

        Args:
            papers: made of arXiv records alone, so that all tenants share what is recorded of them.
            texts: of a caller, such as a question. Together with the papers at least one.
            caller: who pays.

        Raises:
            NotReady: the encoder cannot be opened or used; a later call tries again.
            UpstreamFailed: a remote encoder does not answer.
            BudgetReached, Unpriced: the caller's purse does not allow it.
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
    usage: tuple[Usage, ...]
    """Empty when everything was in the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundPaper:
    """A paper near to a text."""

    paper: Paper
    """The record that was first embedded with its title and abstract."""
    similarity: float
    """Cosine similarity to the text, -1 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundPapers:
    """The papers near to a text."""

    papers: tuple[FoundPaper, ...]
    """Nearest first."""
    usage: tuple[Usage, ...]


class PaperVectors:
    """Embeds papers through a store, so that no text is encoded twice by one encoder, and finds them again."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._claims = _Claims()

    async def embed(self, encoder: Encoder, papers: Sequence[Paper], query: str, caller: Caller) -> EmbeddedPapers:
        """Return the vectors of `papers`, in their order, and of `query`; new ones are in the store by then.

        Args:
            encoder: makes the vectors that are missing.
            papers: at least one, `paper_id` unique among them.
            query: a text to encode beside them, which is not kept; empty for none.
            caller: who pays.

        Raises:
            NotReady: the encoder or the store cannot be opened or used.
            UpstreamFailed: the store or a remote encoder does not answer.
            BudgetReached, Unpriced: the caller's purse does not allow it.
        """
        collection = collection_of(encoder)
        by_id = {point_id_of(paper): paper for paper in papers}
        making = _Making(encoder=encoder, collection=collection, query=query, caller=caller)
        while missing := [each for each in by_id if each not in making.vectors]:
            claimed, others = self._claims.take(collection, missing)
            try:
                await self._complete(making, claimed, {each: by_id[each] for each in claimed})
            finally:
                self._claims.release(collection, claimed)
            # What another request had claimed is in the store afterwards, or is left to make.
            for ended in others:
                await ended.wait()
        return EmbeddedPapers(
            vectors=np.stack([making.vectors[each] for each in by_id]),
            cached_count=len(by_id) - making.made_count,
            query_vector=making.query_vector,
            usage=summed(making.usage),
        )

    async def find(
        self, encoder: Encoder, text: str, selection: Selection, max_papers: int, caller: Caller
    ) -> FoundPapers:
        """Return the papers of the selection nearest to `text`, nearest first, equally near ones by `paper_id`.

        A paper that was embedded with several texts is found once, by the nearest of them.

        Args:
            encoder: encodes the text; only papers embedded with it are found.
            text: not kept.
            selection: which papers may be found.
            max_papers: most papers to return, at least 1.
            caller: who pays.

        Raises:
            NotReady: the encoder or the store cannot be opened or used.
            UpstreamFailed: the store or a remote encoder does not answer.
            BudgetReached, Unpriced: the caller's purse does not allow it.
        """
        encoded = await encoder.encode([], [text], caller)
        (vector,) = encoded.rows
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
        found.sort(key=lambda each: (-each.similarity, each.paper.paper_id))
        return FoundPapers(papers=tuple(found[:max_papers]), usage=encoded.usage)

    async def _complete(self, making: "_Making", claimed: "Claimed", papers: Mapping[str, Paper]) -> None:
        """Find the vectors of claimed papers; make and keep what is missing, in one call with the query's."""
        if papers:
            found = await self._store.fetch(making.collection, list(papers))
            making.vectors |= found
            self._claims.release(making.collection, {each: claimed[each] for each in found})
        new = {each: paper for each, paper in papers.items() if each not in making.vectors}
        if not new and not making.query:
            return
        texts = list(dict.fromkeys(map(text_of, new.values())))
        encoded = await making.encoder.encode(texts, [making.query] if making.query else [], making.caller)
        by_text = dict(zip(texts, encoded.rows, strict=False))
        made = {each: by_text[text_of(paper)] for each, paper in new.items()}
        making.note(made, encoded)
        if made:
            points = [
                Point(point_id=each, vector=made[each], payload=payload_of(paper, text_hash_of(paper)))
                for each, paper in new.items()
            ]
            await self._store.put(making.collection, points)


Claimed = Mapping[str, asyncio.Event]
"""Points that a request has claimed, each with what is set when it lets go."""


class _Claims:
    """The points that requests look for or make now, each claimed by one request: who else wants it waits for that."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], asyncio.Event] = {}

    def take(self, collection: Collection, point_ids: Sequence[str]) -> tuple[Claimed, list[asyncio.Event]]:
        """Claim the points that nobody has; return them, and what is set when the others are let go."""
        claimed, others = {}, []
        for point_id in point_ids:
            key = (collection.name, point_id)
            if key in self._claims:
                others.append(self._claims[key])
            else:
                claimed[point_id] = self._claims[key] = asyncio.Event()
        return claimed, others

    def release(self, collection: Collection, claimed: Claimed) -> None:
        """Let go of points; of those let go before, another request may have taken some since."""
        for point_id, ended in claimed.items():
            if self._claims.get((collection.name, point_id)) is ended:
                del self._claims[collection.name, point_id]
            ended.set()


@dataclass(kw_only=True, slots=True)
class _Making:
    """A request for vectors, as far as it has come."""

    encoder: Encoder
    collection: Collection
    query: str
    """Empty once it is encoded."""
    caller: Caller
    vectors: dict[str, Vector] = field(default_factory=dict)
    """By point."""
    made_count: int = 0
    query_vector: Vector | None = None
    usage: list[Usage] = field(default_factory=list)

    def note(self, made: Mapping[str, Vector], encoded: Encoded) -> None:
        """Take in what was made; the query's vector comes last."""
        self.vectors |= made
        self.made_count += len(made)
        self.usage += encoded.usage
        if self.query:
            self.query, self.query_vector = "", encoded.rows[-1]


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
