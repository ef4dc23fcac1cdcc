"""A summarization worker takes what it can carry and refuses the rest before it costs anything."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.rpc import error_details_pb2
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import generation_service_pb2_grpc as generation_grpc
from paperroute.v1 import paper_pb2, usage_pb2
from paperroute.v1 import summarization_service_pb2 as pb
from paperroute.v1 import summarization_service_pb2_grpc as pb_grpc
from real_engines import point_at
from standins.provider_faults import Exchange, Fault
from standins.provider_server import ProviderStandIn

from services.common.channel import open_channel
from services.common.errors import DOMAIN, PUSHBACK_KEY, reason_in, retry_after_in, status_in, violations_in
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.generation import server, summarization_server
from services.generation.settings import GenerationSettings, SummarizationSettings

MODEL = "gpt-6-luna"


class Door:
    """Holds the answers of the model back until it is opened."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.came: asyncio.Queue[Exchange] = asyncio.Queue()

    async def answer(self, exchange: Exchange) -> web.StreamResponse:
        self.came.put_nowait(exchange)
        await self.is_open.wait()
        return await exchange.send(exchange.made())


class Worker:
    """Both roles on one server, so that the ledger can be read, and a model that answers when its door is opened."""

    def __init__(self, provider: ProviderStandIn, data_dir: Path, most: int) -> None:
        self.provider = provider
        self.door = Door()
        self.tasks: list[asyncio.Task[pb.SummarizePaperResponse]] = []
        provider.faults[MODEL] = Fault("held", self.door.answer)
        self.host = RoleServer("127.0.0.1:0")
        shared = SharedSettings(data_dir=data_dir)
        server.mount(self.host, GenerationSettings(), shared)
        summarization_server.mount(self.host, SummarizationSettings(max_papers_in_flight=most), shared)

    def connect(self, channel: grpc.aio.Channel) -> None:
        self.generation: Any = generation_grpc.GenerationServiceStub(channel)
        self.summarization: Any = pb_grpc.SummarizationServiceStub(channel)

    def summarize(self, number: int, survey_id: str = "s1", **fields: Any) -> "asyncio.Task[pb.SummarizePaperResponse]":
        """Ask for a summary."""
        call = self.summarization.SummarizePaper(request(number, survey_id, **fields), timeout=60)
        self.tasks.append(asyncio.ensure_future(awaited(call)))
        return self.tasks[-1]

    async def held(self, number: int, survey_id: str = "s1") -> "asyncio.Task[pb.SummarizePaperResponse]":
        """Ask for a summary and return once the model is asked."""
        task = self.summarize(number, survey_id)
        await self.door.came.get()
        return task

    async def close(self) -> None:
        """Let all calls end, then the server."""
        self.door.is_open.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.host.stop(drain_s=0)

    async def calls(self, survey_id: str) -> list[usage_pb2.RecordedCall]:
        listed = generation_pb.ListCallsRequest(tenant="a", survey_id=survey_id)
        return list((await self.generation.ListCalls(listed, timeout=10)).calls)


def request(number: int, survey_id: str, **fields: Any) -> pb.SummarizePaperRequest:
    paper = paper_pb2.Paper(paper_id=f"2501.{number:05d}", title="A title", abstract=f"We propose Method{number}.")
    call = usage_pb2.CallContext(tenant="a", survey_id=survey_id)
    given = {"call": call, "model": f"openai:{MODEL}", "paper": paper, "language": "en"}
    return pb.SummarizePaperRequest(**{**given, **fields})


async def awaited(call: Any) -> Any:
    return await call


async def outcome(task: "asyncio.Task[Any]") -> Any:
    return (await asyncio.gather(task, return_exceptions=True))[0]


async def refusal_of(task: "asyncio.Task[Any]") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await task
    assert (raised.value.code(), reason_in(raised.value)) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
    return raised.value


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProviderStandIn]:
    async with ProviderStandIn() as made:
        point_at(made, monkeypatch)
        yield made


