"""OrderingService over a real channel: what the comments of its contract promise."""

import asyncio
import threading
from collections.abc import AsyncIterator
from itertools import chain, pairwise
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paperroute.v1 import ordering_pb2, ordering_service_pb2_grpc
from paperroute.v1 import ordering_service_pb2 as pb
from serving import serving

from services.common.errors import reason_in, violations_in
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.ordering import route, server
from services.ordering.caller import Caller
from services.ordering.service import OrderingService
from services.ordering.settings import OrderingSettings

SERVICE = "paperroute.v1.OrderingService"
QUICK = OrderingSettings(search_factor=0.2)
METHODS = ordering_pb2.OrderingMethod.values()


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serving(server.mount, QUICK) as opened:
        yield opened


@pytest.fixture
def ordering(channel: grpc.aio.Channel) -> Any:
    return ordering_service_pb2_grpc.OrderingServiceStub(channel)


def vectors_of(count: int, dimension: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 2 * np.eye(5, dimension)[rng.integers(0, 5, count)]
    return (centres + rng.normal(size=(count, dimension))).astype("<f4")


def request_of(papers: int = 40, length: int = 16, seed: int = 0, **fields: object) -> pb.OrderPapersRequest:
    """Return a good request with some fields replaced."""
    ranks = np.random.default_rng(seed).permutation(papers)
    values = {
        "paper_ids": [f"2401.{rank:05d}" for rank in ranks],
        "vectors": vectors_of(papers, length, seed).tobytes(),
        "dimension": length,
        "count": papers,
        "query_vector": np.ones(length, "<f4").tobytes(),
        "published_s": [int(rank) % 9 for rank in ranks],
    }
    return pb.OrderPapersRequest(**{**values, **fields})


def sections_of(response: pb.OrderPapersResponse) -> list[list[str]]:
    return [list(section.paper_ids) for chapter in response.chapters for section in chapter.sections]


def units_by_id(request: pb.OrderPapersRequest) -> dict[str, np.ndarray]:
    rows = np.frombuffer(request.vectors, "<f4").reshape(-1, request.dimension).astype(np.float64)
    return dict(zip(request.paper_ids, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))


@pytest.mark.parametrize("method", METHODS, ids=ordering_pb2.OrderingMethod.keys())
@pytest.mark.parametrize("count", [1, 2, 3, 12, 13, 40])
async def test_the_response_keeps_its_promises(ordering, count, method):
    """Each paper once, parts that hold the route in order, a place for each, lengths and method."""
    request = request_of(count, method=method)

    response = await ordering.OrderPapers(request, timeout=30)

    assert sorted(response.paper_ids) == sorted(request.paper_ids)
    assert list(chain.from_iterable(sections_of(response))) == list(response.paper_ids)
    assert all(1 <= len(section) <= 8 for section in sections_of(response))
    assert all(chapter.sections for chapter in response.chapters)
    assert len(response.chapters) == 1 if count <= 12 else 3 <= len(response.chapters) <= 8
    assert len(response.points) == count
    assert all(-1 <= value <= 1 for point in response.points for value in (point.x, point.y))
    assert response.method == (method or ordering_pb2.ORDERING_METHOD_ROUTE)
    if response.method == ordering_pb2.ORDERING_METHOD_ROUTE:
        assert response.priced_length >= response.path_length
    else:
        assert response.priced_length == response.path_length


@pytest.mark.parametrize("method", METHODS, ids=ordering_pb2.OrderingMethod.keys())
async def test_length_and_coherence_are_those_of_the_vectors(ordering, method):
    request = request_of(40, method=method)
    units = units_by_id(request)

    response = await ordering.OrderPapers(request, timeout=30)

    steps = [np.linalg.norm(units[a] - units[b]) for a, b in pairwise(response.paper_ids)]
    pairs = [units[a] @ units[b] for section in sections_of(response) for a in section for b in section if a < b]
    assert response.path_length == pytest.approx(sum(steps), abs=1e-3)
    assert response.section_coherence == pytest.approx(np.mean(pairs), abs=1e-5)


async def test_coherence_is_1_when_no_section_holds_two(ordering):
    response = await ordering.OrderPapers(request_of(9, max_section_papers=1), timeout=30)

    assert response.section_coherence == 1
    assert len(sections_of(response)) == 9


async def test_the_duration_covers_the_search(ordering):
    """A fifth of the 200 ms that 40 papers get; the whole of it is used."""
    response = await ordering.OrderPapers(request_of(40), timeout=30)

    assert response.duration_ms >= 40


async def test_points_stand_in_the_order_of_the_route(ordering):
    """Papers on an arc: their places on the map turn by the same angle at each step."""
    degrees = np.radians(np.random.default_rng(1).permutation(np.arange(0, 60, 5)))
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype("<f4")

    response = await ordering.OrderPapers(
        request_of(12, 2, vectors=vectors.tobytes(), query_vector=b"", published_s=[]), timeout=30
    )

    steps = [np.hypot(a.x - b.x, a.y - b.y) for a, b in pairwise(response.points)]
    assert steps == pytest.approx([np.mean(steps)] * 11, rel=0.02)


async def test_counts_that_are_given_are_obeyed(ordering):
    response = await ordering.OrderPapers(
        request_of(40, chapter_count=5, section_count=13, max_section_papers=4), timeout=30
    )

    assert len(response.chapters) == 5
    assert len(sections_of(response)) == 13
    assert max(map(len, sections_of(response))) <= 4


async def test_texts_change_the_distances(ordering):
    """Two words divide the papers; the vectors say nothing."""
    request = request_of(20, vectors=np.tile(vectors_of(1), (20, 1)).tobytes())
    words = {paper_id: "mamba" if int(paper_id[-1]) % 2 else "splatting" for paper_id in request.paper_ids}
    request.texts.extend(words[paper_id] for paper_id in request.paper_ids)

    response = await ordering.OrderPapers(request, timeout=30)

    read = [words[paper_id] for paper_id in response.paper_ids]
    assert sum(a != b for a, b in pairwise(read)) == 1
    assert response.path_length > 0


@pytest.mark.parametrize("name", ["ROUTE", "CHAIN", "SEMANTIC", "ROUTE_ANNEALING"])
async def test_the_route_starts_at_the_question_when_asked_to(ordering, name):
    request = request_of(30, starts_at_query=True, method=f"ORDERING_METHOD_{name}")
    units = units_by_id(request)

    response = await ordering.OrderPapers(request, timeout=30)

    assert response.paper_ids[0] == max(units, key=lambda paper_id: units[paper_id].sum())


async def test_semantic_puts_the_nearest_first(ordering):
    request = request_of(30, method=ordering_pb2.ORDERING_METHOD_SEMANTIC)
    units = units_by_id(request)

    response = await ordering.OrderPapers(request, timeout=30)

    nearness = [units[paper_id].sum() / 4 for paper_id in response.paper_ids]
    assert all(a >= b - 1e-4 for a, b in pairwise(nearness))


async def test_newest_puts_the_newest_first_and_equals_by_identifier(ordering):
    request = request_of(30, method=ordering_pb2.ORDERING_METHOD_NEWEST)
    published_s = dict(zip(request.paper_ids, request.published_s, strict=True))

    response = await ordering.OrderPapers(request, timeout=30)

    assert list(response.paper_ids) == sorted(
        request.paper_ids, key=lambda paper_id: (-published_s[paper_id], paper_id)
    )


@pytest.mark.parametrize("count", [19, 40])
async def test_up_to_40_papers_a_route_is_the_same_each_time(count):
    async with serving(server.mount, OrderingSettings()) as opened:
        stub = ordering_service_pb2_grpc.OrderingServiceStub(opened)

        first, second = await asyncio.gather(*(stub.OrderPapers(request_of(count), timeout=30) for _ in range(2)))

    first.ClearField("duration_ms")
    second.ClearField("duration_ms")
    assert first == second


async def test_every_broken_field_is_named(ordering):
    request = request_of(20, count=19, method=77, max_section_papers=51, section_count=21, texts=["one"])

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await ordering.OrderPapers(request, timeout=30)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_in(failure.value) == "INVALID_REQUEST"
    fields = ["texts", "count", "vectors", "method", "max_section_papers", "section_count"]
    assert [violation.field for violation in violations_in(failure.value)] == fields


async def test_a_request_of_the_largest_size_fits_through_the_channel(ordering):
    """10,000 vectors of 1,024 numbers are 40 MiB; refused for its method, it costs no search."""
    request = request_of(1, 1_024, paper_ids=[str(n) for n in range(10_000)], count=10_000, published_s=[])
    request.vectors = np.ones((10_000, 1_024), "<f4").tobytes()
    request.method = ordering_pb2.ORDERING_METHOD_ROUTE_ANNEALING

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await ordering.OrderPapers(request, timeout=30)

    assert [violation.field for violation in violations_in(failure.value)] == ["method"]


class Held:
    """An annealing that waits until it is released or its caller leaves."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.began: asyncio.Queue[None] = asyncio.Queue()
        self.left: asyncio.Queue[None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def __call__(self, distances: np.ndarray, _seed: int, caller: Caller) -> list[int]:
        self._loop.call_soon_threadsafe(self.began.put_nowait, None)
        while not self.release.wait(0.01):
            if caller.has_left:
                self._loop.call_soon_threadsafe(self.left.put_nowait, None)
                break
        return list(range(len(distances)))

    def mount(self, host: RoleServer, settings: OrderingSettings, _shared: SharedSettings) -> None:
        service = OrderingService(settings, self)
        ordering_service_pb2_grpc.add_OrderingServiceServicer_to_server(service, host.server)
        host.mounted(SERVICE, service.close)


ANNEALING = {"method": ordering_pb2.ORDERING_METHOD_ROUTE_ANNEALING}


async def test_a_passed_deadline_ends_the_call_and_its_work():
    held = Held()
    async with serving(held.mount, QUICK) as opened:
        stub = ordering_service_pb2_grpc.OrderingServiceStub(opened)

        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.OrderPapers(request_of(**ANNEALING), timeout=1)

        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await held.left.get()


async def test_a_cancelled_call_leaves_its_worker_to_the_next():
    held = Held()
    async with serving(held.mount, OrderingSettings(concurrent_solves=1)) as opened:
        stub = ordering_service_pb2_grpc.OrderingServiceStub(opened)
        first = stub.OrderPapers(request_of(**ANNEALING), timeout=30)
        await held.began.get()

        first.cancel()

        assert len((await stub.OrderPapers(request_of(), timeout=30)).paper_ids) == 40


async def test_no_more_is_worked_on_at_once_than_is_set():
    held = Held()
    async with serving(held.mount, OrderingSettings(concurrent_solves=2)) as opened:
        stub = ordering_service_pb2_grpc.OrderingServiceStub(opened)
        calls = [asyncio.ensure_future(stub.OrderPapers(request_of(**ANNEALING), timeout=30)) for _ in range(8)]
        for _ in range(2):
            await held.began.get()
        health = await checked(opened)
        waiting = held.began.empty() and not any(call.done() for call in calls)

        held.release.set()
        responses = await asyncio.gather(*calls)

    assert health == health_pb2.HealthCheckResponse.SERVING
    assert waiting
    assert all(len(response.paper_ids) == 40 for response in responses)


async def test_health_answers_while_eight_routes_are_searched(monkeypatch):
    """The search lets go of Python's lock and of the event loop: many answers come before the first route does."""
    began, loop, real = asyncio.Event(), asyncio.get_running_loop(), route.short_path

    def announced(*args: Any, **options: Any) -> Any:
        loop.call_soon_threadsafe(began.set)
        return real(*args, **options)

    monkeypatch.setattr(route, "short_path", announced)
    async with serving(server.mount, OrderingSettings(search_factor=15)) as opened:
        stub = ordering_service_pb2_grpc.OrderingServiceStub(opened)
        calls = [stub.OrderPapers(request_of(160, 1_024, seed), timeout=60) for seed in range(8)]
        await began.wait()
        answers = [await checked(opened) for _ in range(25)]
        is_any_done = any(call.done() for call in calls)
        for call in calls:
            call.cancel()

    assert answers == [health_pb2.HealthCheckResponse.SERVING] * 25
    assert not is_any_done


async def checked(channel: grpc.aio.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30)).status
