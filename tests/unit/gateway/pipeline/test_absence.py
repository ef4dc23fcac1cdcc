"""Services that go away and come back: real servers that are stopped and started."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import generation_service_pb2_grpc as pb_grpc
from processes import free_ports

from gateway.pipeline.absence import despite_absence
from services.common.channel import open_channel
from services.common.errors import PaperRouteError, UpstreamFailed, reason_in
from services.common.server import RoleServer


class Writer(pb_grpc.GenerationServiceServicer):
    """Writes the first half of a section, and the rest once it may."""

    def __init__(self, *, may_finish: bool) -> None:
        self.may_finish = asyncio.Event()
        if may_finish:
            self.may_finish.set()
        self.failure: PaperRouteError | None = None
        self.asked = 0

    async def WriteSection(
        self, request: pb.WriteSectionRequest, context: Any
    ) -> AsyncIterator[pb.WriteSectionResponse]:
        self.asked += 1
        if self.failure:
            raise self.failure
        yield pb.WriteSectionResponse(text_delta="The first half, ")
        await self.may_finish.wait()
        yield pb.WriteSectionResponse(text_delta="and the second.")


async def started(listen: str, writer: Writer) -> RoleServer:
    host = RoleServer(listen)
    pb_grpc.add_GenerationServiceServicer_to_server(writer, host.server)
    host.mounted("paperroute.v1.GenerationService")
    await host.start()
    return host


class Reader:
    """Asks for a section, whole."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = pb_grpc.GenerationServiceStub(channel)
        self.pieces: asyncio.Queue[str] = asyncio.Queue()

    async def section(self) -> str:
        text = ""
        async for message in self._stub.WriteSection(pb.WriteSectionRequest(), timeout=60):
            text += message.text_delta
            self.pieces.put_nowait(message.text_delta)
        return text


@pytest.fixture
def listen() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


async def test_a_service_that_goes_in_the_middle_of_an_answer_is_asked_again_when_it_is_back(listen: str):
    first = await started(listen, Writer(may_finish=False))
    async with open_channel(listen) as channel:
        reader = Reader(channel)
        section = asyncio.ensure_future(despite_absence(reader.section, 60))
        await reader.pieces.get()
        await first.stop(0)
        second = await started(listen, Writer(may_finish=True))
        text = await section
    await second.stop(0)

    assert text == "The first half, and the second."


async def test_a_service_that_stays_away_is_given_up_with_its_failure(listen: str):
    async with open_channel(listen) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await despite_absence(Reader(channel).section, 0.5)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_what_a_service_says_itself_is_not_taken_for_its_absence(listen: str):
    """It has tried again where that helps."""
    writer = Writer(may_finish=True)
    writer.failure = UpstreamFailed("ledger", "away", retry_after_s=1)
    host = await started(listen, writer)
    async with open_channel(listen) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await despite_absence(Reader(channel).section, 60)
    await host.stop(0)

    assert reason_in(raised.value) == "UPSTREAM_FAILED"
    assert writer.asked <= 4  # those of the channel


async def test_the_end_of_the_time_ends_the_wait(listen: str):
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise TimeoutError
        return await reader.section()

    async with open_channel(listen) as channel:
        reader = Reader(channel)
        with pytest.raises(TimeoutError):
            await despite_absence(ask, 60)
