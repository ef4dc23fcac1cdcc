"""The file of the local index: one SQLite database, and what is kept where in it.

The words are those of `services.retrieval.words`, folded before they are put in: FTS5 gets them as plain tokens, so
that its answer to "all these words" is that of the one word test, word for word.
"""

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from services.common.errors import NotReady
from services.common.papers import Paper

WHAT = "the local index"
FILE_NAME = "arxiv_index.sqlite3"
APPLICATION_ID = 0x50525831
FORMAT = 1
"""Version of the tables below; a file of another one is built again."""

# No content: the words are made again from the paper when it changes. No positions: no phrase is ever looked for.
# The tokenizer `ascii` parts at blanks and takes every letter beyond ASCII as it is.
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE paper (
    number INTEGER PRIMARY KEY, paper_id TEXT NOT NULL UNIQUE, version INTEGER, title TEXT NOT NULL,
    abstract TEXT NOT NULL, authors TEXT NOT NULL, primary_category TEXT NOT NULL, categories TEXT NOT NULL,
    published_at INTEGER NOT NULL, is_day_known INTEGER NOT NULL, updated_at INTEGER, comment TEXT NOT NULL,
    doi TEXT NOT NULL, journal_ref TEXT NOT NULL
);
CREATE INDEX paper_age ON paper (published_at, paper_id, is_day_known);
CREATE TABLE paper_category (
    category TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (category, number)
) WITHOUT ROWID;
CREATE TABLE vector (number INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(title, text, content='', tokenize='ascii', detail='column');
CREATE TABLE rejected (input TEXT NOT NULL, line_number INTEGER NOT NULL, reason TEXT NOT NULL, text TEXT NOT NULL);
"""

PAPER_COLUMNS = (
    "paper_id, version, title, abstract, authors, primary_category, categories, published_at, is_day_known, "
    "updated_at, comment, doi, journal_ref"
)
_BETWEEN = "\n"  # names and categories are single lines; a category may be "I.2.7; H.3.3"
Row = tuple[object, ...]


def require_fts5(connection: sqlite3.Connection) -> None:
    """Check what the index cannot do without.

    Raises:
        NotReady: this Python's SQLite was compiled without the full-text engine FTS5.
    """
    options = {name for (name,) in connection.execute("PRAGMA compile_options")}
    if "ENABLE_FTS5" not in options:
        version = sqlite3.sqlite_version
        raise NotReady(WHAT, f"SQLite {version} of this Python has no FTS5; use a Python whose SQLite has ENABLE_FTS5")


def check_support() -> None:
    """Check at a start, before any file is opened, that this Python can read an index.

    Raises:
        NotReady: see `require_fts5`.
    """
    connection = sqlite3.connect(":memory:")
    try:
        require_fts5(connection)
    finally:
        connection.close()


def check_file(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a file is an index of this format.

    Raises:
        NotReady: it is something else, damaged, or of another format.
    """
    try:
        application_id, file_format = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        raise unreadable(path, error) from error
    if application_id != APPLICATION_ID or not {"meta", "paper", "vector", "words"} <= tables:
        raise unreadable(path, "it holds something else")
    if file_format != FORMAT:
        raise NotReady(WHAT, f"{path} has format {file_format}, not {FORMAT}; {BUILD_ANEW}")


BUILD_ANEW = "build it anew with: paperroute index build --anew FILE..."


def unreadable(path: Path, reason: object) -> NotReady:
    """Return the error about a file that is no index, or no longer a whole one."""
    return NotReady(WHAT, f"{path} is no index that can be read ({reason}); {BUILD_ANEW}")


def make_tables(connection: sqlite3.Connection) -> None:
    """Make an empty index of an empty database."""
    connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; {TABLES}")


def row_of(paper: Paper) -> Row:
    """Return the values of `PAPER_COLUMNS`."""
    return (
        paper.paper_id,
        paper.version,
        paper.title,
        paper.abstract,
        _BETWEEN.join(paper.authors),
        paper.primary_category,
        _BETWEEN.join(paper.categories),
        seconds_of(paper.published_at),
        int(paper.is_day_known),
        seconds_of(paper.updated_at) if paper.updated_at else None,
        paper.comment,
        paper.doi,
        paper.journal_ref,
    )


def paper_of_row(row: Sequence[object]) -> Paper:
    """Return the paper of the values of `PAPER_COLUMNS`."""
    paper_id, version, title, abstract, authors, primary, categories, published, is_day, updated, comment, doi, ref = (
        row
    )
    return Paper(
        paper_id=str(paper_id),
        version=None if version is None else int(str(version)),
        title=str(title),
        abstract=str(abstract),
        authors=tuple(str(authors).split(_BETWEEN)) if authors else (),
        primary_category=str(primary),
        categories=tuple(str(categories).split(_BETWEEN)) if categories else (),
        published_at=moment_of(int(str(published))),
        is_day_known=bool(is_day),
        updated_at=None if updated is None else moment_of(int(str(updated))),
        comment=str(comment),
        doi=str(doi),
        journal_ref=str(ref),
    )


def seconds_of(moment: datetime) -> int:
    """Return a moment as it is kept: whole seconds since 1970."""
    return int(moment.timestamp())


def moment_of(seconds: int) -> datetime:
    """Return the moment that was kept, UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def word_rule() -> str:
    """Return what tells the rule by which words are folded from any other: a hash of its module."""
    source = resources.files("services.retrieval").joinpath("words.py").read_bytes()
    return hashlib.sha256(source).hexdigest()[:16]


def sync_folder(folder: Path) -> None:
    """Make the names of files in a folder outlive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
