"""Builds the local index: reads files of records, embeds what is new, and puts the finished file in place at once.

The work is done in a file beside the index, a batch a transaction that also says how far the inputs are read. A build
that was killed goes on there when the same files are given again; the index is as it was until the end.
"""

import asyncio
import errno
import fcntl
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidRequest, NotReady
from services.common.papers import Paper
from services.retrieval import index_schema as schema
from services.retrieval.index_input import Input, Line, Position, inputs_of, json_of, lines_from
from services.retrieval.index_record import BadRecord, is_newer, paper_of_line
from services.retrieval.index_vectors import KEPT, Embedded
from services.retrieval.words import tokens

logger = logging.getLogger(__name__)
T = TypeVar("T")

BATCH_RECORDS = 500
"""Records of a transaction; EmbedPapers takes no more at once."""
CACHE_KIB = 32 * 1024
MAX_REJECTED_LINES = 10_000
"""Rejected lines that are written out; all are counted."""
MAX_REJECTED_CHARACTERS = 500
_FULL_DISK = ("full", "disk I/O error")

Embed = Callable[[Sequence[Paper]], Awaitable[Embedded]]
"""Makes the vectors of 1 to 500 papers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildCounts:
    """What became of the lines read so far."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    """Records that were in the index already, as they are or in a later version."""
    rejected: int = 0

    def plus(self, other: "BuildCounts") -> "BuildCounts":
        """Return the sums."""
        mine, others = asdict(self), asdict(other)
        return BuildCounts(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildProgress:
    """How far a build is."""

    read_bytes: int
    total_bytes: int
    counts: BuildCounts


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What a build did."""

    counts: BuildCounts
    record_count: int
    """Papers in the index."""
    rejected_file: Path | None
    """Where the lines that are no records are written; None when there are none."""
    is_resumed: bool


async def build(
    paths: Sequence[Path],
    index_path: Path,
    embed: Embed,
    *,
    is_anew: bool = False,
    on_progress: Callable[[BuildProgress], None] = lambda _: None,
) -> BuildReport:
    """Put all records of the files into the index, in place of older versions of the same papers.

    Args:
        paths: at least one; JSON lines, plain or gzipped.
        index_path: where the index is, or is to be.
        embed: makes the vectors of the papers whose text is new.
        is_anew: whether to leave out what an index that is there holds.
        on_progress: called after each batch.

    Raises:
        InvalidRequest: a file is not what it should be; the index is as it was.
        NotReady: the index cannot be written or updated, or another build of it is under way.
    """
    inputs = await asyncio.to_thread(inputs_of, paths)
    schema.check_support()
    with _told_plainly(index_path), _only_build(index_path):
        async with _work_file(index_path, inputs, is_anew=is_anew) as work:
            with _damage_told(index_path):
                await work.read(inputs, embed, on_progress)
                report = await _finished(work.finish)
        _put_in_place(work.path, index_path)
    return report


def rejected_path(index_path: Path) -> Path:
    """Return the file of the lines that are no records."""
    return index_path.with_suffix(".rejected.jsonl")


def work_path(index_path: Path) -> Path:
    """Return the file that a build works in."""
    return index_path.with_name(index_path.name + ".building")


@dataclass(kw_only=True, slots=True)
class _Batch:
    """Lines read together, each paper once."""

    papers: dict[str, Paper] = field(default_factory=dict)
    stored: Mapping[str, tuple[int, Paper]] = field(default_factory=dict)
    """The number and the record of those that are in the index."""
    rejected: list[tuple[str, int, str, str]] = field(default_factory=list)
    superseded_count: int = 0
    """Records that gave way to another one of the same paper within the batch."""
    last: Line

    def to_write(self) -> list[Paper]:
        """Return the papers that are new or changed."""
        return [paper for paper in self.papers.values() if self._is_to_write(paper)]

    def to_embed(self) -> list[Paper]:
        """Return those of them whose text is not that of the vector in the index."""
        return [paper for paper in self.to_write() if not self.has_same_text(paper)]

    def has_same_text(self, paper: Paper) -> bool:
        if paper.paper_id not in self.stored:
            return False
        _, other = self.stored[paper.paper_id]
        return (paper.title, paper.abstract) == (other.title, other.abstract)

    def _is_to_write(self, paper: Paper) -> bool:
        if paper.paper_id not in self.stored:
            return True
        _, other = self.stored[paper.paper_id]
        return paper != other and is_newer(paper, other)


