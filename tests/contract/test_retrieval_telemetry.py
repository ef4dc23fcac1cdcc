"""What a search tells those who run the service: which source answered, what arXiv was asked, how long that waits."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc
from paperroute.v1 import search_pb2
from serving import serving
from sqlalchemy import update
from standins import arxiv_server as arxiv
from standins.arxiv_atom import Record
from telemetered import Telemetry, telemetered

from services.common.settings import SharedSettings
from services.common.telemetry import names
from services.retrieval.server import mount
from services.retrieval.settings import RetrievalSettings
from services.retrieval.store import FILE, open_store
from services.retrieval.tables import page as pages

NOW = datetime.now(UTC).replace(microsecond=0)
TERMS = ("LoRA sculpture", "LoRA gardening")
RECORDS = [
    *(
        Record(
            paper_id=f"2601.{number:05}",
            title=f"{TERMS[number < 5]} explained",
            abstract=f"Number {number}.",
            primary_category="cs.CV",
            categories=("cs.CV",),
            published=NOW - timedelta(days=1 + number),
            updated=NOW,
        )
        for number in range(8)
    ),
]
METHOD = "paperroute.v1.RetrievalService/SearchPapers"


@pytest.fixture
def seen() -> Iterator[Telemetry]:
    with telemetered() as received:
        yield received


@pytest.fixture
async def server() -> AsyncIterator[arxiv.ArxivStandIn]:
    async with arxiv.ArxivStandIn(RECORDS) as running:
        yield running


@contextlib.asynccontextmanager
async def retrieval(data_dir: Path, url: str, **settings) -> AsyncIterator[pb_grpc.RetrievalServiceStub]:
    quick = {"request_spacing_s": 0.0, "cooldown_s": 0.0, "embedding": "127.0.0.1:1"} | settings
    async with serving(mount, RetrievalSettings(arxiv_url=url, **quick), data_dir) as channel:
        yield pb_grpc.RetrievalServiceStub(channel)


async def search(
    stub: pb_grpc.RetrievalServiceStub, *terms: str, source: search_pb2.Source.ValueType = search_pb2.SOURCE_AUTO
) -> pb.SearchResult:
    request = pb.SearchPapersRequest(search_terms=terms, source=source)
    return [message async for message in stub.SearchPapers(request, timeout=60)][-1].result


def last_span(seen: Telemetry) -> ReadableSpan:
    return [span for span in seen.spans if span.name == METHOD][-1]


def outcomes(seen: Telemetry) -> dict[str, float]:
    return {outcome: count for (outcome,), count in all_outcomes(seen).items() if count}


def all_outcomes(seen: Telemetry) -> dict[tuple[Any, ...], float]:
    return seen.sums(names.ARXIV_REQUESTS, names.OUTCOME)


def cooldown_s(seen: Telemetry) -> float:
    (point,) = seen.points(names.ARXIV_COOLDOWN)
    return point.value


async def make_older(data_dir: Path, days: int) -> None:
    store = open_store(SharedSettings(data_dir=data_dir))
    older = update(pages).values(answered_at=pages.c.answered_at - days * 86_400)
    await store.run(lambda connection: connection.execute(older))
    await store.close()


async def test_the_span_tells_the_source_and_the_counts_of_each_search(seen, server, tmp_path):
    async with retrieval(tmp_path, server.url) as stub:
        await search(stub, *TERMS)
        asked = dict(last_span(seen).attributes)
        await search(stub, TERMS[1])
        kept = dict(last_span(seen).attributes)

    assert (asked[names.SOURCE], asked[names.PAPER_COUNT]) == ("arxiv", 8)
    assert (asked[names.FOUND_COUNTS], asked[names.KEPT_COUNTS]) == ((3, 5), (3, 5))
    assert (asked[names.CACHED_COUNT], asked[names.STALE_COUNT]) == (0, 0)
    assert (kept[names.FOUND_COUNTS], kept[names.CACHED_COUNT]) == ((5,), 1)
    assert outcomes(seen) == {"ok": 2, "cached": 1}
    assert seen.counts(names.ARXIV_WAIT) == {(): 2}


async def test_every_outcome_is_told_before_the_first_request(seen, server, tmp_path):
    """What a scrape sees first is no increase: without a 0 before it the first refusal would go unseen."""
    async with retrieval(tmp_path, server.url):
        assert all_outcomes(seen) == dict.fromkeys([("ok",), ("refused",), ("failed",), ("cached",), ("stale",)], 0)


async def test_a_request_waits_for_its_turn(seen, server, tmp_path):
    """The gate is shared: what stands before a request is part of its wait."""
    async with retrieval(tmp_path, server.url, request_spacing_s=0.5) as stub:
        await search(stub, *TERMS, source=search_pb2.SOURCE_ARXIV)

    waited = seen.sums(names.ARXIV_WAIT)[()]
    between = server.requests[1].started_at - server.requests[0].started_at
    assert 0 < waited <= between


@pytest.mark.parametrize(
    ("faults", "counted"),
    [
        pytest.param([arxiv.too_many_requests("0"), None], {"refused": 1, "ok": 1}, id="a refusal, then an answer"),
        pytest.param([arxiv.cut_feed(), arxiv.broken_off(), None], {"failed": 2, "ok": 1}, id="broken answers"),
    ],
)
async def test_every_request_is_counted_by_what_became_of_it(seen, server, tmp_path, faults, counted):
    server.script(faults)
    async with retrieval(tmp_path, server.url) as stub:
        await search(stub, TERMS[0], source=search_pb2.SOURCE_ARXIV)

    assert outcomes(seen) == counted


async def test_the_pause_after_a_refusal_is_told_without_asking_the_store(seen, server, tmp_path):
    """A scrape must not wait for a database that is busy."""
    async with retrieval(tmp_path, server.url) as stub:
        await search(stub, TERMS[0])
        before = cooldown_s(seen)
        server.script([arxiv.too_many_requests("600")])
        with pytest.raises(grpc.aio.AioRpcError):
            await search(stub, TERMS[1], source=search_pb2.SOURCE_ARXIV)
        busy = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        busy.execute("BEGIN EXCLUSIVE")
        during = cooldown_s(seen)
        busy.close()

    assert before == 0
    assert 540 < during <= 600


async def test_a_replica_learns_of_the_pause_from_the_queue(seen, server, tmp_path):
    """Who was refused is gone; the next to ask finds the pause in the store."""
    server.script([arxiv.too_many_requests("600")])
    async with retrieval(tmp_path, server.url) as stub:
        with pytest.raises(grpc.aio.AioRpcError):
            await search(stub, TERMS[0], source=search_pb2.SOURCE_ARXIV)
    async with retrieval(tmp_path, server.url) as stub:
        with pytest.raises(grpc.aio.AioRpcError):
            await search(stub, TERMS[0], source=search_pb2.SOURCE_ARXIV)

        assert 540 < cooldown_s(seen) <= 600
    assert outcomes(seen) == {"refused": 1}


async def test_a_source_that_another_stands_in_for_is_an_event(seen, server, tmp_path):
    """AUTO finds an old answer of arXiv where arXiv itself refuses."""
    async with retrieval(tmp_path, server.url) as stub:
        await search(stub, TERMS[1])
        await make_older(tmp_path, days=3)
        server.script([arxiv.too_many_requests("600")])
        found = await search(stub, TERMS[1])

    span = last_span(seen)
    assert len(found.papers) == 5
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        (names.FALLBACK, {names.SOURCE: "arxiv", names.ERROR_TYPE: "UpstreamFailed"})
    ]
    assert (span.attributes[names.SOURCE], span.attributes[names.STALE_COUNT]) == ("arxiv", 1)
    assert outcomes(seen) == {"ok": 1, "refused": 1, "stale": 1}


async def test_no_word_of_a_search_is_told(seen, server, tmp_path):
    server.script([arxiv.failing_query("malformed query"), arxiv.too_many_requests("600")])
    async with retrieval(tmp_path, server.url) as stub:
        for source in (search_pb2.SOURCE_AUTO, search_pb2.SOURCE_ARXIV, search_pb2.SOURCE_SAMPLE):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await search(stub, *TERMS, source=source)

    told = "".join(span.to_json() for span in seen.spans).lower()
    assert last_span(seen).attributes[names.SOURCE] == "sample"
    assert not [word for word in ("lora", "sculpture", "gardening") if word in told]
