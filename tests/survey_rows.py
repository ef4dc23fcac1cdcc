"""Gateway databases to test with, in SQLite and in PostgreSQL, and surveys to put into them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from postgres import new_database

from gateway.document.draft import Part, PartKind
from gateway.jobs.values import Job, NewJob, QueueLimits
from gateway.store.schema import gateway_database
from services.common.database import Database
from services.common.errors import UpstreamFailed
from services.common.settings import SharedSettings

T = TypeVar("T")
LIMITS = QueueLimits(max_running=1_000, max_queued=1_000, max_queued_overall=10_000)
OWNER = "replica-1"
_NUMBERS = itertools.count(1)


def a_request(
    question: str = "What is new?", *, request_id: str = "", labels: Mapping[str, str] | None = None, **spec: Any
) -> service_pb.CreateSurveyRequest:
    return service_pb.CreateSurveyRequest(
        spec=pb.SurveySpec(question=question, **spec), request_id=request_id, labels=labels or {}
    )


def a_job(
    request: service_pb.CreateSurveyRequest | None = None, *, tenant: str = "tenant-a", survey_id: str = ""
) -> NewJob:
    made = request or a_request()
    spec = pb.SurveySpec()
    spec.CopyFrom(made.spec)
    spec.max_papers = spec.max_papers or 160
    return NewJob(
        survey_id=survey_id or f"survey-{next(_NUMBERS)}", tenant=tenant, request=made, spec=spec, trace="00-trace"
    )


def a_summary(paper_id: str, text: str = "A summary.") -> Part:
    payload = generation_pb.SectionText(title=text).SerializeToString()  # any bytes will do for most tests
    return Part(kind=PartKind.SUMMARY, place=paper_id, payload=payload)


def a_section(place: str, title: str = "A section") -> Part:
    payload = generation_pb.SectionText(title=title).SerializeToString()
    return Part(kind=PartKind.SECTION, place=place, payload=payload)


def section_finished(place: str, title: str = "A section") -> service_pb.WatchSurveyResponse:
    chapter, section = (int(each) for each in place.split("."))
    finished = service_pb.SectionFinished(chapter_number=chapter, section=pb.Section(number=section, title=title))
    return service_pb.WatchSurveyResponse(section_finished=finished)


def stage_started(stage: pb.Stage.ValueType = pb.STAGE_PLAN) -> service_pb.WatchSurveyResponse:
    return service_pb.WatchSurveyResponse(stage_started=service_pb.StageStarted(stage=stage, attempt=1))


def stage_finished(stage: pb.Stage.ValueType = pb.STAGE_PLAN) -> service_pb.WatchSurveyResponse:
    report = pb.StageReport(stage=stage, state=pb.STAGE_STATE_DONE)
    return service_pb.WatchSurveyResponse(stage_finished=service_pb.StageFinished(report=report))


def progress(done: int, stage: pb.Stage.ValueType = pb.STAGE_SUMMARIZE) -> service_pb.WatchSurveyResponse:
    return service_pb.WatchSurveyResponse(stage_progress=service_pb.StageProgress(stage=stage, done_count=done))


def section_text(text: str, *, attempt: int = 1, place: str = "2.3") -> service_pb.WatchSurveyResponse:
    chapter, section = (int(each) for each in place.split("."))
    piece = service_pb.SectionProgress(chapter_number=chapter, section_number=section, attempt=attempt, text=text)
    return service_pb.WatchSurveyResponse(section_text=piece)


def kind_of(event: service_pb.WatchSurveyResponse) -> str:
    """Return "stage_started" and the like; for a change of state the state: "QUEUED"."""
    kind = event.WhichOneof("event") or ""
    if kind == "state_changed":
        return pb.SurveyState.Name(event.state_changed.state).removeprefix("SURVEY_STATE_")
    if kind == "finished":
        return pb.SurveyState.Name(event.finished.state).removeprefix("SURVEY_STATE_")
    return kind


class Gateways:
    """Opens the database of several gateways on one store and closes what it opened."""

    def __init__(self, shared: SharedSettings, database: Database | None = None) -> None:
        self.shared = shared
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self.database = database or self.another_database()

    def another_database(self) -> Database:
        """Return the database as another replica opens it."""
        return self.closing(_opened(self.shared))

    def closing(self, opened: T) -> T:
        """Close something at the end, what was opened last first."""
        self._closers.append(opened.close)  # type: ignore[attr-defined]
        return opened

    async def create(self, request: service_pb.CreateSurveyRequest | None = None, **options: Any) -> Job:
        """Make a survey."""
        from gateway.store import surveys

        new = a_job(request, **options)
        job, _ = await self.database.run(lambda connection: surveys.create(connection, new, LIMITS))
        return job

    async def running(self, request: service_pb.CreateSurveyRequest | None = None, **options: Any) -> Job:
        """Make a survey and begin it as its turn would."""
        return await self.begun((await self.create(request, **options)).survey_id)

    async def many_running(self, count: int) -> list[Job]:
        """Make surveys and begin them, in one transaction."""
        from sqlalchemy import update

        from gateway.store import surveys
        from gateway.store.tables import SURVEY

        def work(connection: Any) -> list[Job]:
            made = [surveys.create(connection, a_job(), LIMITS)[0] for _ in range(count)]
            connection.execute(update(SURVEY).values(state=pb.SURVEY_STATE_RUNNING, run=1))
            begun = [surveys.begin(connection, job.survey_id, 1, OWNER) for job in made]
            return [job for job in begun if job is not None]

        return await self.database.run(work)

    async def begun(self, survey_id: str, owner: str = OWNER) -> Job:
        """Give a queued survey its turn and begin it; what runs already begins once more."""
        from gateway.store import surveys

        await self.sql(
            "UPDATE survey SET state = :running, run = run + 1 WHERE survey_id = :id AND state = :queued",
            running=pb.SURVEY_STATE_RUNNING,
            queued=pb.SURVEY_STATE_QUEUED,
            id=survey_id,
        )
        job = await self.found(survey_id)
        begun = await self.database.run(lambda connection: surveys.begin(connection, survey_id, job.run, owner))
        assert begun is not None
        return begun

    async def found(self, survey_id: str) -> Job:
        from gateway.store import surveys

        return await self.database.read(lambda connection: surveys.find(connection, survey_id))

    async def ended(self, job: Job, state: pb.SurveyState.ValueType = pb.SURVEY_STATE_DONE, *given: Part) -> None:
        """End a running survey."""
        from gateway.store import surveys

        head = pb.Survey(survey_id=job.survey_id, title="A title")
        failure = pb.Failure(reason="UPSTREAM_FAILED") if state == pb.SURVEY_STATE_FAILED else None
        await self.database.run(
            lambda connection: surveys.end(connection, job.survey_id, job.attempt, state, head, *given, failure=failure)
        )

    async def cancelled(self, survey_id: str) -> bool:
        from gateway.store import surveys

        return await self.database.run(lambda connection: surveys.cancel(connection, survey_id)) is not None

    async def events(self, survey_id: str) -> list[service_pb.WatchSurveyResponse]:
        """Return the numbered events of a survey."""
        from gateway.store import events

        return await self.database.read(lambda connection: events.after(connection, survey_id, 0))

    async def live(self, survey_id: str) -> dict[str, service_pb.WatchSurveyResponse]:
        """Return what is shown of a survey, by place."""
        from gateway.store import events

        rows = await self.database.read(lambda connection: events.live_after(connection, survey_id, 0))
        return {row.place: row.event for row in rows}

    async def parts(self, survey_id: str) -> list[Part]:
        from gateway.store import parts

        return await self.database.read(lambda connection: parts.read(connection, survey_id))

    async def sql(self, statement: str, **values: Any) -> Sequence[Any]:
        """Run a statement on the tables, as only a test may."""
        from sqlalchemy import text

        def work(connection: Any) -> Sequence[Any]:
            result = connection.execute(text(statement), values)
            return result.mappings().all() if result.returns_rows else ()

        return await self.database.run(work)

    async def close(self) -> None:
        for close in reversed(self._closers):
            await close()


class Unsteady:
    """A database that is away as often as told; what it did before it broke may have been done."""

    def __init__(self, database: Database) -> None:
        self.run_count = 0
        self.read_count = 0
        self.failing_count = 0
        self.is_done_first = False
        self._database = database

    def fail(self, count: int, *, is_done_first: bool = False) -> None:
        """Fail the next transactions: before anything is done, or after the commit."""
        self.failing_count, self.is_done_first = count, is_done_first

    async def run(self, work: Callable[[Any], T]) -> T:
        self.run_count += 1
        return await self._attempt(self._database.run, work)

    async def read(self, work: Callable[[Any], T]) -> T:
        self.read_count += 1
        return await self._attempt(self._database.read, work)

    async def _attempt(self, run: Callable[[Any], Awaitable[T]], work: Callable[[Any], T]) -> T:
        if self.failing_count and not self.is_done_first:
            self.failing_count -= 1
            raise UpstreamFailed("the gateway's database", "OperationalError")
        result = await run(work)
        if self.failing_count:
            self.failing_count -= 1
            raise UpstreamFailed("the gateway's database", "OperationalError")
        return result


class Heard:
    """Stands for the hub where only the call counts."""

    def __init__(self) -> None:
        self.survey_ids: list[str] = []
        self._woken = asyncio.Event()

    def changed(self, survey_id: str) -> None:
        self.survey_ids.append(survey_id)
        self._woken.set()

    async def of(self, count: int) -> None:
        """Wait until so many changes were told of in all."""
        while len(self.survey_ids) < count:
            self._woken.clear()
            await self._woken.wait()


def _opened(shared: SharedSettings) -> Database:
    database = gateway_database(shared)
    database._is_durable = False  # no test cuts the power, and waiting for the disk takes longer than all else
    return database


def _empty(connection: Any) -> None:
    from gateway.store.tables import METADATA

    for table in METADATA.sorted_tables:
        connection.execute(table.delete())


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A store with its tables, opened once."""

    shared: SharedSettings
    database: Database


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def gateway_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return a store that the tests use one after another: making and opening one takes longer than most of them."""
    url = "" if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))
    shared = SharedSettings(database_url=url, data_dir=tmp_path_factory.mktemp("data"))
    database = _opened(shared)
    yield Store(shared=shared, database=database)
    asyncio.run(database.close())


@pytest.fixture
async def gateways(gateway_store: Store) -> AsyncIterator[Gateways]:
    """Gateways on an empty database, in SQLite and in PostgreSQL."""
    await gateway_store.database.run(_empty)
    made = Gateways(gateway_store.shared, gateway_store.database)
    yield made
    await made.close()


@pytest.fixture
async def file_gateways(tmp_path: Any) -> AsyncIterator[Gateways]:
    """Gateways on a SQLite file of their own, for what does not depend on the database."""
    made = Gateways(SharedSettings(data_dir=tmp_path / "data"))
    yield made
    await made.close()
