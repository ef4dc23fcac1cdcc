"""The client for programs, against a real gateway: what it adds to the bare stubs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import Fakes, papers
from gateways import Gateway, gateway_with
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from paperroute.v1 import usage_service_pb2 as usage_pb
from serving import served

from gateway.client import AsyncPaperRouteClient, PaperRouteClient, RequestFailed
from gateway.client import async_client as module
from services.common.server import RoleServer

QUESTION = "What about names?"
NOBODY = "127.0.0.1:1"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_with(Fakes(found=papers(6)), tmp_path) as running:
        yield running


async def test_a_question_becomes_a_survey(gateway: Gateway):
    async with AsyncPaperRouteClient(gateway.address) as client:
        made = await client.create_survey(QUESTION, max_papers=6, labels={"team": "a"})
        kinds = [event.WhichOneof("event") async for event in client.watch_survey(made.survey_id)]
        survey = await client.get_survey(made.survey_id)
        listed = [each.survey_id async for each in client.list_surveys(labels={"team": "a"}, page_size=1)]

    assert (survey.state, survey.spec.max_papers, survey.coverage.cited_count) == (pb.SURVEY_STATE_DONE, 6, 6)
    assert (kinds[0], kinds[-1]) == ("state_changed", "finished")
    assert listed == [made.survey_id]


async def test_a_program_without_an_event_loop_does_the_same(gateway: Gateway):
    def program() -> tuple[pb.Survey, list[str], int, list[str]]:
        with PaperRouteClient(gateway.address) as client:
            estimate = client.estimate_survey(QUESTION)
            made = client.create_survey(pb.SurveySpec(question=QUESTION))
            numbers = [str(event.number) for event in client.watch_survey(made.survey_id) if event.number]
            client.query_usage(group_by=[usage_pb.USAGE_DIMENSION_MODEL])
            survey = client.get_survey(made.survey_id)
            removed = client.delete_survey(made.survey_id)
            left = [each.survey_id for each in client.list_surveys()]
            assert estimate.paper_count > 0
            return survey, numbers, removed, left

    survey, numbers, removed, left = await asyncio.to_thread(program)

    assert survey.state == pb.SURVEY_STATE_DONE
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert (removed, left) == (4, [])


async def test_all_pages_come_as_one(gateway: Gateway):
    made = [await gateway.create() for _ in range(5)]
    async with AsyncPaperRouteClient(gateway.address) as client:
        listed = [survey.survey_id async for survey in client.list_surveys(page_size=2)]

    assert listed == made[::-1]


async def test_broken_fields_are_all_named(gateway: Gateway):
    async with AsyncPaperRouteClient(gateway.address) as client:
        with pytest.raises(RequestFailed) as failure:
            await client.create_survey("", max_papers=1)

    assert failure.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in failure.value.violations} == {"spec.question", "spec.max_papers"}


@pytest.mark.parametrize("method", ["get_survey", "cancel_survey", "resume_survey", "delete_survey"])
async def test_what_is_not_there_is_told(gateway: Gateway, method: str):
    async with AsyncPaperRouteClient(gateway.address) as client:
        with pytest.raises(RequestFailed) as failure:
            await getattr(client, method)("nowhere")

    assert (failure.value.code, failure.value.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert "nowhere" in str(failure.value)


async def test_a_gateway_that_is_not_there_is_told_with_advice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    async with AsyncPaperRouteClient(NOBODY) as client:
        with pytest.raises(RequestFailed, match=rf"no gateway answers at {NOBODY}; start one with: paperroute up"):
            await client.get_survey("any")
        with pytest.raises(RequestFailed, match="no gateway answers"):
            async for _ in client.watch_survey("any"):
                pass


async def test_a_missing_token_is_told_with_advice(tmp_path: Path):
    async with (
        gateway_with(Fakes(), tmp_path, auth="tokens") as running,
        AsyncPaperRouteClient(running.address) as client,
    ):
        with pytest.raises(RequestFailed, match="set PAPERROUTE_TOKEN") as failure:
            await client.admin.ListTenants(admin_pb.ListTenantsRequest())

    assert failure.value.code is grpc.StatusCode.UNAUTHENTICATED


class Breaking(pb_grpc.SurveyServiceServicer):
    """A gateway whose connections break: each watch, and each create, is cut short once."""

    def __init__(self) -> None:
        self.watches: list[int] = []
        self.creates: list[str] = []

    async def CreateSurvey(self, request: Any, context: Any) -> Any:
        self.creates.append(request.request_id)
        if len(self.creates) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        return service_pb.CreateSurveyResponse(survey=pb.Survey(survey_id="one"))

    async def WatchSurvey(self, request: Any, context: Any) -> Any:
        self.watches.append(request.after_number)
        if request.after_number == 0:
            yield _started(1)
            yield _text(1, 0, "Der ")
            yield _text(1, 4, "erste")
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        yield _text(1, 0, "Der erste Satz")
        yield _text(1, 14, ".")
        yield _restarted(2)
        yield _text(2, 0, "Neu.")
        yield service_pb.WatchSurveyResponse(number=2, finished=service_pb.SurveyFinished(state=pb.SURVEY_STATE_DONE))


def _started(number: int) -> service_pb.WatchSurveyResponse:
    return service_pb.WatchSurveyResponse(number=number, stage_started=service_pb.StageStarted(stage=pb.STAGE_WRITE))


def _text(attempt: int, offset: int, text: str) -> service_pb.WatchSurveyResponse:
    piece = service_pb.SectionProgress(chapter_number=1, section_number=1, attempt=attempt, offset=offset, text=text)
    return service_pb.WatchSurveyResponse(section_text=piece)


def _restarted(attempt: int) -> service_pb.WatchSurveyResponse:
    restarted = service_pb.SectionRestart(chapter_number=1, section_number=1, attempt=attempt)
    return service_pb.WatchSurveyResponse(section_restarted=restarted)


@pytest.fixture
async def breaking(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Breaking, str]]:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    servicer = Breaking()

    def mount(host: RoleServer, *_: object) -> None:
        pb_grpc.add_SurveyServiceServicer_to_server(servicer, host.server)
        host.mounted("paperroute.v1.SurveyService")

    async with served(mount, None) as address:
        yield servicer, address


async def test_a_watch_goes_on_over_a_lost_connection_and_says_nothing_twice(breaking: tuple[Breaking, str]):
    servicer, address = breaking
    async with AsyncPaperRouteClient(address) as client:
        events = [event async for event in client.watch_survey("one")]

    assert servicer.watches == [0, 1]
    assert [event.number for event in events if event.number] == [1, 2]
    texts = [(event.section_text.attempt, event.section_text.text) for event in events if event.section_text.text]
    assert "".join(text for attempt, text in texts if attempt == 1) == "Der erste Satz."
    assert "".join(text for attempt, text in texts if attempt == 2) == "Neu."
    assert [event.section_restarted.attempt for event in events if event.HasField("section_restarted")] == [2]


async def test_a_create_is_repeated_under_the_same_id(breaking: tuple[Breaking, str]):
    servicer, address = breaking
    async with AsyncPaperRouteClient(address) as client:
        survey = await client.create_survey(QUESTION)

    assert survey.survey_id == "one"
    assert len(servicer.creates) == 2
    assert len({*servicer.creates, ""}) == 2


async def test_a_watch_that_is_left_is_let_go(gateway: Gateway):
    async with AsyncPaperRouteClient(gateway.address) as client:
        made = await client.create_survey(QUESTION)
        async for _ in client.watch_survey(made.survey_id):
            break
        assert (await client.get_survey(made.survey_id)).survey_id == made.survey_id
