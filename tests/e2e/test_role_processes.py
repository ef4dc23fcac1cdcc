"""Every role as a process of its own: a question becomes a survey, and a role may go and come back."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from paperroute.v1 import search_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from processes import Cluster
from standins.otlp_collector import OtlpCollector, ReceivedSpan, otlp_collector

from services.common.settings import ROLES

pytestmark = pytest.mark.timeout(240)
QUESTION = "画像生成のLoRA周りの技術トレンドを網羅的に知りたいです"
STAGES = [name.removeprefix("STAGE_").lower() for name in pb.Stage.keys()[1:]]
SAMPLE = Path(__file__).parents[2] / "services/retrieval/sample_library.jsonl"


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpCollector]:
    with otlp_collector() as made:
        yield made


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory, collector: OtlpCollector) -> Iterator[Cluster]:
    settings = {"PAPERROUTE_OTLP_ENDPOINT": collector.endpoint, "PAPERROUTE_GATEWAY__SERVICE_ABSENCE_S": "1"}
    made = Cluster(tmp_path_factory.mktemp("roles"), settings)
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.close())


async def survey_by(roles: Cluster, question: str = QUESTION) -> pb.Survey:
    async with grpc.aio.insecure_channel(roles.addresses["gateway"]) as channel:
        stub = pb_grpc.SurveyServiceStub(channel)
        spec = pb.SurveySpec(question=question, source=search_pb2.SOURCE_SAMPLE)
        created = await stub.CreateSurvey(service_pb.CreateSurveyRequest(spec=spec), timeout=20)
        watch = service_pb.WatchSurveyRequest(survey_id=created.survey.survey_id)
        async for _ in stub.WatchSurvey(watch, timeout=120):
            pass
        get = service_pb.GetSurveyRequest(survey_id=created.survey.survey_id)
        return (await stub.GetSurvey(get, timeout=20)).survey


async def test_a_question_becomes_a_survey_of_the_sample_library(roles: Cluster):
    survey = await survey_by(roles)
    known = {json.loads(line)["id"] for line in SAMPLE.read_text().splitlines()}

    assert survey.state == pb.SURVEY_STATE_DONE, survey.failure
    assert survey.coverage.kept_count >= 25
    assert survey.coverage.cited_count + survey.coverage.listed_count == survey.coverage.kept_count
    assert len(survey.chapters) >= 3
    assert {paper.paper.paper_id for paper in survey.papers} <= known


async def test_one_trace_holds_every_stage_with_its_tokens_and_cost(roles: Cluster, collector: OtlpCollector):
    """What a query costs must be readable from its trace alone, across all services."""
    survey = await survey_by(roles, "RAGの評価指標について網羅的に教えて")
    spans = await _trace_of(survey.survey_id, collector)

    by_id = {span.span_id: span for span in spans}
    run = next(span for span in spans if span.name == "survey.run")
    assert by_id[run.parent_id].name == "paperroute.v1.SurveyService/CreateSurvey"
    assert by_id[run.parent_id].parent_id == ""
    stages = [span for span in spans if "paperroute.stage" in span.attributes]
    assert sorted(span.attributes["paperroute.stage"] for span in stages) == sorted(STAGES)
    assert {span.parent_id for span in stages} == {run.span_id}
    for span in stages:
        found = {name: span.attributes[name] for name in span.attributes if "tokens" in name or "cost" in name}
        assert {name.removeprefix("paperroute.") for name in found} == {
            "input_tokens",
            "output_tokens",
            "cost_usd",
            "avoided_cost_usd",
        }
        assert set(found.values()) == {0}
    assert {span.service for span in spans} == {f"paperroute-{role}" for role in ROLES}
    summaries = [span for span in spans if span.name.endswith("/SummarizePaper")]
    assert len(summaries) == survey.coverage.kept_count
    assert {by_id[span.parent_id].attributes["paperroute.stage"] for span in summaries} == {"summarize"}


@pytest.mark.parametrize(
    ("role", "stage", "service"),
    [
        ("ordering", pb.STAGE_ORDER, "paperroute.v1.OrderingService"),
        ("summarization", pb.STAGE_SUMMARIZE, "paperroute.v1.SummarizationService"),
        ("retrieval", pb.STAGE_RETRIEVE, "paperroute.v1.RetrievalService"),
    ],
)
async def test_a_stopped_role_is_named_and_one_that_returns_is_used(
    roles: Cluster, role: str, stage: pb.Stage.ValueType, service: str
):
    assert await roles.stop(role) == 0, roles.log(role)
    failed = await survey_by(roles)
    await roles.start([role])
    again = await survey_by(roles)

    assert failed.state == pb.SURVEY_STATE_FAILED
    assert (failed.failure.stage, failed.failure.service) == (stage, service)
    assert failed.failure.status == "UNAVAILABLE"
    assert f"paperroute serve {role}" in failed.failure.message
    assert list(failed.search_terms)
    assert again.state == pb.SURVEY_STATE_DONE, again.failure


async def _trace_of(survey_id: str, collector: OtlpCollector) -> list[ReceivedSpan]:
    """Return the spans of a survey's trace once its root and all roles have sent theirs."""
    async with asyncio.timeout(30):
        while True:
            roots = [span for span in collector.spans if span.attributes.get("paperroute.survey_id") == survey_id]
            spans = [span for span in collector.spans if roots and span.trace_id == roots[0].trace_id]
            if {f"paperroute-{role}" for role in ROLES} <= {span.service for span in spans} and len(roots) > 1:
                return spans
            await asyncio.sleep(0.1)
