"""Patience with workers that have no place: against real servers that refuse."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from opentelemetry.metrics import UpDownCounter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from paperroute.v1 import summarization_service_pb2 as pb
from paperroute.v1 import summarization_service_pb2_grpc as pb_grpc
from paperroute.v1 import usage_pb2

from gateway.pipeline import patience as patience_module
from gateway.pipeline.patience import Patience
from services.common.channel import open_channel
from services.common.deadlines import Deadline
from services.common.errors import InvalidRequest, Violation, reason_in
from services.common.server import RoleServer
from services.common.telemetry.metrics import summaries_pending
from services.generation.capacity import Capacity

MOST_EACH = 160


class Worker(pb_grpc.SummarizationServiceServicer):
    """Has the capacity of a real worker; a paper takes until `ends` lets it end, or no time where there is none."""

    def __init__(self, most: int) -> None:
        self.capacity = Capacity(most)
        self.ends: asyncio.Queue[None] | None = None
        self.began: list[str] = []
        """Surveys whose papers found a place, in order."""
        self.asked = 0
        self.failure: Exception | None = None

    async def SummarizePaper(self, request: pb.SummarizePaperRequest, context: Any) -> pb.SummarizePaperResponse:
        self.asked += 1
        if self.failure:
            raise self.failure
        async with self.capacity.place(request.call.survey_id):
            self.began.append(request.call.survey_id)
            if self.ends:
                await self.ends.get()
        return pb.SummarizePaperResponse(summary=request.paper.paper_id)


class Pending:
    """What `paperroute.summaries.pending` says, read as the SDK exports it; and the least it ever was."""

    def __init__(self, reader: InMemoryMetricReader, inner: UpDownCounter) -> None:
        self._reader, self._inner = reader, inner
        self._sum = self.least = 0

    def add(self, amount: int) -> None:
        self._sum += amount
        self.least = min(self.least, self._sum)
        self._inner.add(amount)

    def count(self) -> int:
        data = self._reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else ()
        return sum(point.value for metric in metrics for point in metric.data.data_points)


@pytest.fixture
def pending(monkeypatch: pytest.MonkeyPatch) -> Pending:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test")
    made = Pending(reader, meter.create_up_down_counter("paperroute.summaries.pending"))
    monkeypatch.setattr(patience_module, "summaries_pending", made)
    return made


class Surveys:
    """Surveys of one gateway: their calls go through one patience."""

    def __init__(self, channel: grpc.aio.Channel, most_each: int = MOST_EACH) -> None:
        self._stub: Any = pb_grpc.SummarizationServiceStub(channel)
        self.patience = Patience(most_each, chance=lambda: 0.0)

    async def paper(self, survey_id: str, number: int = 0, seconds: float = 60.0) -> str:
        request = pb.SummarizePaperRequest(call=usage_pb2.CallContext(survey_id=survey_id))
        request.paper.paper_id = f"{survey_id}-{number}"

        async def make(timeout_s: float) -> pb.SummarizePaperResponse:
            return await self._stub.SummarizePaper(request, timeout=timeout_s)

        return (await self.patience.call(survey_id, make, Deadline.after(seconds), 30.0)).summary

    async def survey(self, survey_id: str, count: int) -> list[str]:
        return await asyncio.gather(*(self.paper(survey_id, number) for number in range(count)))


@contextlib.asynccontextmanager
async def surveys_with(*workers: Worker, **options: Any) -> AsyncIterator[Surveys]:
    hosts = []
    for worker in workers:
        hosts.append(RoleServer("127.0.0.1:0"))
        pb_grpc.add_SummarizationServiceServicer_to_server(worker, hosts[-1].server)
        hosts[-1].mounted("paperroute.v1.SummarizationService")
        await hosts[-1].start()
    async with open_channel("ipv4:" + ",".join(host.address for host in hosts)) as channel:
        yield Surveys(channel, **options)
    for host in hosts:
        await host.stop(0)


async def test_every_paper_is_done_in_the_end_however_few_places_there_are(pending: Pending):
    worker = Worker(2)
    async with surveys_with(worker) as surveys:
        done = await surveys.survey("s", 100)

    assert done == [f"s-{number}" for number in range(100)]
    assert len(worker.began) == 100
    assert (pending.count(), pending.least) == (0, 0)


async def test_a_paper_is_tried_again_although_nothing_else_of_its_gateway_is_under_way(pending: Pending):
    """Other gateways have the places."""
    worker = Worker(1)
    async with surveys_with(worker) as surveys:
        async with worker.capacity.place("of another gateway"):
            paper = asyncio.ensure_future(surveys.paper("s"))
            while not pending.count():
                await asyncio.sleep(0)
        await paper

    assert worker.began == ["s"]


async def test_a_second_worker_takes_what_the_first_has_no_place_for():
    first, second = Worker(2), Worker(2)
    first.ends = second.ends = asyncio.Queue()
    async with surveys_with(first, second) as surveys:
        papers = asyncio.ensure_future(surveys.survey("s", 60))
        while min(len(first.began), len(second.began)) < 2:
            await asyncio.sleep(0)
        for _ in range(60):
            first.ends.put_nowait(None)
        await papers

    assert len(first.began) + len(second.began) == 60


async def test_once_the_workers_limit_is_known_hardly_a_call_is_refused(pending: Pending):
    """What waits for minutes must not keep the workers busy with refusing it."""
    worker = Worker(4)
    worker.ends = asyncio.Queue()
    async with surveys_with(worker) as surveys:
        papers = asyncio.ensure_future(surveys.survey("s", 120))
        while pending.count() < 114:  # four are under way, two wait at the worker, the rest has been refused
            await asyncio.sleep(0)
        first_crowd = worker.asked
        for _ in range(120):
            worker.ends.put_nowait(None)
        await papers

    assert worker.asked - first_crowd < 114 + 60


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        pytest.param(InvalidRequest([Violation(field="paper", description="none")]), "INVALID_REQUEST", id="request"),
        pytest.param(RuntimeError("a bug"), "INTERNAL", id="bug"),
    ],
)
async def test_other_failures_pass_through_at_once(failure: Exception, reason: str, pending: Pending):
    worker = Worker(1)
    worker.failure = failure
    async with surveys_with(worker) as surveys:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await surveys.paper("s")

    assert reason_in(raised.value) == reason
    assert worker.asked == 1
    assert (pending.count(), pending.least) == (0, 0)


async def test_the_deadline_ends_the_wait(pending: Pending):
    worker = Worker(1)
    worker.ends = asyncio.Queue()
    async with surveys_with(worker) as surveys:
        first = asyncio.ensure_future(surveys.paper("s"))
        while not worker.began:
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await surveys.paper("s", seconds=1.0)
        worker.ends.put_nowait(None)
        await first

    assert len(worker.began) == 1
    assert (pending.count(), pending.least) == (0, 0)


async def test_nothing_is_called_once_the_time_is_over():
    worker = Worker(1)
    async with surveys_with(worker) as surveys:
        with pytest.raises(TimeoutError):
            await surveys.paper("s", seconds=0.0)

    assert worker.asked == 0


async def test_papers_count_as_pending_while_they_wait_and_only_then(pending: Pending):
    worker = Worker(2)
    worker.ends = asyncio.Queue()
    async with surveys_with(worker) as surveys:
        papers = asyncio.ensure_future(surveys.survey("s", 20))
        counts = set()
        while 17 not in counts:  # two are under way and one waits at the worker
            await asyncio.sleep(0)
            counts.add(pending.count())
        for _ in range(20):
            worker.ends.put_nowait(None)
        await papers

    assert (pending.count(), pending.least) == (0, 0)


async def test_what_waits_for_a_place_of_its_survey_counts_too(pending: Pending):
    worker = Worker(100)
    worker.ends = asyncio.Queue()
    async with surveys_with(worker, most_each=3) as surveys:
        papers = asyncio.ensure_future(surveys.survey("s", 10))
        while len(worker.began) < 3:
            await asyncio.sleep(0)
        assert pending.count() == 7
        for _ in range(10):
            worker.ends.put_nowait(None)
        await papers

    assert pending.count() == 0


async def test_a_cancelled_survey_leaves_nothing_behind(pending: Pending):
    worker = Worker(2)
    worker.ends = asyncio.Queue()
    async with surveys_with(worker) as surveys:
        papers = asyncio.ensure_future(surveys.survey("cancelled", 20))
        while len(worker.began) < 2:
            await asyncio.sleep(0)
        papers.cancel()
        await asyncio.wait([papers])
        assert (pending.count(), pending.least) == (0, 0)
        worker.ends = None
        assert await surveys.survey("next", 5)

    assert Counter(worker.began)["next"] == 5


async def test_a_small_survey_does_not_wait_for_a_large_one_that_came_first(pending: Pending):
    worker = Worker(4)
    worker.ends = asyncio.Queue()
    async with surveys_with(worker) as surveys:
        large = asyncio.ensure_future(surveys.survey("large", 100))
        while pending.count() < 94:  # four are under way and two wait at the worker
            await asyncio.sleep(0)
        small = asyncio.ensure_future(surveys.survey("small", 5))
        ended = 0
        while not small.done():
            worker.ends.put_nowait(None)
            ended += 1
            while len(worker.began) < 4 + ended and not small.done():
                await asyncio.sleep(0)
        for _ in range(105 - ended):
            worker.ends.put_nowait(None)
        await large

    assert ended <= 25


def test_the_metric_has_the_name_and_the_unit_that_dashboards_ask_for():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    summaries_pending.on_meter_set(provider.get_meter("test"))  # what the API does when an SDK is set up
    summaries_pending.add(1)
    (metric,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics

    assert (metric.name, metric.unit) == ("paperroute.summaries.pending", "{paper}")
