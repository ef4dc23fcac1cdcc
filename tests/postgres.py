"""A PostgreSQL of the tests' own, from Debian's package: on a unix socket, gone at the end.

Where the programs are missing, the tests that want it are skipped; under CI they fail, so that nobody forgets them.
"""

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

_NUMBERS = itertools.count(1)


def programs() -> Path | None:
    """Return the folder of the newest installed server, None when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Run a server and yield the folder of its socket."""
    folder = programs()
    if folder is None:
        missing = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    home = Path(tempfile.mkdtemp(prefix="paperroute-pg-"))
    user = None
    if os.getuid() == 0:  # the server refuses to run as root
        user = "postgres"
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)
    data = home / "data"

    def run(program: str, *arguments: str) -> None:
        subprocess.run([folder / program, "-D", data, *arguments], user=user, cwd=home, check=True, capture_output=True)

    try:
        run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        options = f"-k {home} -c listen_addresses= -c fsync=off -c shared_buffers=16MB -c max_connections=50"
        run("pg_ctl", "start", "--wait", f"--log={home / 'log'}", f"--options={options}")
        try:
            yield str(home)
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")
    finally:
        shutil.rmtree(home)


def new_database(socket_folder: str) -> str:
    """Return the address of an empty database."""
    name = f"test_{next(_NUMBERS)}"
    with psycopg.connect(f"postgresql://postgres@/postgres?host={socket_folder}", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://postgres@/{name}?host={socket_folder}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the folder of the socket of a server that runs for the whole session."""
    with postgres_server() as socket_folder:
        yield socket_folder


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Return PAPERROUTE_DATABASE_URL of an empty store, for each kind of database in turn; empty means SQLite."""
    return "" if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))
