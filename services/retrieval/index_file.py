"""The local index opened for reading: by any number of processes and threads at once, and anew when it is replaced.

What all searches need, the dates and the vectors, is read once into memory; the rest stays in the file.
"""

import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from services.common.errors import NotReady
from services.common.papers import Paper
from services.retrieval import index_schema as schema
from services.retrieval.index_vectors import KEPT
from services.retrieval.words import term_words

logger = logging.getLogger(__name__)
T = TypeVar("T")

CONNECTION_COUNT = 4
"""Searches of a process that run side by side; another one waits the few milliseconds."""
CACHE_KIB = 16 * 1024
MAX_KEPT_CATEGORIES = 32
"""Categories whose papers are kept in memory once asked for: a byte a paper, so that a limit costs no search."""
_ROWS_AT_ONCE = 20_000
_VARIABLES_AT_ONCE = 10_000
_OPEN_TRIES = 5

Numbers = NDArray[np.int64]
"""Papers by their number in the index, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexLimits:
    """Which papers count; a paper of which only the month is known counts when a day of it would."""

    published_from: date | None = None
    published_by: date | None = None
    categories: tuple[str, ...] = ()
    """At least one of them; none means all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFacts:
    """What an index holds."""

    record_count: int
    oldest_at: datetime
    """First submission of its oldest paper, UTC; of an empty index 1970."""
    newest_at: datetime
    """Newest submission of a version, UTC; of an empty index 1970."""
    built_at: datetime
    encoder: str
    """Who made the vectors, "provider:model"; empty when there are none."""
    dimension: int
    input_files: tuple[str, ...]
    """What it was last built from."""
    size_bytes: int
    rejected_count: int
    """Lines of these files that were no records."""
    is_word_rule_current: bool
    """Whether words are folded today as they were when it was built."""


class IndexView:
    """One version of the index, for the length of one piece of work."""

    def __init__(self, shared: "_Opened", connection: sqlite3.Connection) -> None:
        self._shared = shared
        self._connection = connection

    @property
    def facts(self) -> IndexFacts:
        """What the index holds."""
        return self._shared.facts

    def holding_all_words(self, term: str, limits: IndexLimits) -> Numbers:
        """Return the papers whose title and abstract hold all words of a term, as `words.holds_all_words` says."""
        return self._within(
            self._numbers("SELECT rowid FROM words WHERE words MATCH ?", _all_words_query(term)), limits
        )

    def best_matches(self, term: str, limits: IndexLimits) -> Numbers:
        """Return the papers that hold any word of a term, by BM25, best first; a word of the title counts twice."""
        sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid"
        return self._within(self._numbers(sql, _any_word_query(term)), limits)

    def nearest(self, vector: NDArray[np.float32], limits: IndexLimits, max_papers: int) -> Numbers:
        """Return the papers nearest to a vector of L2 norm 1, nearest first."""
        numbers = self._within(self._shared.all_numbers, limits)
        return self.by_similarity(numbers, vector)[:max_papers]

    def by_similarity(self, numbers: Numbers, vector: NDArray[np.float32]) -> Numbers:
        """Return the papers, nearest to a vector of L2 norm 1 first; of those equally near, the newest first."""
        similarities = self._shared.similarities(numbers, vector)
        return numbers[np.lexsort((-self._shared.age_ranks[numbers], -similarities))]

    def newest_first(self, numbers: Numbers) -> Numbers:
        """Return the papers by the moment they were published, newest first; of the same, the higher id first."""
        return numbers[np.argsort(-self._shared.age_ranks[numbers])]

    def papers(self, numbers: Numbers) -> list[Paper]:
        """Return the records, in the order given."""
        found: dict[int, Paper] = {}
        for start in range(0, len(numbers), _VARIABLES_AT_ONCE):
            part = numbers[start : start + _VARIABLES_AT_ONCE].tolist()
            sql = f"SELECT number, {schema.PAPER_COLUMNS} FROM paper WHERE number IN ({','.join('?' * len(part))})"  # noqa: S608 - marks only
            found.update((row[0], schema.paper_of_row(row[1:])) for row in self._connection.execute(sql, part))
        return [found[number] for number in numbers.tolist()]

    def category_counts(self) -> Mapping[str, int]:
        """Return how many papers each category has, the biggest first."""
        sql = "SELECT category, count(*) FROM paper_category GROUP BY category ORDER BY count(*) DESC, category"
        return dict(self._connection.execute(sql).fetchall())

    def _numbers(self, sql: str, parameter: str) -> Numbers:
        rows = self._connection.execute(sql, (parameter,)).fetchall()
        return np.fromiter((number for (number,) in rows), dtype=np.int64, count=len(rows))

    def _in_category(self, category: str) -> NDArray[np.bool_]:
        """Return for each paper by its number whether it has the category."""
        kept = self._shared.categories.get(category)
        if kept is None:
            kept = np.zeros(len(self._shared.age_ranks), dtype=bool)
            kept[self._numbers("SELECT number FROM paper_category WHERE category = ?", category)] = True
            if len(self._shared.categories) < MAX_KEPT_CATEGORIES:
                self._shared.categories[category] = kept
        return kept

    def _within(self, numbers: Numbers, limits: IndexLimits) -> Numbers:
        """Return those that count. After the match: SQLite would go through all papers of the dates instead."""
        kept = np.ones(len(numbers), dtype=bool)
        if limits.published_from:
            kept &= self._shared.latest_days[numbers] >= limits.published_from.toordinal()
        if limits.published_by:
            kept &= self._shared.earliest_days[numbers] <= limits.published_by.toordinal()
        if limits.categories:
            kept &= np.any([self._in_category(name)[numbers] for name in limits.categories], axis=0)
        return numbers[kept]


