"""The retrieval store: what all replicas share of arXiv, in one SQLite file or one PostgreSQL database.

It is a cache: its tables are made when they are missing and made anew when another version of PaperRoute left them.
Every moment in it is read from the database's clock, in seconds since 1970, so that replicas whose clocks differ
agree on it.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from services.common.errors import NotReady, UpstreamFailed
from services.common.settings import SettingsError, SharedSettings

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

T = TypeVar("T")

FILE = "retrieval.sqlite3"
SCHEMA_VERSION = 1
"""Raise it with every change of a table; the tables of another version are dropped."""
BUSY_TIMEOUT_S = 10
"""Longest wait for another process that writes to the same file."""
MAX_THREADS = 4
_SQLITE = "sqlite:///"
_SCHEMA_LOCK = 0x5061_7065_7252_7472
"""Number of the PostgreSQL lock under which the tables are made: two replicas may start at once."""


def store_url(shared: SharedSettings) -> str:
    """Return the address of the store for SQLAlchemy: the database of all replicas, else a file in the data folder.

    Raises:
        SettingsError: the address is not one of PostgreSQL.
    """
    if not shared.database_url:
        return f"{_SQLITE}{shared.data_dir.absolute() / FILE}"
    scheme, separator, rest = shared.database_url.partition("://")
    if scheme not in {"postgresql", "postgres", "postgresql+psycopg"} or not separator:
        raise SettingsError(["PAPERROUTE_DATABASE_URL: an address that begins with postgresql://"])
    return f"postgresql+psycopg://{rest}"


class RetrievalStore:
    """Runs transactions in threads of its own; nothing is opened before the first one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opening = threading.Lock()
        self._engine: Engine | None = None
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="retrieval-store")

    async def run(self, work: Callable[["Connection"], T]) -> T:
        """Run `work` in one transaction, in a thread, and return what it returns.

        A transaction that has begun is awaited to its end even when the caller is cancelled, so that what the caller
        does next finds it done.

        Raises:
            NotReady: the store cannot be opened.
            UpstreamFailed: the database does not answer, or did not let this transaction through.
        """
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._transaction, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def close(self) -> None:
        """Let the transactions under way end, and close all connections."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._engine is not None:
            self._engine.dispose()

    def _transaction(self, work: Callable[["Connection"], T]) -> T:
        from sqlalchemy.exc import SQLAlchemyError

        engine = self._opened()
        try:
            with engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise UpstreamFailed("the retrieval store", type(error).__name__, retry_after_s=1) from error

    def _opened(self) -> "Engine":
        from sqlalchemy.exc import SQLAlchemyError

        with self._opening:
            if self._engine is None:
                try:
                    self._engine = _open(self._url)
                except (SQLAlchemyError, OSError) as error:
                    # Neither the address, which may hold a password, nor what a driver says of it.
                    advice = f"it cannot be opened ({type(error).__name__}); {_advice(self._url)}"
                    raise NotReady("the retrieval store", advice) from error
            return self._engine


def clock_s(connection: "Connection") -> float:
    """Return the database's time, in seconds since 1970."""
    from sqlalchemy import text

    is_sqlite = connection.dialect.name == "sqlite"
    # clock_timestamp() goes on within a transaction, which may have waited for a lock; now() does not.
    now = "(julianday('now') - 2440587.5) * 86400.0" if is_sqlite else "extract(epoch from clock_timestamp())"
    return float(connection.execute(text(f"SELECT {now}")).scalar_one())


def _advice(url: str) -> str:
    if url.startswith(_SQLITE):
        return f"it is only a cache: remove {FILE} from PAPERROUTE_DATA_DIR if it is damaged"
    return "check PAPERROUTE_DATABASE_URL and whether the database runs"


def _open(url: str) -> "Engine":
    from sqlalchemy import URL, create_engine, event

    if url.startswith(_SQLITE):
        path = Path(url.removeprefix(_SQLITE))
        _make_private(path)
        address = URL.create("sqlite", database=str(path))  # a path may hold signs that mean something in an address
        engine = create_engine(address, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    else:
        engine = create_engine(url, pool_pre_ping=True, pool_size=MAX_THREADS, connect_args={"connect_timeout": 10})
    try:
        _make_tables(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _make_private(path: Path) -> None:
    """Make the file with its folder, readable by their owner only; what lies beside it takes its mode over."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    path.chmod(0o600)


def _set_up_sqlite(connection: Any, _record: object) -> None:  # Any: the driver's connection, behind SQLAlchemy
    connection.isolation_level = None  # transactions begin as the "begin" event says, with the lock to write
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):  # a cache may lose its last moment to a power cut
        connection.execute(f"PRAGMA {pragma}")


def _make_tables(engine: "Engine") -> None:
    from sqlalchemy import insert, select, text

    from services.retrieval.tables import metadata, schema

    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _SCHEMA_LOCK})
        schema.create(connection, checkfirst=True)
        if connection.execute(select(schema.c.version)).scalars().all() != [SCHEMA_VERSION]:
            metadata.drop_all(connection)
            metadata.create_all(connection)
            connection.execute(insert(schema).values(version=SCHEMA_VERSION))
