"""A database of one service: one SQLite file, or PostgreSQL where replicas share it. SQLAlchemy Core, plain functions.

Work runs as functions of a connection, each in one transaction, in threads of the database's own: the loop's default
executor may belong to others. Moments are read from the database's clock, in seconds since 1970, so that replicas
whose clocks differ agree on them.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from services.common.errors import NotReady, UpstreamFailed
from services.common.settings import SettingsError, SharedSettings

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

T = TypeVar("T")

BUSY_TIMEOUT_S = 10
"""Longest wait for another process that writes to the same file."""
IDLE_TRANSACTION_S = 30
"""Longest that PostgreSQL lets a transaction be open while nothing is asked in it."""
SWITCH_PAUSE_S = 0.02
MAX_THREADS = 4
_SQLITE = "sqlite:///"
_IS_READ = "paperroute_is_read"
"""Name of the option that says how a transaction begins."""
_SCHEMA_LOCK = 0x5061_7065_7252_7472
"""Number of the PostgreSQL lock under which tables are made: two replicas may start at once."""


def database_url(shared: SharedSettings, file: str) -> str:
    """Return the address of a database for SQLAlchemy: that of all replicas, else of `file` in the data folder.

    Raises:
        SettingsError: the address is not one of PostgreSQL.
    """
    if not shared.database_url:
        return f"{_SQLITE}{shared.data_dir.absolute() / file}"
    scheme, separator, rest = shared.database_url.partition("://")
    if scheme not in {"postgresql", "postgres", "postgresql+psycopg"} or not separator:
        raise SettingsError(["PAPERROUTE_DATABASE_URL: an address that begins with postgresql://"])
    return f"postgresql+psycopg://{rest}"


class Database:
    """Runs transactions in threads of its own; nothing is opened before the first one."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        make_tables: "Callable[[Connection], None]",
        advice: str,
        is_durable: bool,
    ) -> None:
        """Name a database; nothing is read or made yet.

        Args:
            url: as `database_url` returns it.
            name: what errors call it, "the retrieval store".
            make_tables: makes or brings up to date what is missing, under a lock that keeps other replicas out.
            advice: what to do about a file that cannot be opened; `{file}` stands for its name.
            is_durable: whether a power cut may not lose the last transactions.
        """
        self._url = url
        self._name = name
        self._make_tables = make_tables
        self._advice = advice
        self._is_durable = is_durable
        self._opening = threading.Lock()
        self._engine: Engine | None = None
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=name)

    async def run(self, work: Callable[["Connection"], T]) -> T:
        """Run `work` in one transaction, in a thread, and return what it returns.

        A transaction that has begun is awaited to its end even when the caller is cancelled, so that what the caller
        does next finds it done.

        Raises:
            NotReady: the database cannot be opened.
            UpstreamFailed: it does not answer, or did not let this transaction through.
        """
        return await self._in_thread(work, is_read=False)

    async def read(self, work: Callable[["Connection"], T]) -> T:
        """Run `work`, which changes nothing, as `run` does, without waiting for those who write.

        Raises:
            NotReady: the database cannot be opened.
            UpstreamFailed: it does not answer.
        """
        return await self._in_thread(work, is_read=True)

    async def _in_thread(self, work: Callable[["Connection"], T], *, is_read: bool) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._transaction, work, is_read)
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

    def _transaction(self, work: Callable[["Connection"], T], is_read: bool) -> T:
        from sqlalchemy.exc import SQLAlchemyError

        engine = self._opened()
        try:
            with engine.execution_options(**{_IS_READ: is_read}).begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise UpstreamFailed(self._name, type(error).__name__, retry_after_s=1) from error

    def _opened(self) -> "Engine":
        from sqlalchemy.exc import SQLAlchemyError

        with self._opening:
            if self._engine is None:
                try:
                    self._engine = self._open()
                except (SQLAlchemyError, OSError) as error:
                    # Neither the address, which may hold a password, nor what a driver says of it.
                    problem = f"it cannot be opened ({type(error).__name__}); {self._how_to_mend()}"
                    raise NotReady(self._name, problem) from error
            return self._engine

    def _how_to_mend(self) -> str:
        if self._url.startswith(_SQLITE):
            return self._advice.format(file=Path(self._url).name)
        return "check PAPERROUTE_DATABASE_URL and whether the database runs"

    def _open(self) -> "Engine":
        from sqlalchemy import text

        engine = (
            _sqlite(self._url, is_durable=self._is_durable) if self._url.startswith(_SQLITE) else _server(self._url)
        )
        try:
            with engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _SCHEMA_LOCK})
                self._make_tables(connection)
        except BaseException:
            engine.dispose()
            raise
        return engine


def clock_s(connection: "Connection") -> float:
    """Return the database's time, in seconds since 1970."""
    from sqlalchemy import text

    is_sqlite = connection.dialect.name == "sqlite"
    # clock_timestamp() goes on within a transaction, which may have waited for a lock; now() does not.
    now = "(julianday('now') - 2440587.5) * 86400.0" if is_sqlite else "extract(epoch from clock_timestamp())"
    return float(connection.execute(text(f"SELECT {now}")).scalar_one())


def _server(url: str) -> "Engine":
    from sqlalchemy import create_engine

    settings = {
        "connect_timeout": 10,
        # A process that stopped within a transaction, or whose machine is gone, must not hold its locks for ever.
        "options": f"-c idle_in_transaction_session_timeout={IDLE_TRANSACTION_S * 1_000}",
        "keepalives_idle": IDLE_TRANSACTION_S,
    }
    # What a statement is given may be a question: no error is to carry it into a log.
    return create_engine(url, pool_pre_ping=True, pool_size=MAX_THREADS, connect_args=settings, hide_parameters=True)


def _sqlite(url: str, *, is_durable: bool) -> "Engine":
    from sqlalchemy import URL, create_engine, event

    path = Path(url.removeprefix(_SQLITE))
    _make_private(path)
    address = URL.create("sqlite", database=str(path))  # a path may hold signs that mean something in an address
    settings = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    engine = create_engine(address, connect_args=settings, hide_parameters=True)
    synchronous = "FULL" if is_durable else "NORMAL"

    def set_up(connection: Any, _record: object) -> None:  # Any: the driver's connection, behind SQLAlchemy
        connection.isolation_level = None  # transactions begin as the "begin" event says, with the lock to write
        _write_ahead(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: "Connection") -> None:
    """Begin with the lock to write, which cannot be had later while another one writes; who only reads needs none."""
    is_read = connection.get_execution_options().get(_IS_READ, False)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")


def _write_ahead(connection: Any) -> None:
    """Switch the file to a write-ahead log, which stays so for all who open it.

    While another one writes to a file that is not switched yet, SQLite refuses at once, whatever the timeout.
    """
    import sqlite3

    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(SWITCH_PAUSE_S)
        else:
            return


def _make_private(path: Path) -> None:
    """Make the file with its folder, readable by their owner only; what lies beside it takes its mode over."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    path.chmod(0o600)
