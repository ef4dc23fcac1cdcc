"""What every server promises, whatever service is mounted on it."""

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from paperroute.v1 import survey_service_pb2 as pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from serving import serving

from services.common import errors
from services.common.server import RoleServer
from services.common.settings import SettingsError

SERVICE = "paperroute.v1.SurveyService"


class Failing(pb_grpc.SurveyServiceServicer):
    """Raises what it is asked for by the survey_id."""

    async def GetSurvey(self, request, context):
        if request.survey_id == "bug":
            raise ZeroDivisionError("the secret is 42")
        if request.survey_id == "inner":
            status = errors.status_of(errors.UpstreamFailed("arXiv", "gone", retry_after_s=1))
            metadata = grpc.aio.Metadata((errors.DETAILS_KEY, status.SerializeToString()))
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), metadata, status.message)
        raise errors.NotFound("survey", request.survey_id)

    async def WatchSurvey(self, request, context):
        yield pb.WatchSurveyResponse(number=1)
        raise errors.NotFound("survey", request.survey_id)

    CreateSurvey = ListSurveys = CancelSurvey = GetSurvey


def mount(host: RoleServer, settings: object, shared: object) -> None:
    pb_grpc.add_SurveyServiceServicer_to_server(Failing(), host.server)
    host.mounted(SERVICE)


@pytest.fixture
async def channel(tmp_path: Path):
    async with serving(mount, None, tmp_path) as opened:
        yield opened


async def failure_of(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return failure.value


async def test_our_errors_become_their_status(channel):
    failure = await failure_of(
        pb_grpc.SurveyServiceStub(channel).GetSurvey(pb.GetSurveyRequest(survey_id="x"), timeout=5)
    )

    assert failure.code() is grpc.StatusCode.NOT_FOUND
    assert errors.reason_in(failure) == "NOT_FOUND"


async def test_a_failure_in_the_middle_of_a_stream_keeps_its_status(channel):
    received = []

    async def watch():
        async for event in pb_grpc.SurveyServiceStub(channel).WatchSurvey(pb.WatchSurveyRequest(), timeout=5):
            received.append(event.number)  # noqa: PERF401 - what came before the failure must be kept

    failure = await failure_of(watch())

    assert received == [1]
    assert failure.code() is grpc.StatusCode.NOT_FOUND


async def test_a_bug_is_hidden_behind_internal(channel, caplog):
    """A traceback may hold a question, a key or a path; it belongs into the log."""
    stub = pb_grpc.SurveyServiceStub(channel)

    failure = await failure_of(stub.GetSurvey(pb.GetSurveyRequest(survey_id="bug"), timeout=5))

    assert (failure.code(), failure.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "ZeroDivisionError" in caplog.text


async def test_the_status_of_a_service_behind_passes_unchanged(channel):
    stub = pb_grpc.SurveyServiceStub(channel)

    failure = await failure_of(stub.GetSurvey(pb.GetSurveyRequest(survey_id="inner"), timeout=10))

    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert errors.reason_in(failure) == "UPSTREAM_FAILED"


@pytest.mark.parametrize("method", ["GetSurvey", "WatchSurvey"])
async def test_bytes_that_are_no_message_are_refused_as_invalid(channel, method: str):
    """Neither UNKNOWN nor INTERNAL: the fault is the caller's."""
    path = f"/{SERVICE}/{method}"
    if method == "GetSurvey":
        call = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)(b"\xff\xff", timeout=5)
    else:
        stream = channel.unary_stream(path, request_serializer=bytes, response_deserializer=bytes)
        call = stream(b"\xff\xff", timeout=5).read()

    failure = await failure_of(call)

    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_health_knows_the_server_and_its_services(channel):
    stub = health_pb2_grpc.HealthStub(channel)

    for name in ("", SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_describes_the_contract(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)

    answer = await stub.ServerReflectionInfo(iter([asked]), timeout=5).read()

    names = []
    for data in answer.file_descriptor_response.file_descriptor_proto:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        names += [method.name for service in file.service for method in service.method]
    assert "CreateSurvey" in names


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"])
async def test_no_server_listens_beyond_loopback_unless_told_so(listen: str):
    with pytest.raises(SettingsError, match="PAPERROUTE_ALLOW_INSECURE_LISTEN"):
        RoleServer(listen)


async def test_a_port_in_use_is_named():
    """Two servers on one port would each get half of the calls."""
    first = RoleServer("127.0.0.1:0")

    with pytest.raises(SettingsError, match=f"127.0.0.1:{first.port}: cannot listen there"):
        RoleServer(f"127.0.0.1:{first.port}")
    await first.stop(0)


async def test_a_stopping_server_lets_a_call_under_way_end(tmp_path: Path):
    entered, release = asyncio.Event(), asyncio.Event()

    class Slow(Failing):
        async def GetSurvey(self, request, context):
            entered.set()
            await release.wait()
            return pb.GetSurveyResponse()

    host = RoleServer("127.0.0.1:0")
    pb_grpc.add_SurveyServiceServicer_to_server(Slow(), host.server)
    host.mounted(SERVICE)
    await host.start()
    async with grpc.aio.insecure_channel(host.address) as channel:
        call = asyncio.ensure_future(pb_grpc.SurveyServiceStub(channel).GetSurvey(pb.GetSurveyRequest(), timeout=20))
        await entered.wait()
        stopping = asyncio.create_task(host.stop(drain_s=20))
        release.set()

        assert await call == pb.GetSurveyResponse()
        await stopping
