"""`paperroute surveys`, as a user without a gateway has it: what one command began, another one goes on with."""

import contextlib
import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from processes import paperroute

TIMEOUT_S = 90


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
    return {**kept, "PAPERROUTE_DATA_DIR": str(folder)}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        paperroute(*arguments), env=environment(folder), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    """Return what the gateway's file holds; nothing as long as it is not there."""
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{folder / 'gateway.sqlite3'}?mode=ro", uri=True)) as connection,
    ):
        return connection.execute(query).fetchall()
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which a survey was killed after its papers had been found."""
    made = tmp_path_factory.mktemp("data")
    command = paperroute("survey", "RAG evaluation", "--source", "sample", "--max-papers", "30")
    child = subprocess.Popen(command, env=environment(made), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + TIMEOUT_S
    while not rows(made, "SELECT 1 FROM survey_part WHERE kind = 'search'"):
        assert child.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    child.kill()
    child.wait(10)
    return made


def test_a_killed_survey_is_resumed_and_finished(folder: Path):
    ((survey_id, _),) = rows(folder, "SELECT survey_id, state FROM survey")
    before = run(folder, "surveys", "list").stdout
    done = run(folder, "surveys", "resume", str(survey_id))
    shown = run(folder, "surveys", "show", str(survey_id))
    again = run(folder, "surveys", "resume", str(survey_id))

    assert str(survey_id) in before
    assert done.returncode == 0, done.stderr
    assert "# " in done.stdout
    assert shown.stdout == done.stdout
    assert (again.returncode, "nothing is left to do" in again.stderr) == (1, True)
    assert rows(folder, "SELECT attempt FROM survey") == [(2,)]


def test_a_survey_is_deleted_after_a_yes_and_its_cost_stays(folder: Path):
    ((survey_id,),) = rows(folder, "SELECT survey_id FROM survey")
    refused = subprocess.run(
        paperroute("surveys", "delete", str(survey_id)), env=environment(folder), input="n\n", text=True,
        capture_output=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    kept = rows(folder, "SELECT count(*) FROM survey")
    done = run(folder, "surveys", "delete", str(survey_id), "--yes")

    assert refused.returncode == 1
    assert kept == [(1,)]
    assert done.returncode == 0, done.stderr
    assert rows(folder, "SELECT count(*) FROM survey") == [(0,)]
    assert rows(folder, "SELECT count(*) FROM survey_part") == [(0,)]
    assert rows(folder, "SELECT count(*) FROM usage") != [(0,)]


@pytest.mark.parametrize("command", ["show", "watch", "resume", "cancel"])
def test_a_survey_that_is_not_there_is_told_with_what_to_do(folder: Path, command: str):
    done = run(folder, "surveys", command, "nobody")

    assert done.returncode == 1
    assert "paperroute: NOT_FOUND: no survey 'nobody'\nthose that there are: paperroute surveys list\n" in done.stderr


def test_a_state_that_is_none_is_told_with_those_there_are(folder: Path):
    done = run(folder, "surveys", "list", "--state", "sleeping")

    assert done.returncode == 2
    assert "--state: one of queued, running" in done.stderr
