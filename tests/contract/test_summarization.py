"""SummarizationService over a real channel: what the comments of its contract promise."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paperroute.v1 import paper_pb2, usage_pb2
from paperroute.v1 import summarization_service_pb2 as pb
from paperroute.v1 import summarization_service_pb2_grpc as pb_grpc
from serving import serving

from services.common.errors import reason_in, violations_in
from services.generation import summarization_server
from services.generation.settings import SummarizationSettings

LIBRARY = Path(__file__).parents[2] / "services" / "retrieval" / "sample_library.jsonl"


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serving(summarization_server.mount, SummarizationSettings()) as opened:
        yield opened


@pytest.fixture
def summarization(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.SummarizationServiceStub(channel)


def papers() -> list[paper_pb2.Paper]:
    records = [json.loads(line) for line in LIBRARY.read_text(encoding="utf-8").splitlines()]
    return [
        paper_pb2.Paper(paper_id=record["id"], title=record["title"], abstract=record["abstract"])
        for record in records[::9]
    ]


async def test_a_summary_is_one_paragraph_of_the_papers_own_sentences(summarization: Any):
    for paper in papers():
        response = await summarization.SummarizePaper(pb.SummarizePaperRequest(paper=paper, language="ja"), timeout=10)

        assert response.summary
        assert "\n" not in response.summary
        assert all(sentence.rstrip(".") in paper.abstract for sentence in response.summary.split(". "))
        assert response.model == "extractive:builtin"
        (usage,) = response.usage
        assert (usage.model, usage.call_count, usage.cost_nano_usd) == ("extractive:builtin", 1, 0)
        assert usage.HasField("cost_nano_usd")
        assert usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED


async def test_repeating_it_gives_the_same(summarization: Any):
    """The method is tried again when a worker goes away, so that it must not matter which worker answers."""
    request = pb.SummarizePaperRequest(paper=papers()[0], language="en")

    first, second = [await summarization.SummarizePaper(request, timeout=10) for _ in range(2)]

    assert first == second


async def test_the_reading_time_decides_the_length(summarization: Any):
    lengths = []
    for seconds in (5, 0, 120):
        request = pb.SummarizePaperRequest(paper=papers()[1], language="en", summary_seconds=seconds)
        response = await summarization.SummarizePaper(request, timeout=10)
        lengths.append(len(response.summary.split()))

    assert lengths == sorted(set(lengths))


async def test_a_paper_without_abstract_has_a_summary_too(summarization: Any):
    """Never empty."""
    paper = paper_pb2.Paper(paper_id="2501.00001", title="A title")

    response = await summarization.SummarizePaper(pb.SummarizePaperRequest(paper=paper, language="en"), timeout=10)

    assert response.summary == "A title"


async def test_broken_fields_are_all_named(summarization: Any):
    request = pb.SummarizePaperRequest(
        model="nobody:gpt", paper=paper_pb2.Paper(paper_id="x"), language="", summary_seconds=3
    )

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await summarization.SummarizePaper(request, timeout=10)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_in(failure.value) == "INVALID_REQUEST"
    assert [violation.field for violation in violations_in(failure.value)] == [
        "model",
        "paper.paper_id",
        "paper.title",
        "language",
        "summary_seconds",
    ]


async def test_the_service_says_that_it_serves(channel: grpc.aio.Channel):
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="paperroute.v1.SummarizationService")

    assert (await health.Check(request, timeout=10)).status == health_pb2.HealthCheckResponse.SERVING
