"""What a gateway counts of surveys, and what its gauges tell of all replicas."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from fakes import MODEL, Fakes, Gate, fails, papers
from gateways import Gateway, gateway_with
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_pb2
from telemetered import Telemetry, telemetered

import gateway.jobs.gauges

PATIENCE_S = 20
PAID = pb.SurveySpec(question="Names?", models=pb.ModelChoice(plan="openai:gpt-6-luna"))


@pytest.fixture
def seen() -> Iterator[Telemetry]:
    with telemetered() as received:
        yield received


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def cancel(gateway: Gateway, survey_id: str) -> None:
    await gateway.stub.CancelSurvey(service_pb.CancelSurveyRequest(survey_id=survey_id), timeout=5)


async def test_surveys_are_counted_by_how_they_ended_each_once(seen: Telemetry, tmp_path: Path):
    """One that is cancelled while it waits has ended too, but never had a turn."""
    gate = Gate()
    fakes = Fakes(found=papers(3))
    async with gateway_with(fakes, tmp_path, max_running_surveys=1, service_absence_s=0) as gateway:
        await gateway.finished()
        fakes.before["OrderPapers"] = fails(grpc.StatusCode.INTERNAL)
        await gateway.finished()
        fakes.before["OrderPapers"] = gate
        running, waiting = await gateway.create(), await gateway.create()
        await gate.entered.wait()
        for survey_id in (waiting, running, running):
            await cancel(gateway, survey_id)
        fakes.found = []
        await gateway.finished()
        await until(lambda: sum(seen.counts("paperroute.survey.cost").values()) == 5)

    ends = {("done",): 1, ("failed",): 1, ("cancelled",): 2, ("no_papers",): 1}
    assert seen.sums("paperroute.surveys", "paperroute.state") == ends
    assert seen.counts("paperroute.survey.cost", "paperroute.state") == ends
    assert seen.counts("paperroute.survey.duration", "paperroute.state") == {**ends, ("cancelled",): 1}
    assert seen.counts("paperroute.queue.wait") == {(): 4}


async def test_stages_are_timed_by_how_they_ended(seen: Telemetry, tmp_path: Path):
    fakes = Fakes(found=papers(3), before={"OrderPapers": fails(grpc.StatusCode.INTERNAL), "SummarizePaper": Gate()})
    async with gateway_with(fakes, tmp_path, service_absence_s=0) as gateway:
        await gateway.finished()

    ends = seen.counts("paperroute.stage.duration", "paperroute.stage", "paperroute.state")
    assert ends["order", "failed"] == ends["plan", "done"] == ends["embed", "done"] == 1
    assert ends["summarize", "cancelled"] == 1
    assert sum(ends.values()) == 5


async def test_a_survey_that_is_resumed_waits_and_ends_again(seen: Telemetry, tmp_path: Path):
    fakes = Fakes(found=papers(1), before={"WriteFrame": fails(grpc.StatusCode.INTERNAL)})
    async with gateway_with(fakes, tmp_path, service_absence_s=0) as gateway:
        survey_id = (await gateway.finished()).survey_id
        fakes.before.clear()
        await gateway.resume(survey_id)
        await gateway.events(survey_id)
        await until(lambda: sum(seen.counts("paperroute.survey.cost").values()) == 2)

    assert seen.sums("paperroute.surveys", "paperroute.state") == {("failed",): 1, ("done",): 1}
    assert seen.counts("paperroute.queue.wait") == {(): 2}


async def test_a_cost_is_counted_when_it_is_the_last_word(seen: Telemetry, tmp_path: Path):
    """A call that is under way at the end of its survey counts as what it came to, not at its worst, and only once."""
    call = usage_pb2.RecordedCall(
        stage="plan",
        outcome=usage_pb2.CALL_OUTCOME_IN_FLIGHT,
        usage=usage_pb2.ModelUsage(model=MODEL, call_count=1),
        worst_cost_nano_usd=10**12,
    )
    fakes = Fakes(found=papers(1), recorded=[call])
    async with gateway_with(fakes, tmp_path) as gateway:
        survey = await gateway.finished(PAID)
        before = seen.counts("paperroute.survey.cost")
        call.usage.cost_nano_usd, call.outcome = 5_000_000_000, usage_pb2.CALL_OUTCOME_OK
        await until(lambda: bool(seen.counts("paperroute.survey.cost")))
        settled = await gateway.get(survey.survey_id)

    assert (before, survey.stages[0].usage[0].cost_nano_usd) == ({}, 10**12)
    assert settled.stages[0].usage[0].cost_nano_usd == 5_000_000_000
    assert seen.counts("paperroute.survey.cost", "paperroute.state") == {("done",): 1}
    assert seen.sums("paperroute.survey.cost")[()] == pytest.approx(5.0, abs=1e-6)


@pytest.fixture
def fresh_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are scraped, and gauges are no older than a moment."""
    monkeypatch.setenv("PAPERROUTE_METRICS_LISTEN", "127.0.0.1:0")
    monkeypatch.setattr(gateway.jobs.gauges, "REFRESH_S", 0.02)


async def test_gauges_tell_of_the_queue_and_of_silent_surveys(seen: Telemetry, tmp_path: Path, fresh_gauges: None):
    gate = Gate()
    fakes = Fakes(found=papers(1), before={"OrderPapers": gate})

    def told(name: str) -> float | None:
        return seen.sums(f"paperroute.{name}").get(())

    async with gateway_with(fakes, tmp_path, max_running_surveys=1) as served:
        await until(lambda: told("queue.depth") == told("surveys.running") == told("survey.silence") == 0)
        surveys = [await served.create() for _ in range(3)]
        await gate.entered.wait()
        await until(lambda: (told("queue.depth"), told("surveys.running")) == (2, 1))
        await until(lambda: (told("survey.silence") or 0) > 0.1)
        gate.opened.set()
        for survey_id in surveys:
            await served.events(survey_id)
        await until(lambda: told("queue.depth") == told("surveys.running") == told("survey.silence") == 0)

    assert told("queue.depth") is None  # who has stopped tells nothing


async def test_gauges_are_not_read_where_no_metrics_are_exported(seen: Telemetry, tmp_path: Path):
    async with gateway_with(Fakes(found=papers(1)), tmp_path) as served:
        await served.finished()

        assert seen.sums("paperroute.queue.depth") == {}