@pytest.fixture
async def worker(provider: ProviderStandIn, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    """A worker with one place, or as many as the test says, and half as many to wait."""
    made = Worker(provider, tmp_path / "data", getattr(request, "param", 1))
    await made.host.start()
    async with open_channel(made.host.address) as channel:
        made.connect(channel)
        yield made
        await made.close()


async def test_what_finds_no_place_is_refused_before_it_is_paid_or_claimed(worker: Worker):
    first = await worker.held(1)
    refusal = await refusal_of(worker.summarize(2, "s2"))
    worker.door.is_open.set()

    assert (await first).model == f"openai:{MODEL}"
    assert len(worker.provider.requests) == 1
    assert await worker.calls("s2") == []
    assert len(await worker.calls("s1")) == 1
    assert retry_after_in(refusal) > 0


async def test_the_status_has_its_details_and_sends_the_channel_on(worker: Worker):
    await worker.held(1)
    refusal = await refusal_of(worker.summarize(2))

    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    details = status_in(refusal).details
    assert details[0].Unpack(info)
    assert details[1].Unpack(retry)
    assert (info.domain, info.reason, info.metadata["limit"]) == (DOMAIN, "OVERLOADED", "1")
    assert int(dict(refusal.trailing_metadata())[PUSHBACK_KEY]) > 0


async def test_a_full_worker_still_says_what_is_wrong_with_a_request(worker: Worker):
    """Waiting would not mend it."""
    await worker.held(1)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await worker.summarize(2, language="")

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in violations_in(raised.value)] == ["language"]


@pytest.mark.parametrize("worker", [2], indirect=True)
async def test_as_many_are_under_way_as_there_are_places_and_one_waits(worker: Worker):
    tasks = {worker.summarize(number) for number in range(4)}
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await refusal_of(done.pop())
    for _ in range(2):
        await worker.door.came.get()
    worker.door.is_open.set()

    assert {(await task).model for task in waiting} == {f"openai:{MODEL}"}
    assert len(waiting) == 3
    assert worker.provider.most_at_once == 2


@pytest.mark.parametrize("worker", [2], indirect=True)
async def test_a_survey_with_less_in_hand_takes_the_waiting_place_of_one_with_more(worker: Worker):
    """Else the gateway whose next paper always comes first would keep the surveys of all others out."""
    large = {worker.summarize(number, "large") for number in range(4)}
    done, large = await asyncio.wait(large, return_when=asyncio.FIRST_COMPLETED)
    await refusal_of(done.pop())
    small = worker.summarize(9, "small")
    done, large = await asyncio.wait(large, return_when=asyncio.FIRST_COMPLETED)
    await refusal_of(done.pop())
    worker.door.is_open.set()

    assert (await small).model == f"openai:{MODEL}"
    assert len([await task for task in large]) == 2


async def test_a_caller_that_goes_gives_its_place_back(worker: Worker):
    worker.door.is_open.set()
    await worker.summarize(1)
    worker.door.is_open.clear()
    (await worker.held(2)).cancel()
    worker.door.is_open.set()

    async with asyncio.timeout(30):
        while isinstance(found := await outcome(worker.summarize(3)), grpc.aio.AioRpcError):
            assert reason_in(found) == "OVERLOADED"

    assert found.summary


async def test_a_refused_call_goes_to_another_worker(provider: ProviderStandIn, tmp_path: Path):
    """By the channel alone, within its tries."""
    full, free = (Worker(provider, tmp_path / name, 1) for name in ("full", "free"))
    for each in (full, free):
        await each.host.start()
    async with open_channel(full.host.address) as only, open_channel(_both(full, free)) as both:
        full.connect(only)
        free.connect(both)
        provider.faults[MODEL] = Fault("held", full.door.answer)
        await full.held(0)
        provider.faults.clear()
        summaries = [await free.summarize(number) for number in range(1, 7)]
        for each in (full, free):
            await each.close()

    assert {each.model for each in summaries} == {f"openai:{MODEL}"}


def _both(*workers: Worker) -> str:
    return "ipv4:" + ",".join(worker.host.address for worker in workers)
