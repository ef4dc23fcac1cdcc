"""One trace a survey: the caller's, over runs of several gateways, and what its spans tell."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import MODEL, Fakes, Gate, fails, papers
from gateways import SPEC, gateway_with
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_pb2, writing_pb2
from sqlalchemy import text
from telemetered import Telemetry, telemetered

from gateway.pipeline.stage_span import MAX_EVENTS
from gateway.store.schema import gateway_database
from services.common.settings import SharedSettings

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["plan", "retrieve", "embed", "order", "summarize", "write", "frame", "assemble"]
PATIENCE_S = 20


@pytest.fixture
def seen() -> Iterator[Telemetry]:
    with telemetered() as received:
        yield received


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def linked(span: ReadableSpan) -> list[str]:
    return [f"{link.context.span_id:016x}" for link in span.links]


def of(seen: Telemetry, name: str) -> list[ReadableSpan]:
    return [span for span in seen.spans if span.name == name]


def one(seen: Telemetry, name: str) -> ReadableSpan:
    (found,) = of(seen, name)
    return found


def stage_ends(seen: Telemetry) -> Counter[tuple[str, str]]:
    """Return how often each stage ended in which state."""
    found = [span.attributes or {} for span in seen.spans if span.name.startswith("survey.")]
    stages = [each for each in found if "paperroute.stage" in each and "paperroute.item" not in each]
    return Counter((each["paperroute.stage"], each["paperroute.state"]) for each in stages)


async def until(is_so: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_a_survey_is_one_trace_below_its_callers_span(seen: Telemetry, tmp_path: Path):
    async with gateway_with(Fakes(), tmp_path) as gateway:
        request = service_pb.CreateSurveyRequest(spec=SPEC)
        metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)
        made = await gateway.stub.CreateSurvey(request, metadata=metadata, timeout=5)
        await gateway.events(made.survey.survey_id)
        await until(lambda: of(seen, "survey.run"))

    created, run = one(seen, "paperroute.v1.SurveyService/CreateSurvey"), one(seen, "survey.run")
    assert (trace_of(created), parent_of(created)) == (TRACE, CALLER)
    assert (trace_of(run), parent_of(run), linked(run)) == (TRACE, id_of(created), [])
    assert stage_ends(seen) == {(stage, "done"): 1 for stage in STAGES}
    stages = {id_of(span): span for span in seen.spans if parent_of(span) == id_of(run)}
    assert {f"survey.{stage}" for stage in STAGES} <= {span.name for span in stages.values()}
    asked = [span for span in seen.spans if span.name.endswith(("/SummarizePaper", "/WriteSection", "/SearchPapers"))]
    assert len(asked) == 20 + 4 + 1
    assert {stages[parent_of(span)].name for span in asked} == {"survey.summarize", "survey.write", "survey.retrieve"}
    assert created.attributes["paperroute.survey_id"] == made.survey.survey_id == run.attributes["paperroute.survey_id"]
    assert SPEC.question not in str(
        [(span.attributes, [event.attributes for event in span.events]) for span in seen.spans]
    )


async def test_spans_tell_what_was_worked_on_and_what_it_cost(seen: Telemetry, tmp_path: Path):
    async with gateway_with(Fakes(found=papers(7)), tmp_path) as gateway:
        survey = await gateway.finished()
        await until(lambda: of(seen, "survey.run"))

    retrieve, embed, write = (one(seen, f"survey.{name}").attributes for name in ("retrieve", "embed", "write"))
    assert (retrieve["paperroute.source"], retrieve["paperroute.match"]) == ("sample", "all_words")
    assert (embed["paperroute.paper_count"], embed["paperroute.cached_count"]) == (7, 3)
    assert (write["paperroute.call_count"], write["paperroute.input_tokens"]) == (2, 20)
    assert (write["paperroute.cost_usd"], write["paperroute.models"]) == (14e-9, (MODEL,))
    run = one(seen, "survey.run").attributes
    assert (run["paperroute.state"], run["paperroute.paper_count"], run["paperroute.attempt"]) == ("done", 7, 1)
    assert run["paperroute.call_count"] == sum(usage.call_count for usage in survey.usage)
    assert run["paperroute.unpriced"] == (MODEL,)  # that of the frame


async def test_a_run_links_to_the_run_before_on_whichever_gateway(
    seen: Telemetry, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PAPERROUTE_DATABASE_URL", database_url)
    gate = Gate()
    fakes = Fakes(before={"WriteFrame": gate})
    async with gateway_with(fakes, tmp_path) as gateway:
        survey_id = await gateway.create()
        await gate.entered.wait()
        await gateway.first(survey_id, lambda event: event.stage_finished.report.stage == pb.STAGE_WRITE)
    gate.opened.set()
    async with gateway_with(fakes, tmp_path) as gateway:
        await gateway.events(survey_id)
        await until(lambda: len(of(seen, "survey.run")) == 2)

    first, second = of(seen, "survey.run")
    assert [span.attributes["paperroute.attempt"] for span in (first, second)] == [1, 2]
    assert parent_of(first) == parent_of(second) == id_of(one(seen, "paperroute.v1.SurveyService/CreateSurvey"))
    assert (linked(first), linked(second)) == ([], [id_of(first)])
    assert first.attributes["error.type"] == "CancelledError"
    assert second.attributes["paperroute.state"] == "done"
    assert stage_ends(seen) == {**{(stage, "done"): 1 for stage in STAGES}, ("frame", "cancelled"): 1}
    frame = next(span for span in of(seen, "survey.frame") if span.attributes["paperroute.state"] == "done")
    assert (parent_of(frame), frame.attributes["paperroute.attempt"]) == (id_of(second), 2)


async def test_a_failure_is_told_with_its_reason_and_a_resumed_survey_stays_in_its_trace(
    seen: Telemetry, tmp_path: Path
):
    fakes = Fakes(before={"WriteFrame": fails(grpc.StatusCode.INTERNAL)})
    async with gateway_with(fakes, tmp_path, service_absence_s=0) as gateway:
        survey_id = await gateway.create()
        await gateway.events(survey_id)
        await until(lambda: of(seen, "survey.run"))
        fakes.before.clear()
        await gateway.resume(survey_id)
        await gateway.events(survey_id)
        await until(lambda: len(of(seen, "survey.run")) == 2)

    failed, done = of(seen, "survey.run")
    frame = of(seen, "survey.frame")[0]
    for span, error_type in ((frame, "AioRpcError"), (failed, "INTERNAL")):
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes["error.type"], span.attributes["paperroute.state"]) == (error_type, "failed")
        assert (span.attributes["paperroute.reason"], span.attributes["paperroute.stage"]) == ("INTERNAL", "frame")
    assert (trace_of(done), linked(done)) == (trace_of(failed), [id_of(failed)])
    assert (done.status.status_code, done.attributes["paperroute.state"]) == (StatusCode.UNSET, "done")
    assert trace_of(one(seen, "paperroute.v1.SurveyService/ResumeSurvey")) != trace_of(done)


async def test_a_section_written_again_is_in_the_surveys_trace(seen: Telemetry, tmp_path: Path):
    async with gateway_with(Fakes(), tmp_path) as gateway:
        survey = await gateway.finished()
        request = service_pb.RewriteSectionRequest(survey_id=survey.survey_id, chapter_number=1, section_number=2)
        await gateway.stub.RewriteSection(request, timeout=5)
        await until(lambda: of(seen, "paperroute.v1.SurveyService/RewriteSection"))

    rewrite, run = one(seen, "survey.rewrite"), one(seen, "survey.run")
    asked = one(seen, "paperroute.v1.SurveyService/RewriteSection")
    assert (trace_of(rewrite), parent_of(rewrite)) == (trace_of(run), parent_of(run))
    assert linked(rewrite) == [id_of(asked), id_of(run)]
    assert (rewrite.attributes["paperroute.item"], rewrite.attributes["paperroute.call_count"]) == ("1.2", 1)
    sections = of(seen, "paperroute.v1.GenerationService/WriteSection")
    assert [trace_of(each) for each in sections].count(trace_of(rewrite)) == 4 + 1


async def test_losses_and_stand_ins_are_events_in_bounded_number(seen: Telemetry, tmp_path: Path):
    count = MAX_EVENTS + 5
    is_odd = fails(grpc.StatusCode.DATA_LOSS, lambda request: int(request.paper.paper_id[-1]) % 2 == 1)
    flag = writing_pb2.TextFlag(kind=writing_pb2.TEXT_FLAG_KIND_UNSUPPORTED, sentence="A secret.")
    fields = {"fallback_reason": "a secret reason", "flags": [flag, flag]}
    fakes = Fakes(found=papers(2 * count), before={"SummarizePaper": is_odd}, section_fields=fields)
    async with gateway_with(fakes, tmp_path) as gateway:
        await gateway.finished()
        await until(lambda: of(seen, "survey.run"))

    summarize, write = one(seen, "survey.summarize"), one(seen, "survey.write")
    dropped = [event for event in summarize.events if event.name == "paperroute.dropped"]
    assert (summarize.attributes["paperroute.lost_count"], len(dropped)) == (count, MAX_EVENTS)
    assert all(event.attributes["paperroute.reason"].endswith("DATA_LOSS") for event in dropped)
    stood_in = [event.attributes["paperroute.item"] for event in write.events if event.name == "paperroute.fallback"]
    assert write.attributes["paperroute.fallback_count"] == len(stood_in) > 0
    assert write.attributes["paperroute.flag_count"] == 2 * len(stood_in)
    assert "secret" not in texts_of(seen.spans)


def texts_of(spans: Sequence[ReadableSpan]) -> str:
    return str(
        [(dict(span.attributes or {}), [dict(event.attributes or {}) for event in span.events]) for span in spans]
    )


async def test_what_the_ledger_served_is_told_apart(seen: Telemetry, tmp_path: Path):
    served = usage_pb2.ModelUsage(
        model=MODEL, served_call_count=1, served_input_tokens=10, avoided_cost_nano_usd=5, cost_nano_usd=0
    )
    async with gateway_with(Fakes(section_usage=served), tmp_path) as gateway:
        survey = await gateway.finished()
        await until(lambda: of(seen, "survey.run"))

    write = one(seen, "survey.write").attributes
    assert (write["paperroute.served_call_count"], write["paperroute.avoided_cost_usd"]) == (4, 20e-9)
    assert (write["paperroute.call_count"], write["paperroute.cost_usd"]) == (0, 0)
    assert survey.usage[0].served_call_count == 4


async def test_a_cancelled_run_says_so(seen: Telemetry, tmp_path: Path):
    gate = Gate()
    async with gateway_with(Fakes(before={"OrderPapers": gate}), tmp_path) as gateway:
        survey_id = await gateway.create()
        await gate.entered.wait()
        await gateway.stub.CancelSurvey(service_pb.CancelSurveyRequest(survey_id=survey_id), timeout=5)
        await until(lambda: of(seen, "survey.run"))

    assert one(seen, "survey.run").attributes["paperroute.state"] == "cancelled"
    assert stage_ends(seen)["order", "cancelled"] == 1


async def test_without_telemetry_no_trace_is_kept(tmp_path: Path):
    async with gateway_with(Fakes(found=papers(1)), tmp_path) as gateway:
        await gateway.finished()
    database = gateway_database(SharedSettings(data_dir=tmp_path))
    query = text("SELECT trace, run_trace FROM survey")
    rows = await database.read(lambda connection: connection.execute(query).all())
    await database.close()

    assert [tuple(row) for row in rows] == [("", "")]
