"""Searches whose terms a remote encoder encodes: they are paid for by the survey that searches, within its limit."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import paper_pb2, search_pb2, usage_pb2
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc
from serving import served, serving
from standins.provider_server import ProviderStandIn

from services.common.channel import open_channel
from services.common.errors import reason_in, violations_in
from services.embedding import server as embedding_server
from services.embedding.settings import EmbeddingSettings
from services.retrieval import server as retrieval_server
from services.retrieval.index_build import build
from services.retrieval.index_vectors import embedded
from services.retrieval.settings import RetrievalSettings

ENCODER = "openai:text-embedding-3-large@16"
TERMS = ["glaciers", "oceanics"]
INDEX = "arxiv_index.sqlite3"
NOBODY = "http://127.0.0.1:1/api/query"


@dataclass
class Searching:
    """Retrieval and embedding, with all papers both in the store and in the index, encoded by a paid encoder."""

    retrieval: pb_grpc.RetrievalServiceStub
    embedding: embedding_grpc.EmbeddingServiceStub
    provider: ProviderStandIn

    async def search(self, survey: str, source: search_pb2.Source, limit: int | None) -> pb.SearchResult:
        call = usage_pb2.CallContext(tenant="team", survey_id=survey, max_cost_nano_usd=limit, cache_off=True)
        request = pb.SearchPapersRequest(
            call=call,
            search_terms=TERMS,
            source=source,
            match=search_pb2.MATCH_MODE_NONE,
            cap_by=search_pb2.CAP_BY_RELEVANCE,
        )
        found = [message async for message in self.retrieval.SearchPapers(request, timeout=30)]
        return found[-1].result

    async def paid(self, survey: str) -> list[usage_pb2.RecordedCall]:
        request = embedding_pb.ListEncoderCallsRequest(tenant="team", survey_id=survey)
        return list((await self.embedding.ListEncoderCalls(request, timeout=10)).calls)


@pytest.fixture
async def searching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Searching]:
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(ProviderStandIn())
        monkeypatch.setenv("PAPERROUTE_OPENAI__BASE_URL", provider.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        settings = EmbeddingSettings(store=":memory:", encoder=ENCODER)
        address = await stack.enter_async_context(served(embedding_server.mount, settings, tmp_path))
        channel = await stack.enter_async_context(open_channel(address))
        embedding = embedding_grpc.EmbeddingServiceStub(channel)
        await fill(embedding, tmp_path)
        provider.requests.clear()
        looking = RetrievalSettings(arxiv_url=NOBODY, embedding=address)
        channel = await stack.enter_async_context(serving(retrieval_server.mount, looking, tmp_path))
        yield Searching(pb_grpc.RetrievalServiceStub(channel), embedding, provider)


async def fill(embedding: Any, data_dir: Path) -> None:
    papers = [
        paper_pb2.Paper(paper_id=f"2501.{number:05}", title=f"On {TERMS[number % 2]}", abstract=f"Number {number}.")
        for number in range(10)
    ]
    for paper in papers:
        paper.published_at.seconds = 1_735_700_000
    await embedding.EmbedPapers(embedding_pb.EmbedPapersRequest(papers=papers), timeout=30)
    records = [
        {"id": each.paper_id, "title": each.title, "abstract": each.abstract, "published": "2025-01-01"}
        | {"date": "2025-01-01", "categories": ["cs.CV"], "authors": ["Ada Lovelace"]}
        for each in papers
    ]
    file = data_dir / "records.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in records))
    await build([file], data_dir / INDEX, lambda papers: embedded(embedding, papers))


SOURCES = pytest.mark.parametrize("source", [search_pb2.SOURCE_STORE, search_pb2.SOURCE_INDEX], ids=["store", "index"])


@SOURCES
async def test_the_survey_that_searches_pays_within_its_limit(searching: Searching, source: search_pb2.Source):
    found = await searching.search("one", source, 100_000)

    calls = await searching.paid("one")
    cost = sum(call.usage.cost_nano_usd for call in calls)
    assert {call.stage for call in calls} == {"retrieve"}
    assert len(calls) == len(TERMS)
    assert 0 < cost <= 100_000
    assert sum(usage.cost_nano_usd for usage in found.usage) == cost
    assert len(found.papers) == 10


async def test_a_limit_holds_for_all_terms_together(searching: Searching):
    """Enough for one term twice over, but not for each of two."""
    await searching.search("measure", search_pb2.SOURCE_STORE, None)
    worst = max(call.worst_cost_nano_usd for call in await searching.paid("measure"))
    assert worst > 0
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await searching.search("one", search_pb2.SOURCE_STORE, 2 * worst - 1)

    assert (failure.value.code(), reason_in(failure.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_REACHED")
    assert await searching.paid("one") == []


async def test_an_index_does_without_vectors_that_are_too_dear_and_others_get_theirs(searching: Searching):
    poor = await searching.search("poor", search_pb2.SOURCE_INDEX, 0)
    rich = await searching.search("rich", search_pb2.SOURCE_INDEX, 100_000)

    assert len(poor.papers) == len(rich.papers) == 10
    assert list(poor.usage) == []
    assert len(await searching.paid("rich")) == len(TERMS)
    assert len(searching.provider.requests) == len(TERMS)


async def test_a_broken_context_is_named(searching: Searching):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await searching.search("x" * 200, search_pb2.SOURCE_STORE, -1)

    fields = [violation.field for violation in violations_in(failure.value)]
    assert fields == ["call.max_cost_nano_usd", "call.survey_id"]