class IndexFile:
    """The index at a path, whichever version is there; opened by the first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._current: _Opened | None = None

    def use(self, work: Callable[[IndexView], T]) -> T:
        """Return what `work` returns of the newest version; it blocks, and many threads may do so at once.

        Raises:
            NotReady: there is no index, or it cannot be read.
        """
        opened = self._enter()
        try:
            with opened.connection() as connection:
                return work(IndexView(opened, connection))
        except sqlite3.DatabaseError as error:
            raise schema.unreadable(self.path, error) from error
        finally:
            opened.leave()

    def facts(self) -> IndexFacts:
        """Return what the index holds.

        Raises:
            NotReady: there is no index, or it cannot be read.
        """
        return self.use(lambda view: view.facts)

    def close(self) -> None:
        """Close what is open, after the work under way; the next use opens it again."""
        with self._lock:
            if self._current:
                self._current.retire()
                self._current = None

    def _enter(self) -> "_Opened":
        """Return the version that is at the path now, entered."""
        with self._lock:
            key = _key_of(self.path)
            if self._current is None or self._current.key != key:
                opened = _opened(self.path)
                if self._current:
                    logger.info("%s was replaced and is read anew", self.path)
                    self._current.retire()
                self._current = opened
            self._current.enter()
            return self._current


class _Opened:
    """One version of the file: its connections and what is in memory; closed when the last user leaves it."""

    def __init__(self, path: Path, key: tuple[int, int, int], connections: Sequence[sqlite3.Connection]) -> None:
        self.key = key
        self._connections = connections
        self._free: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for connection in connections:
            self._free.put(connection)
        self._lock = threading.Lock()
        self._user_count = 0
        self._is_retired = False
        self.categories: dict[str, NDArray[np.bool_]] = {}
        """Who has a category, of those that were asked for."""
        self.facts = _facts_of(connections[0], path)
        self._read_ages(connections[0])
        self._vectors = self._read_vectors(connections[0])

    @cached_property
    def all_numbers(self) -> Numbers:
        """Every paper."""
        return np.arange(1, len(self.age_ranks), dtype=np.int64)

    def similarities(self, numbers: Numbers, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosine similarity of each paper to a vector.

        By einsum and not `@`, whose threads wait for each other longer than one of them takes for all of this.
        """
        is_most = len(numbers) > len(self._vectors) // 2
        if is_most:  # those of all papers, where they lie: to gather the vectors would take longer
            similarities: NDArray[np.float32] = np.einsum("ij,j->i", self._vectors, vector)
            return similarities[numbers]
        return np.asarray(np.einsum("ij,j->i", self._vectors[numbers], vector), dtype=np.float32)

    def enter(self) -> None:
        with self._lock:
            self._user_count += 1

    def leave(self) -> None:
        with self._lock:
            self._user_count -= 1
            self._close_unless_used()

    def retire(self) -> None:
        """Let go of the file once nobody uses it."""
        with self._lock:
            self._is_retired = True
            self._close_unless_used()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        connection = self._free.get()
        try:
            yield connection
        finally:
            self._free.put(connection)

    def _close_unless_used(self) -> None:
        if self._is_retired and not self._user_count:
            for connection in self._connections:
                connection.close()

    def _read_ages(self, connection: sqlite3.Connection) -> None:
        """Read the dates, as arrays with one place a paper; place 0 belongs to none, numbers begin at 1."""
        rows = connection.execute(
            "SELECT number, published_at, is_day_known FROM paper ORDER BY published_at, paper_id"
        ).fetchall()
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        numbers, published, is_day_known = table.T
        if len(table) and (numbers.min() != 1 or numbers.max() != len(table)):
            raise sqlite3.DatabaseError("papers are missing")
        self.age_ranks = np.zeros(len(table) + 1, dtype=np.int64)
        self.age_ranks[numbers] = np.arange(len(table))
        self.earliest_days = np.zeros(len(table) + 1, dtype=np.int64)
        self.earliest_days[numbers] = published // 86_400 + date(1970, 1, 1).toordinal()
        self.latest_days = self.earliest_days.copy()
        for number in numbers[is_day_known == 0].tolist():
            self.latest_days[number] = _last_of_month(int(self.earliest_days[number]))

    def _read_vectors(self, connection: sqlite3.Connection) -> NDArray[np.float32]:
        """Read the vectors: 1 KiB a paper at 256 numbers, because float16 takes ten times as long to compare."""
        vectors = np.zeros((len(self.age_ranks), self.facts.dimension), dtype=np.float32)
        cursor = connection.execute("SELECT vector FROM vector ORDER BY number")
        first = 1
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            part = np.frombuffer(b"".join(blob for (blob,) in rows), dtype=KEPT)
            vectors[first : first + len(rows)] = part.reshape(len(rows), -1)
            first += len(rows)
        if first != len(vectors):
            raise sqlite3.DatabaseError("vectors are missing")
        return vectors


