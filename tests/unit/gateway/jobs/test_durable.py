"""The journal of runs, in SQLite and in PostgreSQL. Processes that are killed are in test_turn_loop.py."""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from paperroute.v1 import survey_pb2 as pb
from postgres import new_database, postgres  # noqa: F401  # a fixture

from gateway.jobs import durable as module
from gateway.jobs.durable import Durable, StepRunner
from services.common.errors import NotReady
from services.common.settings import SharedSettings

PATIENCE_S = 20
SECRET = "what the survey says"
PLAN, RETRIEVE, EMBED, SUMMARIZE = pb.STAGE_PLAN, pb.STAGE_RETRIEVE, pb.STAGE_EMBED, pb.STAGE_SUMMARIZE
_OWNERS = (f"owner-{number}" for number in itertools.count(1))
_SURVEYS = (f"survey-{number}" for number in itertools.count(1))


class Surveys:
    """Runs surveys of given stages and notes what it was asked to do; `blocked` stages wait until they are let go."""

    def __init__(
        self,
        *stages: pb.Stage.ValueType,
        blocked: Sequence[pb.Stage.ValueType] = (),
        is_side_by_side: bool = False,
    ) -> None:
        self.stages = stages
        self.is_side_by_side = is_side_by_side
        self.blocked = set(blocked)
        self.begun: list[int] = []
        self.done: list[int] = []
        self.changed = asyncio.Condition()
        self.runs: list[tuple[str, int]] = []
        self.ended = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.fault: BaseException | None = None

    async def run(self, survey_id: str, run: int, steps: StepRunner) -> None:
        self.runs.append((survey_id, run))
        try:
            if self.is_side_by_side:
                async with asyncio.TaskGroup() as group:
                    for stage in self.stages:
                        group.create_task(steps.run_step(stage, self._work(stage)))
            for stage in self.stages if not self.is_side_by_side else ():
                await steps.run_step(stage, self._work(stage))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.ended.set()

    def _work(self, stage: pb.Stage.ValueType) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            self.loops.add(asyncio.get_running_loop())
            self.begun.append(stage)
            await self._tell()
            async with self.changed:
                await self.changed.wait_for(lambda: stage not in self.blocked)
            if self.fault:
                raise self.fault
            self.done.append(stage)

        return work

    async def let_go(self, stage: pb.Stage.ValueType) -> None:
        self.blocked.discard(stage)
        await self._tell()

    async def has_begun(self, stage: pb.Stage.ValueType) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: stage in self.begun)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SharedSettings:
    """Settings of a store that these tests share: DBOS takes long to make its tables."""
    url = "" if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))
    return SharedSettings(database_url=url, data_dir=tmp_path_factory.mktemp("journal"))


class Journals:
    """Launches journals on one store as one process after another would, and closes them."""

    def __init__(self, store: SharedSettings) -> None:
        self._store = store
        self._launched: list[Durable] = []

    async def __call__(self, surveys: Surveys, **options: Any) -> Durable:
        self._launched.append(Durable(self._store, surveys.run, next(_OWNERS), **options))
        await self._launched[-1].launch()
        return self._launched[-1]

    async def close(self) -> None:
        for each in self._launched:
            await each.close()


@pytest.fixture
async def launch(store: SharedSettings) -> AsyncIterator[Journals]:
    """Journals in SQLite and in PostgreSQL."""
    made = Journals(store)
    yield made
    await made.close()


@pytest.fixture
async def launch_file(tmp_path: Path) -> AsyncIterator[Journals]:
    """Journals in a SQLite file, for what does not depend on the database."""
    made = Journals(SharedSettings(data_dir=tmp_path / "data"))
    yield made
    await made.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def journal_says(survey_id: str, run: int = 1) -> tuple[str, list[str]]:
    """Return the state of a run in DBOS and its finished steps."""
    from dbos import DBOS

    name = f"{survey_id}-{run}"
    status = await DBOS.get_workflow_status_async(name)
    steps = await DBOS.list_workflow_steps_async(name)
    return (status.status if status else ""), [step["function_name"] for step in steps]


