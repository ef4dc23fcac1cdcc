"""Channels spread calls over all workers and live through the loss of one."""

import contextlib
from collections import Counter
from pathlib import Path

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from paperroute.v1 import survey_pb2
from paperroute.v1 import survey_service_pb2 as pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc

from services.common.channel import open_channel
from services.common.server import RoleServer
from services.common.telemetry.spans import span


class Worker(pb_grpc.SurveyServiceServicer):
    """Answers with its own name; refuses the first calls it is told to."""

    def __init__(self, name: str, refusals: int = 0) -> None:
        self.name, self.refusals, self.calls = name, refusals, Counter()

    async def _answer(self, method: str, context) -> survey_pb2.Survey:
        self.calls[method] += 1
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return survey_pb2.Survey(survey_id=self.name)

    async def GetSurvey(self, request, context):
        return pb.GetSurveyResponse(survey=await self._answer("GetSurvey", context))

    async def CreateSurvey(self, request, context):
        return pb.CreateSurveyResponse(survey=await self._answer("CreateSurvey", context))

    ListSurveys = WatchSurvey = CancelSurvey = GetSurvey


async def started(worker: Worker) -> RoleServer:
    host = RoleServer("127.0.0.1:0")
    pb_grpc.add_SurveyServiceServicer_to_server(worker, host.server)
    host.mounted("paperroute.v1.SurveyService")
    await host.start()
    return host


async def test_calls_go_to_all_workers_in_turn_and_past_one_that_is_gone():
    hosts = [await started(Worker(name)) for name in "ab"]
    async with open_channel(f"ipv4:{hosts[0].address},{hosts[1].address}") as channel:
        stub = pb_grpc.SurveyServiceStub(channel)

        async def who() -> str:
            return (await stub.GetSurvey(pb.GetSurveyRequest(), timeout=10, wait_for_ready=True)).survey.survey_id

        while {await who(), await who()} != {"a", "b"}:  # until both are connected
            pass
        both = Counter([await who() for _ in range(10)])
        await hosts[0].stop(0)
        left = Counter([await who() for _ in range(10)])
    await hosts[1].stop(0)

    assert both == {"a": 5, "b": 5}
    assert left == {"b": 10}


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        pytest.param("GetSurvey", 3, id="free to repeat: tried again"),
        pytest.param("CreateSurvey", 1, id="would start another survey: never tried again"),
    ],
)
async def test_only_what_is_free_to_repeat_is_tried_again(method: str, calls: int):
    worker = Worker("a", refusals=2)
    host = await started(worker)
    async with open_channel(host.address) as channel:
        call = getattr(pb_grpc.SurveyServiceStub(channel), method)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call(getattr(pb, f"{method}Request")(), timeout=10)
    await host.stop(0)

    assert worker.calls[method] == calls


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("services.common.telemetry.spans._tracer", provider.get_tracer("test"))
    return exporter


async def test_a_trace_goes_on_in_the_service_that_is_called(spans: InMemorySpanExporter, tmp_path: Path):
    host = await started(Worker("a"))
    async with open_channel(host.address) as channel:
        with span("caller") as caller:
            await pb_grpc.SurveyServiceStub(channel).GetSurvey(pb.GetSurveyRequest(), timeout=10)
    await host.stop(0)

    served = next(span for span in spans.get_finished_spans() if span.name.endswith("/GetSurvey"))
    assert served.context.trace_id == caller.get_span_context().trace_id
    assert served.parent.span_id == caller.get_span_context().span_id
    assert served.kind is trace.SpanKind.SERVER
