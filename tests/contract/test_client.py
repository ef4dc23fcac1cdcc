"""The client for programs, against a real gateway: what it adds to the bare stubs."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import Fakes, Gate, papers
from gateways import Gateway, gateway_with
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from paperroute.v1 import usage_service_pb2 as usage_pb
from serving import served

from gateway.client import AsyncPaperRouteClient, ClientSettings, PaperRouteClient, RequestFailed
from gateway.client import async_client as module
from services.common.errors import QueueFull, RateLimited
from services.common.server import RoleServer
from services.common.settings import SettingsError

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
    monkeypatch.setattr(module, "TRIES", 2)
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
        self.refusals: list[Exception] = []
        """What the next watches are refused with."""
        self.is_mute_at_first = False
        """Whether the first watch is never told anything."""
        self.is_left = asyncio.Event()
        """Whether a watch has been left by who asked for it."""

    async def CreateSurvey(self, request: Any, context: Any) -> Any:
        self.creates.append(request.request_id)
        if len(self.creates) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        return service_pb.CreateSurveyResponse(survey=pb.Survey(survey_id="one"))

    async def WatchSurvey(self, request: Any, context: Any) -> Any:
        self.watches.append(request.after_number)
        if self.refusals:
            raise self.refusals.pop(0)
        if self.is_mute_at_first and len(self.watches) == 1:
            try:
                await asyncio.Event().wait()
            finally:
                self.is_left.set()
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


async def test_a_watch_goes_on_after_its_time(breaking: tuple[Breaking, str], monkeypatch: pytest.MonkeyPatch):
    """A survey may take longer than a connection that nobody hears of any more is waited for."""
    servicer, address = breaking
    servicer.is_mute_at_first = True
    monkeypatch.setattr(module, "WATCH_TIMEOUT_S", 0.2)
    async with AsyncPaperRouteClient(address) as client:
        events = [event async for event in client.watch_survey("one", after_number=1)]

    assert servicer.watches == [1, 1]
    assert events[-1].WhichOneof("event") == "finished"


async def test_a_gateway_that_asks_for_patience_gets_it(breaking: tuple[Breaking, str]):
    """A watch that is asked for anew too soon must not end the watching."""
    servicer, address = breaking
    servicer.refusals = [RateLimited(5, retry_after_s=0.01), RateLimited(5, retry_after_s=0.01)]
    async with AsyncPaperRouteClient(address) as client:
        events = [event async for event in client.watch_survey("one", after_number=1)]

    assert servicer.watches == [1, 1, 1]
    assert events[-1].number == 2


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        pytest.param(QueueFull(5, retry_after_s=60), "try again in 60 s", id="busy for long"),
        pytest.param(RuntimeError("a bug"), "its log says more", id="a bug"),
    ],
)
async def test_what_will_not_pass_soon_is_told_at_once(breaking: tuple[Breaking, str], refusal: Exception, advice: str):
    servicer, address = breaking
    servicer.refusals = [refusal]
    async with AsyncPaperRouteClient(address) as client:
        with pytest.raises(RequestFailed, match=advice):
            [event async for event in client.watch_survey("one")]

    assert len(servicer.watches) == 1


async def test_a_watch_that_is_left_is_let_go(breaking: tuple[Breaking, str]):
    """Of either client: what nobody reads any more must not go on at the gateway."""
    servicer, address = breaking
    servicer.is_mute_at_first = True

    async with AsyncPaperRouteClient(address) as client:
        watching = asyncio.create_task(anext(client.watch_survey("one")))
        await seen(lambda: servicer.watches)
        watching.cancel()
        async with asyncio.timeout(5):
            await servicer.is_left.wait()


async def test_a_loop_that_is_left_lets_its_watch_go(gateway: Gateway):
    gate = Gate()
    gateway.fakes.before["PlanSearch"] = gate

    def program() -> str:
        with PaperRouteClient(gateway.address) as client:
            made = client.create_survey(QUESTION)
            for event in client.watch_survey(made.survey_id):
                assert event.number == 1
                break
            return client.get_survey(made.survey_id).survey_id

    survey_id = await asyncio.to_thread(program)

    assert (await gateway.get(survey_id)).state in {pb.SURVEY_STATE_QUEUED, pb.SURVEY_STATE_RUNNING}
    gate.opened.set()
    await gateway.events(survey_id)


async def test_threads_share_a_client(gateway: Gateway):
    def program() -> list[pb.Survey]:
        with PaperRouteClient(gateway.address) as client, ThreadPoolExecutor(8) as threads:

            def made(_: int) -> pb.Survey:
                survey_id = client.create_survey(QUESTION).survey_id
                kinds = [event.WhichOneof("event") for event in client.watch_survey(survey_id)]
                assert kinds[-1] == "finished"
                return client.get_survey(survey_id)

            return list(threads.map(made, range(8)))

    surveys = await asyncio.to_thread(program)

    assert {survey.state for survey in surveys} == {pb.SURVEY_STATE_DONE}
    assert len({survey.survey_id for survey in surveys}) == 8


async def test_who_waits_is_told_that_another_thread_closed_the_client(breaking: tuple[Breaking, str]):
    servicer, address = breaking
    servicer.is_mute_at_first = True
    client = PaperRouteClient(address)
    waiting = asyncio.create_task(asyncio.to_thread(lambda: next(client.watch_survey("one"))))
    await seen(lambda: servicer.watches)
    await asyncio.gather(*(asyncio.to_thread(client.close) for _ in range(3)))

    with pytest.raises(RequestFailed, match="the client was closed"):
        await waiting
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.get_survey("one")
    with pytest.raises(RuntimeError, match="the client is closed"):
        next(client.watch_survey("one"))
    assert not [thread for thread in threading.enumerate() if thread.name == "paperroute-client"]


def test_settings_that_cannot_be_used_leave_no_thread_behind():
    with pytest.raises(SettingsError, match="PAPERROUTE_CA"):
        PaperRouteClient("gateway.example:443", ClientSettings(token="a-token-of-twenty-characters"))

    assert not [thread for thread in threading.enumerate() if thread.name == "paperroute-client"]


def test_a_program_that_forgets_to_close_it_ends_all_the_same():
    code = (
        "from gateway.client import PaperRouteClient, RequestFailed\n"
        f"client = PaperRouteClient('{NOBODY}')\n"
        "try:\n    client.get_survey('one')\nexcept RequestFailed as failure:\n    print(failure.reason)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert (ended.returncode, ended.stdout) == (0, "UNAVAILABLE\n")
    assert "Traceback" not in ended.stderr


async def seen(is_there: Callable[[], object]) -> None:
    """Wait until something is there."""
    async with asyncio.timeout(10):
        while not is_there():
            await asyncio.sleep(0.01)