async def until_journal_says(survey_id: str, state: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if (await journal_says(survey_id))[0] == state:
                return
            await asyncio.sleep(0.01)


async def test_finished_steps_are_not_run_again_by_the_next_process_whatever_their_order(launch: Journals) -> None:
    """Stages that run side by side begin in another order when parts of them were done before."""
    survey, killed = next(_SURVEYS), Surveys(SUMMARIZE, EMBED, PLAN, blocked=[PLAN])
    journal = await launch(killed)
    await journal.start(survey, 1)
    await killed.has_begun(PLAN)
    assert journal.is_under_way(survey, 1)
    await journal.close()
    assert killed.cancelled.is_set()
    assert journal.count == 0

    successor = Surveys(PLAN, RETRIEVE, EMBED, SUMMARIZE)
    journal = await launch(successor)
    await journal.resume(survey, 1)
    await asyncio.wait_for(successor.ended.wait(), PATIENCE_S)
    await until_journal_says(survey, "SUCCESS")

    assert successor.done == [PLAN, RETRIEVE]
    assert successor.loops == {asyncio.get_running_loop()}
    assert await journal_says(survey) == ("SUCCESS", ["plan", "retrieve", "embed", "summarize"])
    assert journal.count == 0


async def test_a_run_that_was_never_started_is_started_when_it_is_resumed(launch_file: Journals) -> None:
    """Its process died between the turn and the start."""
    survey, surveys = next(_SURVEYS), Surveys(PLAN)
    journal = await launch_file(surveys)
    await journal.resume(survey, 3)
    await asyncio.wait_for(surveys.ended.wait(), PATIENCE_S)

    assert surveys.runs == [(survey, 3)]


async def test_a_run_that_another_version_began_is_begun_anew(launch_file: Journals) -> None:
    survey, old = next(_SURVEYS), Surveys(PLAN, RETRIEVE, blocked=[RETRIEVE])
    journal = await launch_file(old, version="paperroute-0")
    await journal.start(survey, 1)
    await old.has_begun(RETRIEVE)
    await journal.close()

    new = Surveys(PLAN, RETRIEVE, EMBED)
    journal = await launch_file(new)
    await journal.resume(survey, 1)
    await asyncio.wait_for(new.ended.wait(), PATIENCE_S)

    assert new.done == [PLAN, RETRIEVE, EMBED]


async def test_a_run_that_has_ended_in_the_journal_only_is_begun_anew(launch_file: Journals) -> None:
    """Its process died between the end in the journal and that of the survey."""
    survey, surveys = next(_SURVEYS), Surveys(PLAN)
    journal = await launch_file(surveys)
    await journal.start(survey, 1)
    await until_journal_says(survey, "SUCCESS")
    surveys.ended.clear()
    await journal.resume(survey, 1)
    await asyncio.wait_for(surveys.ended.wait(), PATIENCE_S)

    assert surveys.done == [PLAN, PLAN]


async def test_cancel_stops_a_step_that_would_never_end(launch: Journals) -> None:
    survey, surveys = next(_SURVEYS), Surveys(PLAN, RETRIEVE, blocked=[PLAN])
    journal = await launch(surveys)
    await journal.start(survey, 1)
    await surveys.has_begun(PLAN)
    await journal.cancel(survey, 1)
    await asyncio.wait_for(surveys.cancelled.wait(), PATIENCE_S)

    assert await journal_says(survey) == ("CANCELLED", [])
    assert surveys.done == []


async def test_cancel_by_another_process_stops_steps(launch_file: Journals, caplog: pytest.LogCaptureFixture) -> None:
    from dbos import DBOS

    survey = next(_SURVEYS)
    surveys = Surveys(PLAN, RETRIEVE, blocked=[PLAN, RETRIEVE], is_side_by_side=True)
    journal = await launch_file(surveys)
    await journal.start(survey, 1)
    await surveys.has_begun(PLAN)
    await DBOS.cancel_workflow_async(f"{survey}-1")
    await until(lambda: not journal.is_under_way(survey, 1))

    assert surveys.done == []
    assert not surveys.ended.is_set()
    assert caplog.records == []


async def test_what_a_step_raises_interrupts_the_run_and_is_not_recorded(
    launch_file: Journals, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that was away for a moment must not fail a survey for good."""
    survey, surveys = next(_SURVEYS), Surveys(PLAN, RETRIEVE)
    surveys.fault = ValueError(SECRET)
    journal = await launch_file(surveys)
    await journal.start(survey, 1)
    await until(lambda: not journal.is_under_way(survey, 1))
    assert await journal_says(survey) == ("PENDING", [])
    assert [record.message for record in caplog.records] == [f"survey {survey} was interrupted"]

    surveys.fault = None
    await journal.resume(survey, 1)
    await asyncio.wait_for(surveys.ended.wait(), PATIENCE_S)

    assert surveys.done == [PLAN, RETRIEVE]


async def test_a_run_that_another_process_has_taken_over_ends_here(launch: Journals) -> None:
    """This process was taken for dead: it must neither write markers nor wait for the other one."""
    from dbos import DBOS

    survey, surveys = next(_SURVEYS), Surveys(PLAN, RETRIEVE, blocked=[PLAN])
    journal = await launch(surveys)
    await journal.start(survey, 1)
    await surveys.has_begun(PLAN)
    await DBOS.resume_workflow_async(f"{survey}-1", queue_name="a-queue-that-nobody-serves")
    await surveys.let_go(PLAN)
    await until(lambda: not journal.is_under_way(survey, 1))

    assert await journal_says(survey) == ("ENQUEUED", [])
    assert surveys.begun == [PLAN]


async def test_no_step_begins_during_a_pause(launch: Journals) -> None:
    survey, surveys = next(_SURVEYS), Surveys(PLAN, RETRIEVE, blocked=[PLAN])
    journal = await launch(surveys)
    await journal.start(survey, 1)
    await surveys.has_begun(PLAN)
    journal.pause()
    await surveys.let_go(PLAN)
    async with asyncio.timeout(PATIENCE_S):
        while (await journal_says(survey))[1] != ["plan"]:
            await asyncio.sleep(0.01)
    late = next(_SURVEYS)
    await journal.start(late, 1)
    assert surveys.begun == [PLAN]
    assert surveys.runs == [(survey, 1)]

    journal.go_on()
    await surveys.has_begun(RETRIEVE)


async def test_the_journal_holds_neither_pickles_nor_what_a_survey_says(
    launch: Journals, store: SharedSettings
) -> None:
    survey, surveys = next(_SURVEYS), Surveys(PLAN, RETRIEVE)
    journal = await launch(surveys)
    await journal.start(survey, 1)
    await until_journal_says(survey, "SUCCESS")
    cells = {str(cell) for cell in everything_in(journal)}

    assert any(survey in cell for cell in cells)
    assert "paperroute_json" in cells
    assert "py_pickle" not in cells
    assert not [cell for cell in cells if SECRET in cell or "gAS" in cell]  # base64 of how a pickle begins


def everything_in(journal: Durable) -> list[Any]:
    """Return every cell of every table of DBOS."""
    from sqlalchemy import MetaData

    engine = journal._engine
    assert engine
    tables = MetaData()
    tables.reflect(engine, schema=None if engine.dialect.name == "sqlite" else "dbos")
    with engine.connect() as connection:
        return [cell for table in tables.sorted_tables for row in connection.execute(table.select()) for cell in row]


def test_exceptions_are_written_without_their_message() -> None:
    serializer = module._serializer()
    written = serializer.serialize(ValueError(SECRET))

    assert json.loads(written) == {"raised": "ValueError"}
    assert str(serializer.deserialize(written)) == "ValueError"
    assert serializer.deserialize(serializer.serialize({"args": ["survey", 1], "kwargs": {}}))["args"] == ["survey", 1]


async def test_ended_runs_are_forgotten_but_for_those_that_are_under_way(launch: Journals) -> None:
    ended, under_way = next(_SURVEYS), next(_SURVEYS)
    surveys = Surveys(PLAN)
    journal = await launch(surveys)
    await journal.start(ended, 1)
    await journal.start(under_way, 2)
    await until_journal_says(ended, "SUCCESS")
    assert await journal.tidy([], older_than_s=3_600) == 0
    await asyncio.sleep(0.002)  # what is older than 0 s was begun in another millisecond
    await journal.tidy([(under_way, 2)], older_than_s=0)

    assert await journal_says(ended) == ("", [])
    assert (await journal_says(under_way, 2))[0]


async def test_a_second_journal_in_one_process_is_refused_until_the_first_is_closed(launch_file: Journals) -> None:
    journal = await launch_file(Surveys())
    with pytest.raises(RuntimeError, match="a journal is open"):
        await launch_file(Surveys())
    await journal.start(next(_SURVEYS), 1)  # the first one is not harmed
    await journal.close()
    assert await asyncio.to_thread(int, "7") == 7
    await (await launch_file(Surveys())).start(next(_SURVEYS), 1)


async def test_a_run_that_hides_that_it_was_stopped_is_not_taken_for_finished(launch_file: Journals) -> None:
    survey, hidden = next(_SURVEYS), Surveys(PLAN, blocked=[PLAN])

    class Hiding(Surveys):
        async def run(self, survey_id: str, run: int, steps: StepRunner) -> None:
            try:
                await hidden.run(survey_id, run, steps)
            except asyncio.CancelledError:
                return

    journal = await launch_file(Hiding())
    await journal.start(survey, 1)
    await hidden.has_begun(PLAN)
    await journal.close()
    await launch_file(Surveys())

    assert await journal_says(survey) == ("PENDING", [])


async def test_a_journal_that_cannot_be_opened_says_what_to_do_and_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = Durable(SharedSettings(data_dir=tmp_path / "file"), Surveys().run, "owner")
    with pytest.raises(NotReady, match=r"journal\.sqlite3"):
        await broken.launch()
    journal = Durable(SharedSettings(data_dir=tmp_path), Surveys().run, "owner")
    await journal.launch()
    await journal.close()

    assert (tmp_path / "journal.sqlite3").stat().st_mode & 0o777 == 0o600


async def test_nothing_is_logged_in_normal_work(
    launch_file: Journals, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    surveys, survey = Surveys(PLAN, RETRIEVE, blocked=[RETRIEVE]), next(_SURVEYS)
    journal = await launch_file(surveys)
    await journal.start(survey, 1)
    await surveys.has_begun(RETRIEVE)
    await journal.cancel(survey, 1)
    await asyncio.wait_for(surveys.cancelled.wait(), PATIENCE_S)
    await journal.close()

    assert [record.message for record in caplog.records if record.name.startswith("dbos")] == []
    assert capfd.readouterr().err == ""
