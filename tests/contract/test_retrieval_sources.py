"""Which source answers, and what the report says of it: caches, the index, the store of embedded papers, the modes."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import paper_pb2, search_pb2
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc
from serving import serving
from sqlalchemy import update
from standins import arxiv_server as arxiv
from standins.arxiv_atom import Record

from services.common.errors import reason_in, status_in, violations_in
from services.common.papers import moment_of, timestamp_of
from services.common.settings import SharedSettings
from services.retrieval.server import mount
from services.retrieval.settings import RetrievalSettings
from services.retrieval.store import FILE, open_store
from services.retrieval.tables import page as pages

NOW = datetime.now(UTC).replace(microsecond=0)
NOBODY = "127.0.0.1:1"


def record(number: int, title: str, **fields) -> Record:
    return Record(
        **{
            "paper_id": f"2601.{number:05}",
            "title": title,
            "abstract": f"Number {number}.",
            "primary_category": "cs.CV",
            "categories": ("cs.CV",),
            "published": NOW - timedelta(days=1 + number),
            "updated": NOW,
        }
        | fields
    )


RECORDS = [
    *(record(number, "LoRA image generation") for number in range(150)),
    record(200, "Neural graphs", categories=("cs.LG", "stat.ML")),
    record(201, "Neural graphs", categories=("cs.CV",)),
    record(202, "Neural graphs", comment="This paper has been withdrawn by the author", categories=("cs.CV",)),
    record(203, "Neural graphs", categories=("cs.LG",), published=NOW - timedelta(days=400)),
    record(300, "Exploration of imagery"),
]


class FakeEmbedding(embedding_grpc.EmbeddingServiceServicer):
    """Finds the papers it is given, or fails with a status."""

    def __init__(self) -> None:
        self.asked: list[embedding_pb.FindPapersRequest] = []
        self.papers: list[paper_pb2.Paper] = []
        self.status: grpc.StatusCode | None = None

    async def FindPapers(self, request, context):
        self.asked.append(request)
        if self.status:
            await context.abort(self.status, "the store is locked")
        return embedding_pb.FindPapersResponse(
            papers=[embedding_pb.FoundPaper(paper=paper) for paper in self.papers], encoder="a:b"
        )


@pytest.fixture
async def server() -> AsyncIterator[arxiv.ArxivStandIn]:
    async with arxiv.ArxivStandIn(RECORDS) as running:
        yield running


@pytest.fixture
async def embedding() -> AsyncIterator[FakeEmbedding]:
    fake = FakeEmbedding()
    running = grpc.aio.server()
    embedding_grpc.add_EmbeddingServiceServicer_to_server(fake, running)
    fake.address = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    await running.start()
    yield fake
    await running.stop(0)


@contextlib.asynccontextmanager
async def retrieval(data_dir: Path, url: str, **settings) -> AsyncIterator[pb_grpc.RetrievalServiceStub]:
    quick = {"request_spacing_s": 0.0, "cooldown_s": 0.0, "embedding": NOBODY} | settings
    async with serving(mount, RetrievalSettings(arxiv_url=url, **quick), data_dir) as channel:
        yield pb_grpc.RetrievalServiceStub(channel)


async def search(stub, *terms: str, **fields) -> Sequence[pb.SearchPapersResponse]:
    request = pb.SearchPapersRequest(search_terms=terms, **fields)
    return [message async for message in stub.SearchPapers(request, timeout=60)]


async def result(stub, *terms: str, **fields) -> pb.SearchResult:
    return (await search(stub, *terms, **fields))[-1].result


async def failure(stub, *terms: str, **fields) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await search(stub, *terms, **fields)
    return raised.value


def ids_in(found: pb.SearchResult) -> list[int]:
    return [int(paper.paper_id[-5:]) for paper in found.papers]


async def make_older(data_dir: Path, days: int) -> None:
    store = open_store(SharedSettings(data_dir=data_dir))
    older = update(pages).values(answered_at=pages.c.answered_at - days * 86_400)
    await store.run(lambda connection: connection.execute(older))
    await store.close()


async def test_fresh_answer_is_used_again_and_dated(server, tmp_path):
    """Also by the next process: it lies in the store."""
    async with retrieval(tmp_path, server.url) as stub:
        first = await result(stub, "LoRA image")
    async with retrieval(tmp_path, server.url) as stub:
        again = await result(stub, "image LoRA", "neural")

    assert ids_in(first) == list(range(150))
    assert len(server.requests) == 3
    assert [(term.is_cached, term.is_stale) for term in first.report.terms] == [(False, False)]
    kept, new = again.report.terms
    assert (kept.is_cached, kept.is_stale, new.is_cached) == (True, False, False)
    assert {term.source for term in again.report.terms} == {search_pb2.SOURCE_ARXIV}
    assert kept.answered_at == first.report.answered_at == again.report.answered_at
    assert moment_of(kept.answered_at) < moment_of(new.answered_at)


async def test_old_answer_is_asked_for_again(server, tmp_path):
    async with retrieval(tmp_path, server.url) as stub:
        await result(stub, "neural")
        await make_older(tmp_path, days=2)
        again = await result(stub, "neural")

    assert len(server.requests) == 2
    assert not again.report.terms[0].is_cached


async def test_old_answer_is_better_than_none(server, tmp_path):
    """With the day it stands on, and marked."""
    async with retrieval(tmp_path, server.url) as stub:
        await result(stub, "LoRA image")
        await make_older(tmp_path, days=30)
        server.script([arxiv.too_many_requests("3600")])
        found = await result(stub, "LoRA image")

    (term,) = found.report.terms
    assert ids_in(found) == list(range(150))
    assert (term.source, term.is_cached, term.is_stale) == (search_pb2.SOURCE_ARXIV, True, True)
    assert NOW - moment_of(term.answered_at) > timedelta(days=29)


async def test_arxiv_by_name_is_never_an_old_answer(server, tmp_path):
    async with retrieval(tmp_path, server.url) as stub:
        await result(stub, "neural")
        await make_older(tmp_path, days=2)
        server.script([arxiv.too_many_requests("3600")])
        error = await failure(stub, "neural", source=search_pb2.SOURCE_ARXIV)

    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_store_is_the_last_resort(server, embedding, tmp_path):
    embedding.papers = [
        paper_pb2.Paper(
            paper_id="2501.00001",
            title="LoRA image",
            published_at=timestamp_of(NOW - timedelta(days=9)),
            published_precision=paper_pb2.DATE_PRECISION_DAY,
        )
    ]
    server.script([arxiv.too_many_requests("3600")])
    async with retrieval(tmp_path, server.url, embedding=embedding.address) as stub:
        found = await result(stub, "LoRA image", categories=["cs.CV"], match=search_pb2.MATCH_MODE_NONE)
        by_name = await result(stub, "LoRA image", source=search_pb2.SOURCE_STORE)

    assert found.report.source == search_pb2.SOURCE_STORE
    assert found.report.terms[0].is_stale
    assert [(each.name, each.dropped_count) for each in found.report.filters if each.name == "categories"] == [
        ("categories", 1)
    ]
    assert ids_in(by_name) == [1]
    assert not by_name.report.terms[0].is_stale
    asked = embedding.asked[0]
    assert (asked.text, list(asked.categories)) == ("LoRA image", ["cs.CV"])
    assert moment_of(asked.published_before).date() == NOW.date() + timedelta(days=1)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(grpc.StatusCode.UNAVAILABLE, "UPSTREAM_FAILED"), (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")],
)
async def test_store_by_name_that_does_not_answer(server, embedding, tmp_path, status, reason):
    embedding.status = status
    async with retrieval(tmp_path, server.url, embedding=embedding.address) as stub:
        error = await failure(stub, "LoRA", source=search_pb2.SOURCE_STORE)

    assert (error.code(), reason_in(error)) == (status, reason)
    assert server.requests == []


@pytest.mark.parametrize("status", [None, grpc.StatusCode.FAILED_PRECONDITION], ids=["empty store", "locked store"])
async def test_auto_is_unavailable_when_nobody_answers(server, embedding, tmp_path, status):
    """With advice, and never from the sample library."""
    embedding.status = status
    server.script([arxiv.too_many_requests("600")])
    async with retrieval(tmp_path, server.url, embedding=embedding.address) as stub:
        error = await failure(stub, "LoRA image")

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "wait 600 s" in error.details()
    assert "paperroute index build" in error.details()


async def test_missing_index_says_how_to_build_one(server, tmp_path):
    async with retrieval(tmp_path, server.url) as stub:
        error = await failure(stub, "LoRA", source=search_pb2.SOURCE_INDEX)

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_in(error) == "NOT_READY"
    assert "paperroute index build" in error.details()
    info = error_details_pb2.PreconditionFailure()
    assert any(detail.Unpack(info) for detail in status_in(error).details)
    assert server.requests == []


async def test_damaged_store_is_told_and_the_sample_library_still_answers(server, tmp_path):
    (tmp_path / FILE).write_bytes(b"no database" * 1_000)
    async with retrieval(tmp_path, server.url) as stub:
        error = await failure(stub, "LoRA", source=search_pb2.SOURCE_AUTO)
        found = await result(stub, "LoRA", source=search_pb2.SOURCE_SAMPLE)

    assert (error.code(), reason_in(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")
    assert f"remove {FILE}" in error.details()
    assert found.papers


async def test_withdrawn_papers_are_left_out_and_counted(server, tmp_path):
    async with retrieval(tmp_path, server.url) as stub:
        without = await result(stub, "neural graphs")
        with_them = await result(stub, "neural graphs", with_withdrawn=True)

    assert ids_in(without) == [200, 201, 203]
    assert [each.dropped_count for each in without.report.filters if each.name == "withdrawn"] == [1]
    assert ids_in(with_them) == [200, 201, 202, 203]
    assert [paper.paper_id[-3:] for paper in with_them.papers if paper.is_withdrawn] == ["202"]


async def test_limits_go_into_the_query(server, tmp_path):
    """What arXiv does not send need not be filtered, and does not fill the pages."""
    async with retrieval(tmp_path, server.url) as stub:
        found = await result(
            stub,
            "neural graphs",
            categories=["cs.LG", "stat.ML"],
            published_from=timestamp_of(NOW - timedelta(days=300)),
        )

    assert ids_in(found) == [200]
    assert found.report.filters[0].input_count == 1
    assert "(cat:cs.LG OR cat:stat.ML) AND submittedDate:[" in server.requests[0].query


async def test_article_is_the_published_baseline(server, tmp_path):
    """100 results of an OR, whatever is asked; "LoRA" counts inside of "exploration"."""
    async with retrieval(tmp_path, server.url) as stub:
        found = await result(stub, "LoRA imag", match=search_pb2.MATCH_MODE_ARTICLE)
        exploring = await result(stub, "exploration imagery", match=search_pb2.MATCH_MODE_ARTICLE)

    assert [(each.query, each.start, each.max_results) for each in server.requests] == [
        ("lora imag", 0, 100),
        ("exploration imagery", 0, 100),
    ]
    assert found.report.terms[0].found_count == 100
    assert [each.name for each in found.report.filters][2] == "article"
    assert len(found.papers) == 100
    assert ids_in(exploring) == [300]


async def test_none_keeps_whatever_comes(server, embedding, tmp_path):
    embedding.papers = [
        paper_pb2.Paper(paper_id="2501.00001", title="Cooking", published_at=timestamp_of(NOW - timedelta(days=9)))
    ]
    async with retrieval(tmp_path, server.url, embedding=embedding.address) as stub:
        kept = await result(stub, "LoRA", source=search_pb2.SOURCE_STORE, match=search_pb2.MATCH_MODE_NONE)
        dropped = await result(stub, "LoRA", source=search_pb2.SOURCE_STORE)

    assert (len(kept.papers), len(dropped.papers)) == (1, 0)


async def test_relevance_is_another_order_and_another_answer(server, tmp_path):
    async with retrieval(tmp_path, server.url) as stub:
        for cap_by in (search_pb2.CAP_BY_NEWEST, search_pb2.CAP_BY_RELEVANCE):
            await result(stub, "neural graphs", cap_by=cap_by)

    assert [each.sort_by for each in server.requests] == ["submittedDate", "relevance"]


async def test_broken_modes_are_named_at_once(server, tmp_path):
    async with retrieval(tmp_path, server.url) as stub:
        error = await failure(
            stub,
            "LoRA",
            match=9,
            cap_by=9,
            categories=["cs.CV", "cs.XX"],
            as_of=timestamp_of(NOW - timedelta(days=9)),
            published_from=timestamp_of(NOW),
        )

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in violations_in(error)] == ["match", "cap_by", "categories[1]", "published_from"]
