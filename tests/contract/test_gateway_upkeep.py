"""What happens to surveys that have ended: the old ones go, and costs are read although who ran them has died."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import MODEL, Fakes, Gate, fails, papers
from gateways import gateway_with
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_pb2
from sqlalchemy import text

from gateway.store.schema import gateway_database
from services.common.settings import SharedSettings

PAID = pb.SurveySpec(question="Names?", models=pb.ModelChoice(plan="openai:gpt-6-luna"))
DAY_S = 86_400


async def changed(data_dir: Path, statement: str) -> None:
    """Change what a gateway that is not running has kept."""
    database = gateway_database(SharedSettings(data_dir=data_dir))
    await database.run(lambda connection: connection.execute(text(statement)))
    await database.close()


async def until(is_so: Any) -> None:
    async with asyncio.timeout(20):
        while not await is_so():
            await asyncio.sleep(0.05)


async def test_surveys_beyond_their_age_are_removed_with_their_answers(tmp_path: Path):
    async with gateway_with(Fakes(found=papers(1)), tmp_path) as gateway:
        old, young = [(await gateway.finished()).survey_id for _ in range(2)]
    await changed(tmp_path, f"UPDATE survey SET created_at = created_at - {8 * DAY_S} WHERE survey_id = '{old}'")  # noqa: S608
    async with gateway_with(Fakes(found=papers(1)), tmp_path, retention_days=7) as gateway:

        async def is_gone() -> bool:
            page = await gateway.stub.ListSurveys(service_pb.ListSurveysRequest(), timeout=5)
            return [survey.survey_id for survey in page.surveys] == [young]

        await until(is_gone)
        asked = gateway.fakes.requests["DeleteCalls"]

    assert [request.survey_id for request in asked] == [old]


async def test_what_a_dead_gateway_did_not_settle_is_settled_by_the_next(tmp_path: Path):
    """Otherwise a survey whose gateway died right after its end would cost nothing in the books."""
    async with gateway_with(Fakes(found=papers(1)), tmp_path) as gateway:
        survey_id = (await gateway.finished(PAID)).survey_id
    await changed(tmp_path, "UPDATE survey SET settled_at = NULL, finished_at = finished_at - 600")
    late = usage_pb2.ModelUsage(model=MODEL, call_count=1, input_tokens=10, cost_nano_usd=5_000)
    recorded = [usage_pb2.RecordedCall(stage="plan", outcome=usage_pb2.CALL_OUTCOME_OK, usage=late)]
    async with gateway_with(Fakes(recorded=recorded), tmp_path) as gateway:

        async def is_settled() -> bool:
            return (await gateway.get(survey_id)).stages[0].usage[0].cost_nano_usd == 5_000

        await until(is_settled)


async def test_a_service_that_is_away_keeps_a_survey_from_being_removed(tmp_path: Path):
    """Its recorded answers hold the question too: all or nothing."""
    fakes = Fakes(found=papers(1), before={"DeleteCalls": fails(grpc.StatusCode.UNAVAILABLE)})
    async with gateway_with(fakes, tmp_path) as gateway:
        survey_id = (await gateway.finished()).survey_id
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await gateway.stub.DeleteSurvey(service_pb.DeleteSurveyRequest(survey_id=survey_id), timeout=15)
        kept = await gateway.get(survey_id)
        del fakes.before["DeleteCalls"]
        await gateway.stub.DeleteSurvey(service_pb.DeleteSurveyRequest(survey_id=survey_id), timeout=15)

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert kept.survey_id == survey_id


async def test_a_survey_that_is_interrupted_again_and_again_is_given_up(tmp_path: Path):
    """It may be what ends the processes. One that gets on between two interruptions is not."""
    for _ in range(2):
        gate = Gate()
        async with gateway_with(Fakes(before={"PlanSearch": gate}), tmp_path) as gateway:
            page = await gateway.stub.ListSurveys(service_pb.ListSurveysRequest(), timeout=5)
            survey_id = page.surveys[0].survey_id if page.surveys else await gateway.create()
            await asyncio.wait_for(gate.entered.wait(), 20)
    async with gateway_with(Fakes(), tmp_path, max_interruptions=2) as gateway:
        events = await gateway.events(survey_id)
        given_up = await gateway.get(survey_id)
        await gateway.resume(survey_id)
        await gateway.events(survey_id)
        resumed = await gateway.get(survey_id)

    assert (given_up.state, given_up.failure.reason) == (pb.SURVEY_STATE_FAILED, "REPEATEDLY_INTERRUPTED")
    assert events[-1].failed == given_up.failure
    assert resumed.state == pb.SURVEY_STATE_DONE
