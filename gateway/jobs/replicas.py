"""Which replicas of the gateway are alive. Each holds a lock as long as its process lives; who gets it, knows it dead.

On PostgreSQL the lock belongs to a session and ends with its connection. With files it is flock(2): it belongs to the
open file, so it ends when the last process that has it open is gone, however that happened. This relies on two things.
Nothing that the process starts inherits the file: Python opens files so that programs it executes do not, and nothing
here forks without executing one. And the folder is on a file system of this machine, where flock is per open file; on
some network file systems it is per process, but there SQLite's write-ahead log does not work either.

A process that is stopped or slow keeps its lock: it is not dead, and what it has under way is its own. A session can
end although its process lives, as all do when the server restarts; the process gets a moment to take its lock again.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.database import database_url
from services.common.errors import NotReady, UpstreamFailed
from services.common.settings import SharedSettings

if TYPE_CHECKING:
    from psycopg import AsyncConnection

logger = logging.getLogger(__name__)

FOLDER = "replicas"
"""In the data folder: a file for each replica."""
BEAT_S = 0.25
"""Pause between two looks whether the lock is still held."""
PATIENCE_S = 3.0
"""A lock whose database does not answer for so long is taken for lost until it does."""
DEAD_AFTER_S = 1.5
"""A session's lock must be free for so long before its process is taken for dead; the living notice within a beat."""
FORGET_AFTER_S = 10.0
"""A lock that was not looked at for so long may have been held meanwhile."""
_WHAT = "the lock of this replica"
_ATTEMPTS = 5
_CLIENT_SIDE: Mapping[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""How soon a connection to a machine that is gone breaks, so that another one can be made."""
_SERVER_SIDE: Mapping[str, str] = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}
"""How soon the server ends the session of a machine that is gone, in seconds; one that is silent is not ended."""


class ReplicaLocks(ABC):
    """The lock of this process, and those of the others."""

    def __init__(self) -> None:
        self.owner = secrets.token_hex(8)
        """Names this process; no other one ever has the same."""
        self.lost = asyncio.Event()
        """Set while it is not certain that the lock is held: others may take this process for dead."""
        self._held_again = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._is_closing = False
        """A cancellation can get lost in what is awaited: `asyncio.wait_for` of Python 3.11, in psycopg, loses some."""

    async def acquire(self) -> str:
        """Take the lock of this process, watch over it from then on, and return the process's name.

        Raises:
            NotReady: there is no place to lock in.
            UpstreamFailed: the database does not answer.
        """
        if not await self._take():
            raise UpstreamFailed(_WHAT, "another process has it", retry_after_s=1)
        self._beating = asyncio.create_task(self._beat())
        return self.owner

    async def held_again(self) -> None:
        """Wait until the lock is certain, after it was lost."""
        await self._held_again.wait()

    @contextlib.asynccontextmanager
    async def held(self, other: str) -> AsyncIterator[bool]:
        """Hold the lock of another process, if that one is dead, and yield whether it is.

        While it is held nobody else gets it. One that cannot be asked for is taken for alive.
        """
        is_held = other != self.owner and not self.lost.is_set() and await self._take_other(other)
        try:
            yield is_held
        finally:
            if is_held:
                await self._give_back(other)

    async def close(self) -> None:
        """Let go of the lock: what this process has under way is anybody's."""
        self._is_closing = True
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        await self._let_go()

    async def _beat(self) -> None:
        while not self._is_closing:
            await asyncio.sleep(BEAT_S)
            is_held = await self._is_held()
            if not is_held:
                self._lose("it is gone")
                is_held = await self._taken_again()
            if is_held:
                self._regain()

    async def _taken_again(self) -> bool:
        try:
            return await self._take()
        except (NotReady, UpstreamFailed) as error:
            logger.info("%s", error)
            return False

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            logger.warning("%s is lost: %s; no step begins before it is held again", _WHAT, why)
        self._held_again.clear()
        self.lost.set()

    def _regain(self) -> None:
        if self.lost.is_set():
            logger.warning("%s is held again", _WHAT)
            self.lost.clear()
            self._held_again.set()

    @abstractmethod
    async def _take(self) -> bool:
        """Take the lock of this process; return False while another one has it."""

    @abstractmethod
    async def _is_held(self) -> bool:
        """Return whether the lock of this process is still held."""

    @abstractmethod
    async def _let_go(self) -> None:
        """Let go of everything."""

    @abstractmethod
    async def _take_other(self, other: str) -> bool:
        """Take the lock of another process; return False while that one, or a third, has it."""

    @abstractmethod
    async def _give_back(self, other: str) -> None:
        """Let go of another process's lock."""


def replica_locks(shared: SharedSettings) -> ReplicaLocks:
    """Return the locks of a deployment: in its PostgreSQL, else in the data folder.

    Raises:
        SettingsError: the address of the database is not one of PostgreSQL.
    """
    if shared.database_url:
        return ServerLocks(database_url(shared, ""))
    return FileLocks(shared.data_dir / FOLDER)


class FileLocks(ReplicaLocks):
    """A file for each process, in one folder. Those of the dead are removed by the living."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._file: int | None = None
        self._others: dict[str, int] = {}

    async def _take(self) -> bool:
        self._close_file()
        try:
            for folder in (self._folder.parent, self._folder):  # parents are made for everybody to read
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = _locked(self._path(self.owner))
            self._remove_dead()
        except OSError as error:
            problem = f"{self._folder} cannot be used ({type(error).__name__}); check PAPERROUTE_DATA_DIR"
            raise NotReady(_WHAT, problem) from error
        return self._file is not None

    async def _is_held(self) -> bool:
        """Return whether the file is still in its place: without it, others would lock a new one."""
        try:
            return self._file is not None and _is_at(self._file, self._path(self.owner))
        except OSError:
            return False

    async def _let_go(self) -> None:
        if self._file is not None:
            self._path(self.owner).unlink(missing_ok=True)
        self._close_file()

    async def _take_other(self, other: str) -> bool:
        try:
            file = _locked(self._path(other))
        except OSError as error:
            logger.warning("the lock of replica %s cannot be asked for: %s", other, error)
            return False
        if file is not None:
            self._others[other] = file
        return file is not None

    async def _give_back(self, other: str) -> None:
        self._path(other).unlink(missing_ok=True)  # while it is locked: nobody can have locked it meanwhile
        os.close(self._others.pop(other))

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"

    def _remove_dead(self) -> None:
        for path in self._folder.glob("*.lock"):
            if path.stem != self.owner and (file := _locked(path)) is not None:
                path.unlink(missing_ok=True)
                os.close(file)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class ServerLocks(ReplicaLocks):
    """A lock of a session of PostgreSQL for each process, on a connection of its own.

    The connection must lead to the server itself or through a pooler that keeps sessions apart: one that shares them
    by transactions knows no locks of a session.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._connection: AsyncConnection[Any] | None = None
        self._free_since: dict[str, tuple[float, float]] = {}
        """By owner: when its lock was found free first and last."""

    async def _take(self) -> bool:
        import psycopg

        await self._disconnect()
        try:
            self._connection = await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, connect_timeout=10, application_name="paperroute replica", **_CLIENT_SIDE
            )
            for name, value in _SERVER_SIDE.items():  # as far as this version of the server knows them
                query = "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = %s"
                await self._connection.execute(query, (value, name))
            is_taken = await self._ask("pg_try_advisory_lock", self.owner)
        except psycopg.Error as error:
            await self._disconnect()
            raise UpstreamFailed(_WHAT, f"its database does not answer ({type(error).__name__})") from error
        if not is_taken:
            await self._disconnect()  # a session without the lock must not be taken for one that has it
        return is_taken

    async def _is_held(self) -> bool:
        """Return whether the session lives. Its lock ends with it and not before, so no answer does not mean lost."""
        asking = asyncio.create_task(self._ping())
        try:
            await asyncio.wait([asking], timeout=PATIENCE_S)
            if not asking.done():
                self._lose("its database does not answer")
            return await asking
        finally:
            asking.cancel()

    async def _let_go(self) -> None:
        await self._give_back(self.owner)  # the server notices only by and by that a connection is closed
        await self._disconnect()

    async def _take_other(self, other: str) -> bool:
        import psycopg

        try:
            is_free = await self._ask("pg_try_advisory_lock", other)
        except psycopg.Error as error:
            logger.info("the lock of replica %s cannot be asked for: %s", other, type(error).__name__)
            return False
        if is_free and not self._is_confirmed(other):
            await self._give_back(other)
            return False
        self._free_since.pop(other, None)
        return is_free

    def _is_confirmed(self, other: str) -> bool:
        """Note that a lock was found free; return whether it has been for long enough."""
        now = asyncio.get_running_loop().time()
        first, last = self._free_since.get(other, (now, now))
        self._free_since[other] = (first if now - last < FORGET_AFTER_S else now, now)
        return now - self._free_since[other][0] >= DEAD_AFTER_S

    async def _give_back(self, other: str) -> None:
        import psycopg

        with contextlib.suppress(psycopg.Error):  # without the connection nothing is locked
            await self._ask("pg_advisory_unlock", other)

    async def _ping(self) -> bool:
        import psycopg

        try:
            await self._answer_of("SELECT 1")
        except psycopg.Error:
            return False
        return True

    async def _ask(self, function: str, owner: str) -> bool:
        return bool(await self._answer_of(f"SELECT {function}({_lock_number(owner)})"))

    async def _answer_of(self, query: str) -> Any:
        import psycopg

        if self._connection is None:
            raise psycopg.OperationalError
        cursor = await self._connection.execute(query)
        row = await cursor.fetchone()
        return row[0] if row else None

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


def _locked(path: Path) -> int | None:
    """Return the open file at a path, made if need be and locked; None when another process has it locked."""
    import portalocker

    for _ in range(_ATTEMPTS):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.LockException as error:
            os.close(file)
            if isinstance(error, portalocker.AlreadyLocked):
                return None
            raise OSError(str(error)) from error
        if _is_at(file, path):
            return file
        os.close(file)  # another process removed it between the two calls
    return None


def _is_at(file: int, path: Path) -> bool:
    """Return whether an open file is the one that a path leads to."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file)
    return (opened.st_dev, opened.st_ino) == (found.st_dev, found.st_ino)


def _lock_number(owner: str) -> int:
    """Return the number of a replica's PostgreSQL lock: these share one space with all locks of the database."""
    return int.from_bytes(hashlib.sha256(f"paperroute replica {owner}".encode()).digest()[:8], signed=True)
