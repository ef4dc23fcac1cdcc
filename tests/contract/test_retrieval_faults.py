"""Every fault of arXiv at the first request and at the second page: the right papers or the right error, never less."""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.rpc import error_details_pb2
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc
from paperroute.v1 import search_pb2
from serving import serving
from standins import arxiv_server as arxiv
from standins.arxiv_atom import Record

from services.common.errors import reason_in, status_in
from services.retrieval.server import mount
from services.retrieval.settings import RetrievalSettings

NOW = datetime.now(UTC).replace(microsecond=0)
RECORDS = [
    Record(
        paper_id=f"2601.{number:05}",
        title="LoRA image generation",
        abstract=f"Number {number}.",
        primary_category="cs.CV",
        categories=("cs.CV",),
        published=NOW - timedelta(days=1 + number),
        updated=NOW,
    )
    for number in range(150)
]
ALL_IDS = [record.paper_id for record in RECORDS]
REQUEST_TIMEOUT_S = 0.8
HANGS_S = 30.0

PASSING = {
    "429": arxiv.too_many_requests(),
    "429 with Retry-After": arxiv.too_many_requests("0"),
    "503": arxiv.unavailable(),
    "503 with Retry-After": arxiv.unavailable("0"),
    "soft 200": arxiv.rate_exceeded(),
    "empty page": arxiv.empty_page(),
    "cut feed": arxiv.cut_feed(),
    "cut connection": arxiv.broken_off(),
    "reset": arxiv.connection_reset(),
    "web page": arxiv.html_page(),
    "read time-out": arxiv.slow(HANGS_S),
    "dripping": arxiv.dripping(0.1),
    "entity bomb": arxiv.entity_bomb(),
    "500": arxiv.recorded(b"", status=500),
}
REFUSING = {
    "error feed": arxiv.failing_query("malformed query"),
    "error feed with 200": arxiv.recorded(arxiv.error_feed("malformed query", NOW)),
    "100 MB": arxiv.oversized(100 * 2**20),
    "404": arxiv.recorded(b"not here", status=404),
    "pause of an hour": arxiv.too_many_requests("3600"),
}
PLACES = {"first request": 0, "second page": 1}


@pytest.fixture
async def server() -> AsyncIterator[arxiv.ArxivStandIn]:
    async with arxiv.ArxivStandIn(RECORDS) as running:
        yield running


@contextlib.asynccontextmanager
async def retrieval(url: str, **settings) -> AsyncIterator[pb_grpc.RetrievalServiceStub]:
    quick = {"request_spacing_s": 0.0, "cooldown_s": 0.0, "request_timeout_s": REQUEST_TIMEOUT_S} | settings
    async with serving(mount, RetrievalSettings(arxiv_url=url, embedding="127.0.0.1:1", **quick)) as channel:
        yield pb_grpc.RetrievalServiceStub(channel)


@pytest.fixture
async def stub(server) -> AsyncIterator[pb_grpc.RetrievalServiceStub]:
    async with retrieval(server.url) as opened:
        yield opened


async def found_by(stub, source: search_pb2.Source.ValueType = search_pb2.SOURCE_ARXIV) -> pb.SearchResult:
    request = pb.SearchPapersRequest(search_terms=["LoRA image"], source=source)
    return [message async for message in stub.SearchPapers(request, timeout=60)][-1].result


async def failure_of(stub) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await found_by(stub)
    return raised.value


def assert_typed(error: grpc.aio.AioRpcError) -> None:
    """The status, the reason to branch on, when to try again and what else to try."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_in(error) == "UPSTREAM_FAILED"
    assert "try --source sample" in error.details()
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status_in(error).details)
    assert info.retry_delay.ToMilliseconds() > 0


def ids_in(result: pb.SearchResult) -> list[str]:
    return [paper.paper_id for paper in result.papers]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_fault_that_passes_costs_no_paper(stub, server, fault, place):
    server.script([*[None] * place, fault])

    assert ids_in(await found_by(stub)) == ALL_IDS
    assert len(server.requests) == 3


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_fault_that_lasts_is_an_error_after_three_tries(stub, server, fault, place):
    server.script([*[None] * place, *[fault] * 20])

    assert_typed(await failure_of(stub))
    assert len(server.requests) == place + 3


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("fault", REFUSING.values(), ids=REFUSING)
async def test_refusal_is_an_error_at_once(stub, server, fault, place):
    server.script([*[None] * place, *[fault] * 20])

    assert_typed(await failure_of(stub))
    assert len(server.requests) == place + 1


async def test_search_goes_on_where_it_failed(stub, server):
    """The pages that came are kept: the next search asks for the one that did not."""
    server.script([None, *[arxiv.cut_feed()] * 3])
    await failure_of(stub)

    found = await found_by(stub)

    assert ids_in(found) == ALL_IDS
    assert [request.start for request in server.requests] == [0, 100, 100, 100, 100]
    assert found.report.terms[0].is_cached


async def test_pause_holds_for_the_next_search_too(stub, server):
    """Its second search does not even ask."""
    server.script([arxiv.too_many_requests("3600")])
    await failure_of(stub)

    error = await failure_of(stub)

    assert_typed(error)
    assert "asked for a pause" in error.details()
    assert len(server.requests) == 1


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """A port whose queue is full: who connects gets no answer at all."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


async def test_connect_time_out_is_an_error():
    with full_port() as port:
        async with retrieval(f"http://127.0.0.1:{port}/api/query", request_timeout_s=0.3) as stub:
            error = await failure_of(stub)

    assert_typed(error)
    assert "cannot be reached in time" in error.details()


async def test_nobody_there_is_an_error():
    async with retrieval("http://127.0.0.1:1/api/query") as stub:
        assert_typed(await failure_of(stub))