class _Work:
    """The file under construction; used by one thread at a time."""

    def __init__(self, path: Path, index_path: Path, connection: sqlite3.Connection, *, is_resumed: bool) -> None:
        self.path = path
        self._index_path = index_path
        self._connection = connection
        self._is_resumed = is_resumed

    async def read(self, inputs: Sequence[Input], embed: Embed, on_progress: Callable[[BuildProgress], None]) -> None:
        """Read the inputs from where an earlier try stopped."""
        total_bytes = sum(each.size_bytes for each in inputs)
        lines = lines_from(inputs, Position(**json.loads(self._meta("position"))))
        while batch := await _finished(partial(self._next_batch, lines)):
            papers = batch.to_embed()
            made = await embed(papers) if papers else None
            if made:
                self._check_encoder(made)
            counts = await _finished(partial(self._write, batch, papers, made))
            progress = BuildProgress(read_bytes=batch.last.read_bytes, total_bytes=total_bytes, counts=counts)
            on_progress(progress)

    def finish(self) -> BuildReport:
        """Make the file as small and quick as it gets, and whole in itself; may be repeated."""
        connection = self._connection
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        (record_count,) = connection.execute("SELECT count(*) FROM paper").fetchone()
        newest = connection.execute(
            "SELECT max(max(published_at, coalesce(updated_at, published_at))) FROM paper"
        ).fetchone()[0]
        self._set_meta(
            record_count=str(record_count),
            newest_at=str(min(newest or 0, schema.seconds_of(datetime.now(UTC)))),
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        connection.commit()
        rejected_file = self._write_rejected()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
        counts = BuildCounts(**json.loads(self._meta("counts")))
        return BuildReport(
            counts=counts, record_count=record_count, rejected_file=rejected_file, is_resumed=self._is_resumed
        )

    def _next_batch(self, lines: Iterator[Line]) -> _Batch | None:
        batch: _Batch | None = None
        for line in islice(lines, BATCH_RECORDS):
            batch = batch or _Batch(last=line)
            batch.last = line
            try:
                paper = paper_of_line(line.text) if line.text else None
            except BadRecord as error:
                _reject(batch, line, str(error))
                continue
            if paper is None:
                _reject(batch, line, "longer than a record can be")
                continue
            other = batch.papers.get(paper.paper_id)
            batch.superseded_count += other is not None
            if other is None or is_newer(paper, other):
                batch.papers[paper.paper_id] = paper
        if batch:
            batch.stored = self._stored(list(batch.papers))
        return batch

    def _stored(self, paper_ids: Sequence[str]) -> dict[str, tuple[int, Paper]]:
        marks = ",".join("?" * len(paper_ids))
        rows = self._connection.execute(
            f"SELECT number, {schema.PAPER_COLUMNS} FROM paper WHERE paper_id IN ({marks})",  # noqa: S608 - marks only
            paper_ids,
        )
        return {row[1]: (row[0], schema.paper_of_row(row[1:])) for row in rows}

    def _write(self, batch: _Batch, embedded: Sequence[Paper], made: Embedded | None) -> BuildCounts:
        """Write a batch and how far it goes in one transaction; return the counts of the whole build."""
        vectors = dict(zip((paper.paper_id for paper in embedded), made.vectors if made else (), strict=True))
        papers = batch.to_write()
        with self._connection:
            for paper in papers:
                self._write_paper(paper, batch, vectors.get(paper.paper_id))
            new_count = sum(paper.paper_id not in batch.stored for paper in papers)
            self._connection.executemany("INSERT INTO rejected VALUES (?, ?, ?, ?)", batch.rejected)
            counts = BuildCounts(**json.loads(self._meta("counts"))).plus(
                BuildCounts(
                    new=new_count,
                    changed=len(papers) - new_count,
                    unchanged=len(batch.papers) - len(papers) + batch.superseded_count,
                    rejected=len(batch.rejected),
                )
            )
            self._set_meta(position=json.dumps(asdict(batch.last.after)), counts=json.dumps(asdict(counts)))
        return counts

    def _write_paper(self, paper: Paper, batch: _Batch, vector: NDArray[np.float32] | None) -> None:
        run = self._connection.execute
        number, other = batch.stored.get(paper.paper_id, (None, None))
        marks = ",".join("?" * 14)
        # An old row keeps its number, so that the words and the vector that did not change stay with it.
        columns = f"number, {schema.PAPER_COLUMNS}"
        cursor = run(f"INSERT OR REPLACE INTO paper ({columns}) VALUES ({marks})", (number, *schema.row_of(paper)))  # noqa: S608 - marks only
        number = number or cursor.lastrowid
        if other:
            run(
                "DELETE FROM paper_category WHERE number = ? AND category IN (SELECT value FROM json_each(?))",
                (number, json.dumps(other.categories)),
            )
        self._connection.executemany(
            "INSERT INTO paper_category VALUES (?, ?)", [(category, number) for category in paper.categories]
        )
        if batch.has_same_text(paper):
            return
        if other:
            run("INSERT INTO words (words, rowid, title, text) VALUES ('delete', ?, ?, ?)", (number, *_words_of(other)))
        run("INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)", (number, *_words_of(paper)))
        kept = np.asarray(vector, dtype=KEPT).tobytes()
        run("INSERT OR REPLACE INTO vector VALUES (?, ?)", (number, kept))

    def _check_encoder(self, made: Embedded) -> None:
        """Note the encoder of the first vectors and let no other one in: their vectors cannot be compared."""
        mine = f"{made.encoder}, {made.vectors.shape[1]} numbers"
        known = self._meta("encoder") and f"{self._meta('encoder')}, {self._meta('dimension')} numbers"
        if known and known != mine:
            raise NotReady(schema.WHAT, f"its vectors are by {known}, new ones by {mine}; {schema.BUILD_ANEW}")
        if not known:
            self._set_meta(encoder=made.encoder, dimension=str(made.vectors.shape[1]))
            self._connection.commit()

    def _write_rejected(self) -> Path | None:
        path = rejected_path(self._index_path)
        rows = self._connection.execute("SELECT * FROM rejected LIMIT ?", (MAX_REJECTED_LINES,)).fetchall()
        if not rows:
            path.unlink(missing_ok=True)
            return None
        names = ("file", "line_number", "reason", "text")
        text = "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return path

    def _meta(self, name: str) -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def _set_meta(self, **values: str) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def _reject(batch: _Batch, line: Line, reason: str) -> None:
    text = line.text.decode(errors="replace").strip()[:MAX_REJECTED_CHARACTERS]
    batch.rejected.append((line.path, line.after.line_number, reason, text))


def _words_of(paper: Paper) -> tuple[str, str]:
    """Return the words of the title, and those of title and abstract, sorted: the order of a set is not the same twice.

    The second are the words of the one word test, of both texts joined; the first let a word of the title count more.
    """
    return " ".join(sorted(tokens(paper.title))), " ".join(sorted(tokens(f"{paper.title}\n{paper.abstract}")))


async def _finished(work: Callable[[], T]) -> T:
    """Return what `work` returns in a thread; who is cancelled waits for its end, as the file may not be closed yet."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@contextmanager
def _only_build(index_path: Path) -> Iterator[None]:
    """Hold the index's lock; the system lets go of it when the process dies."""
    index_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(index_path.with_name(index_path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotReady(schema.WHAT, f"another build of {index_path} is under way; wait for its end") from error
        yield
    finally:
        os.close(handle)


@asynccontextmanager
async def _work_file(index_path: Path, inputs: Sequence[Input], *, is_anew: bool) -> AsyncGenerator[_Work]:
    """Yield the file to work in: of an earlier try at the same, else a copy of the index, else an empty one."""
    path = work_path(index_path)
    base = "" if is_anew else _identity(index_path)
    job = {"inputs": json_of(inputs), "base": base, "word_rule": schema.word_rule()}
    connection = _resumed(path, job)
    is_resumed = connection is not None
    if connection is None:
        connection = await _finished(partial(_begun, path, index_path if base else None, job))
    try:
        yield _Work(path, index_path, connection, is_resumed=is_resumed)
    except (InvalidRequest, NotReady):  # not to be gone on with: the same would come of it
        connection.close()
        path.unlink()
        raise
    finally:
        connection.close()


def _resumed(path: Path, job: Mapping[str, str]) -> sqlite3.Connection | None:
    """Return the file of an earlier try at the same job, or None."""
    if not path.exists():
        return None
    connection = _opened(path)
    try:
        schema.check_file(connection, path)
        found = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('inputs', 'base', 'word_rule')"))
    except (sqlite3.DatabaseError, NotReady):
        found = {}
    if found == job:
        return connection
    connection.close()
    logger.warning("an unfinished build of other files, or of another index, is thrown away")
    return None


def _begun(path: Path, base: Path | None, job: Mapping[str, str]) -> sqlite3.Connection:
    """Return a new file to work in, with what `base` holds."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    if base:
        shutil.copyfile(base, path)
    connection = _opened(path)
    try:
        if base:
            schema.check_file(connection, base)
            _check_word_rule(connection, base)
        else:
            schema.make_tables(connection)
        with connection:
            connection.execute("DELETE FROM rejected")
            start = {**job, "position": json.dumps(asdict(Position())), "counts": json.dumps(asdict(BuildCounts()))}
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", start.items())
    except BaseException:
        connection.close()
        path.unlink()
        raise
    return connection


def _check_word_rule(connection: sqlite3.Connection, base: Path) -> None:
    (found,) = connection.execute("SELECT value FROM meta WHERE name = 'word_rule'").fetchone() or ("",)
    if found != schema.word_rule():
        raise NotReady(schema.WHAT, f"{base} was built when words were folded differently; {schema.BUILD_ANEW}")


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)  # one thread at a time, not always the same
    settings = ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL", f"cache_size = -{CACHE_KIB}")
    with suppress(sqlite3.DatabaseError):  # no database: the check that follows says so
        for setting in settings:
            connection.execute(f"PRAGMA {setting}")
    return connection


def _identity(path: Path) -> str:
    """Return what tells a file from the one that took its place; "" when there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _put_in_place(finished: Path, index_path: Path) -> None:
    """Let the finished file be the index, at once for everybody who opens it from now on."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())
    finished.replace(index_path)
    schema.sync_folder(index_path.parent)


@contextmanager
def _damage_told(index_path: Path) -> Iterator[None]:
    """Turn what SQLite says of a damaged index, of which the file is a copy, into the error that tells what to do."""
    try:
        yield
    except sqlite3.OperationalError:  # the surroundings are to blame
        raise
    except sqlite3.DatabaseError as error:
        raise schema.unreadable(index_path, error) from error


@contextmanager
def _told_plainly(index_path: Path) -> Iterator[None]:
    """Turn a full disk, and whatever else keeps a file from being written, into one clear error."""
    kept = "the index is as it was, and the same command goes on where this one stopped"
    try:
        yield
    except sqlite3.OperationalError as error:
        is_full = any(sign in str(error) for sign in _FULL_DISK)
        advice = f"free space in {index_path.parent}; " if is_full else ""
        raise NotReady(schema.WHAT, f"cannot be written ({error}); {advice}{kept}") from error
    except OSError as error:
        advice = f"free space in {index_path.parent}; " if error.errno == errno.ENOSPC else ""
        raise NotReady(schema.WHAT, f"cannot be written ({error}); {advice}{kept}") from error
