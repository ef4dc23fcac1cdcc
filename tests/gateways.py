"""A gateway under test: the real server in front of fakes of the services."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from fakes import Fakes
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from serving import served

from gateway.server import mount
from gateway.settings import GatewaySettings
from services.common.channel import open_channel
from services.common.server import RoleServer

SERVICES = ("retrieval", "embedding", "ordering", "generation", "summarization")
SPEC = pb.SurveySpec(question="What about names?")


class Gateway:
    """A client of a gateway under test."""

    def __init__(self, channel: grpc.aio.Channel, fakes: Fakes, address: str = "") -> None:
        self.channel, self.stub, self.fakes = channel, pb_grpc.SurveyServiceStub(channel), fakes
        self.address = address

    async def create(self, spec: pb.SurveySpec = SPEC, **fields: Any) -> str:
        request = service_pb.CreateSurveyRequest(spec=spec, **fields)
        return (await self.stub.CreateSurvey(request, timeout=5)).survey.survey_id

    async def get(self, survey_id: str) -> pb.Survey:
        return (await self.stub.GetSurvey(service_pb.GetSurveyRequest(survey_id=survey_id), timeout=5)).survey

    async def events(self, survey_id: str, after: int = 0) -> list[service_pb.WatchSurveyResponse]:
        request = service_pb.WatchSurveyRequest(survey_id=survey_id, after_number=after)
        return [event async for event in self.stub.WatchSurvey(request, timeout=30)]

    def watch(self, survey_id: str, after: int = 0) -> Any:
        return self.stub.WatchSurvey(service_pb.WatchSurveyRequest(survey_id=survey_id, after_number=after), timeout=30)

    async def resume(self, survey_id: str) -> pb.Survey:
        return (await self.stub.ResumeSurvey(service_pb.ResumeSurveyRequest(survey_id=survey_id), timeout=5)).survey

    async def first(self, survey_id: str, is_wanted: Callable[[service_pb.WatchSurveyResponse], bool]) -> Any:
        call = self.stub.WatchSurvey(service_pb.WatchSurveyRequest(survey_id=survey_id), timeout=30)
        async for event in call:
            if is_wanted(event):
                call.cancel()
                return event
        return None

    async def finished(self, spec: pb.SurveySpec = SPEC, **fields: Any) -> pb.Survey:
        survey_id = await self.create(spec, **fields)
        await self.events(survey_id)
        return await self.get(survey_id)


@contextlib.asynccontextmanager
async def gateway_with(fakes: Fakes, data_dir: Path, **settings: Any):
    host = RoleServer("127.0.0.1:0")
    fakes.add_to(host)
    await host.start()
    try:
        targets = dict.fromkeys(SERVICES, host.address)
        own = GatewaySettings(**{**targets, **settings})
        async with served(mount, own, data_dir) as address, open_channel(address) as channel:
            yield Gateway(channel, fakes, address)
    finally:
        await host.stop(0)