def _opened(path: Path) -> _Opened:
    """Open the version that is at the path, with all its connections on the same one."""
    for _ in range(_OPEN_TRIES):
        key = _key_of(path)
        with ExitStack() as undo:
            try:
                connections = [undo.enter_context(closing(_connection(path))) for _ in range(CONNECTION_COUNT)]
                if _key_of(path) == key:  # else it was replaced in between
                    schema.require_fts5(connections[0])
                    schema.check_file(connections[0], path)
                    opened = _Opened(path, key, connections)
                    undo.pop_all()
                    return opened
            except (sqlite3.Error, ValueError) as error:
                raise schema.unreadable(path, error) from error
    raise NotReady(schema.WHAT, f"{path} is replaced all the time; wait for the end of the builds")


def _connection(path: Path) -> sqlite3.Connection:
    # Immutable: the file at this inode never changes again, so nothing is locked and no folder is written.
    address = f"file:{quote(str(path))}?mode=ro&immutable=1"
    connection = sqlite3.connect(address, uri=True, check_same_thread=False)  # one thread at a time has it
    with suppress(sqlite3.DatabaseError):  # no database: the check that follows says so
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


def _key_of(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        advice = f"there is none at {path} ({error.strerror}); build one with: paperroute index build FILE..."
        raise NotReady(schema.WHAT, advice) from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _facts_of(connection: sqlite3.Connection, path: Path) -> IndexFacts:
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    oldest = connection.execute("SELECT min(published_at) FROM paper").fetchone()[0]
    try:
        return IndexFacts(
            record_count=int(meta["record_count"]),
            oldest_at=schema.moment_of(oldest or 0),
            newest_at=schema.moment_of(int(meta["newest_at"])),
            built_at=datetime.fromisoformat(meta["built_at"]).astimezone(UTC),
            encoder=meta.get("encoder", ""),
            dimension=int(meta.get("dimension", 0)),
            input_files=tuple(each["path"] for each in json.loads(meta["inputs"])),
            size_bytes=path.stat().st_size,
            rejected_count=json.loads(meta["counts"])["rejected"],
            is_word_rule_current=meta["word_rule"] == schema.word_rule(),
        )
    except KeyError as error:
        raise schema.unreadable(path, f"its {error.args[0]} is missing") from error


def _all_words_query(term: str) -> str:
    """Return what FTS5 understands by "holds all words"; a hyphenated word is held in one piece or in all its parts."""
    clauses = []
    for word in term_words(term):
        parts = word.split("-")
        whole = f'"{"".join(parts)}"'
        clauses.append(whole if len(parts) == 1 else f"({whole} OR ({' AND '.join(map(_quoted, parts))}))")
    return f"text : ({' AND '.join(clauses)})"


def _any_word_query(term: str) -> str:
    words = [part for word in term_words(term) for part in {*word.split("-"), word.replace("-", "")}]
    return " OR ".join(map(_quoted, sorted(set(words))))


def _quoted(word: str) -> str:
    return f'"{word}"'


def _last_of_month(day: int) -> int:
    first = date.fromordinal(day).replace(day=1)
    return ((first + timedelta(days=31)).replace(day=1) - timedelta(days=1)).toordinal()
