"""A survey that is killed at any moment and begun again ends as if it had not been, and does nothing twice."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
from fakes import Fakes, fails
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.document.assemble import survey_of
from gateway.document.draft import Draft, Part, parts_to_redo
from gateway.jobs.values import Job
from gateway.money.budget import SurveyBudget
from gateway.pipeline.patience import Patience
from gateway.pipeline.pipeline import run_pipeline
from gateway.pipeline.run import Run
from gateway.pipeline.stage_run import StageFailed
from gateway.services import Services, connect
from gateway.settings import GatewaySettings
from services.common.deadlines import Deadline
from services.common.paid.prices import PriceBook
from services.common.server import RoleServer

SPEC = pb.SurveySpec(question="Which names?", language="en")


class Killed(BaseException):
    """The process died here."""


@dataclass
class Durable:
    """What outlives a process: parts, numbered events, steps that are done."""

    parts: dict[Any, Part] = field(default_factory=dict)
    events: list[service_pb.WatchSurveyResponse] = field(default_factory=list)
    steps: set[int] = field(default_factory=set)
    writes: int = 0

    def draft(self) -> Draft:
        draft = Draft(survey_id="s1", spec=SPEC, labels={})
        for part in self.parts.values():
            draft.add(part)
        return draft


class Ports:
    """Writes at once, and kills the process instead of the write number `writes_left`."""

    def __init__(self, durable: Durable, writes_left: int) -> None:
        self.durable, self.left = durable, writes_left

    def _write(self) -> None:
        if self.left <= 0:
            raise Killed
        self.left -= 1
        self.durable.writes += 1

    async def run_step(self, stage: int, work: Any) -> None:
        if stage not in self.durable.steps:
            await work()
            self._write()
            self.durable.steps.add(stage)

    def emit(self, event: service_pb.WatchSurveyResponse, *parts: Part) -> None:
        self.keep(*parts)
        self.durable.events.append(event)

    def keep(self, *parts: Part) -> None:
        self._write()
        self.durable.parts |= {(part.kind, part.place): part for part in parts}

    def show(self, place: str, event_of: Any) -> None:
        assert event_of().WhichOneof("event") in {"stage_progress", "section_text"}

    async def flush(self) -> None:
        """Everything is written at once."""

    def cancelled(self) -> bool:
        return False


@contextlib.asynccontextmanager
async def services_of(fakes: Fakes):
    host = RoleServer("127.0.0.1:0")
    fakes.add_to(host)
    await host.start()
    names = ("retrieval", "embedding", "ordering", "generation", "summarization")
    services = connect(GatewaySettings(**dict.fromkeys(names, host.address)))
    try:
        yield services
    finally:
        await services.close()
        await host.stop(0)


def run_of(services: Services, durable: Durable, writes: int = 10_000) -> Run:
    """Return what a process begins with that dies at a write."""
    job = Job(
        number=1, survey_id="s1", tenant="default", request=service_pb.CreateSurveyRequest(spec=SPEC), spec=SPEC,
        state=pb.SURVEY_STATE_RUNNING, run=1, attempt=1, owner="me", created_at=0, deadline_at=None, finished_at=None,
        trace="",
    )  # fmt: skip
    return Run(
        draft=durable.draft(),
        tenant=job.tenant,
        services=services,
        patience=Patience(9),
        budget=SurveyBudget(job, None, services, PriceBook("")),
        ports=Ports(durable, writes),
        deadline=Deadline.after(30),
        sections_in_flight=9,
        absence_s=0,
    )


async def run(services: Services, durable: Durable, writes: int = 10_000) -> pb.Survey:
    """Run until the end, or until the process is killed; return what a reader sees then."""
    work = run_of(services, durable, writes)
    draft = work.draft
    with contextlib.suppress(Killed, StageFailed):
        draft.state = await run_pipeline(work)
    survey = survey_of(draft)
    for name in ("created_at", "search"):  # the search tells when it was answered
        survey.ClearField(name)
    for report in survey.stages:
        for name in ("started_at", "finished_at", "duration_ms", "attempt"):
            report.ClearField(name)
    return survey


async def test_killed_at_every_write_it_ends_the_same():
    async with services_of(Fakes()) as services:
        whole_durable = Durable()
        whole = await run(services, whole_durable)
        for writes_left in range(whole_durable.writes):
            durable = Durable()
            killed = await run(services, durable, writes_left)
            assert killed.state != pb.SURVEY_STATE_DONE
            assert await run(services, durable) == whole, f"killed instead of write {writes_left}"
            told = [e.section_finished for e in durable.events if e.HasField("section_finished")]
            places = [(each.chapter_number, each.section.number) for each in told]
            assert len(places) == len(set(places)) == 4

    assert whole.state == pb.SURVEY_STATE_DONE
    assert whole.coverage.cited_count == 20


async def test_killed_again_and_again_it_still_comes_to_its_end():
    """Each process lives for five writes, of which up to three only say that a stage has begun again."""
    async with services_of(Fakes()) as services:
        durable, starts = Durable(), 0
        while (survey := await run(services, durable, writes=5)).state != pb.SURVEY_STATE_DONE:
            starts += 1
            assert starts < 100

    assert survey.coverage.cited_count == 20
    started = Counter(e.stage_started.stage for e in durable.events if e.HasField("stage_started"))
    attempts = {e.stage_started.stage: e.stage_started.attempt for e in durable.events if e.HasField("stage_started")}
    assert attempts == dict(started)
    assert max(attempts.values()) > 1


async def test_what_is_kept_is_not_asked_for_again():
    fakes = Fakes()
    async with services_of(fakes) as services:
        durable = Durable()
        await run(services, durable, writes=20)
        kept = {place for kind, place in durable.parts if kind.value == "summary"}
        fakes.requests.clear()
        await run(services, durable)

    asked = {request.paper.paper_id for request in fakes.requests["SummarizePaper"]}
    assert kept
    assert not kept & asked
    assert "PlanSearch" not in fakes.requests


async def test_vectors_are_asked_for_again_by_the_encoder_that_made_them():
    """They are not in the journal; the embedding service keeps them."""
    fakes = Fakes()
    async with services_of(fakes) as services:
        durable = Durable()
        fakes.before["OrderPapers"] = fails(grpc.StatusCode.INTERNAL)
        await run(services, durable)
        del fakes.before["OrderPapers"]
        for kind, place in parts_to_redo(durable.draft()):
            del durable.parts[kind, place]
        durable.steps.clear()
        fakes.requests.clear()
        survey = await run(services, durable)

    assert survey.state == pb.SURVEY_STATE_DONE
    assert [request.encoder for request in fakes.requests["EmbedPapers"]] == ["fake:encoder"]


async def test_at_the_deadline_what_is_written_is_delivered_and_a_resumed_survey_does_the_rest():
    fakes = Fakes()
    async with services_of(fakes) as services:
        durable = Durable()

        over = asyncio.Event()

        async def too_slow(request: Any) -> None:
            if not (isinstance(request, generation_pb.WriteSectionRequest) and request.papers[0].key == "P1"):
                await over.wait()
                await fails(grpc.StatusCode.DEADLINE_EXCEEDED)(request)

        fakes.before["WriteSection"] = fakes.before["WriteFrame"] = too_slow
        work, write = run_of(services, durable), fakes.text_of
        draft = work.draft

        def in_the_last_second(request: Any) -> str:
            work.deadline = Deadline.after(0)
            over.set()
            return write(request)

        fakes.text_of = in_the_last_second
        state = await run_pipeline(work)
        draft.state = state
        partial = survey_of(draft)
        for kind, place in list(parts_to_redo(durable.draft())):
            del durable.parts[kind, place]
        durable.steps.clear()
        fakes.before.clear()
        fakes.text_of = write
        whole = await run(services, durable)

    assert state == pb.SURVEY_STATE_PARTIAL
    assert partial.title == SPEC.question
    assert 0 < partial.coverage.cited_count < 20
    assert partial.coverage.cited_count + partial.coverage.listed_count + partial.coverage.dropped_count == 20
    assert (whole.state, whole.coverage.cited_count, whole.title) == (pb.SURVEY_STATE_DONE, 20, "A title")
