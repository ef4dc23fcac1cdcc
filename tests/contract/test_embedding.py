import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc
from paperroute.v1 import paper_pb2, usage_pb2
from serving import serving
from standins.provider_server import ProviderStandIn, quota_spent, refused_key, unknown_model
from standins.qdrant_server import QdrantStandIn

from services.common.channel import open_channel
from services.common.errors import reason_in, status_in, violations_in
from services.common.papers import timestamp_of
from services.common.vectors import vectors_of
from services.embedding.server import mount
from services.embedding.settings import EmbeddingSettings

ROOT = Path(__file__).parents[2]
IN_MEMORY = EmbeddingSettings(store=":memory:")
IN_FOLDER = EmbeddingSettings()
TIMEOUT_S = 60
CALL = usage_pb2.CallContext(tenant="tenant-a", survey_id="survey-1")
OTHER_CALL = usage_pb2.CallContext(tenant="tenant-b", survey_id="survey-2")

TOPICS = ("Image generation", "Object tracking", "Quantization", "Retrieval", "Scene reconstruction")


def papers_from(*numbers: int) -> list[paper_pb2.Paper]:
    return [
        paper_pb2.Paper(
            paper_id=f"2101.{number:05}",
            title=f"{TOPICS[number % len(TOPICS)]} in {number + 2} steps",
            abstract=f"We study {TOPICS[number % len(TOPICS)].lower()} with {number} examples.",
            published_at=new_year(2000 + number),
            published_precision=paper_pb2.DATE_PRECISION_DAY,
            categories=["cs.CV" if number % 2 else "cs.CL", "cs.LG"],
        )
        for number in numbers
    ]


def new_year(year: int) -> Timestamp:
    return timestamp_of(datetime(year, 1, 1, tzinfo=UTC))


def embed(
    channel: grpc.aio.Channel, papers: list[paper_pb2.Paper], **parts: object
) -> grpc.aio.UnaryUnaryCall[pb.EmbedPapersRequest, pb.EmbedPapersResponse]:
    stub = pb_grpc.EmbeddingServiceStub(channel)
    return stub.EmbedPapers(pb.EmbedPapersRequest(papers=papers, **parts), timeout=TIMEOUT_S)


def find(
    channel: grpc.aio.Channel, text: str = "object tracking", **parts: object
) -> grpc.aio.UnaryUnaryCall[pb.FindPapersRequest, pb.FindPapersResponse]:
    stub = pb_grpc.EmbeddingServiceStub(channel)
    return stub.FindPapers(pb.FindPapersRequest(text=text, **parts), timeout=TIMEOUT_S)


def texts_by(
    channel: grpc.aio.Channel, texts: list[str], **parts: object
) -> grpc.aio.UnaryUnaryCall[pb.EmbedTextsRequest, pb.EmbedTextsResponse]:
    stub = pb_grpc.EmbeddingServiceStub(channel)
    return stub.EmbedTexts(pb.EmbedTextsRequest(texts=texts, **parts), timeout=TIMEOUT_S)


async def calls_by(channel: grpc.aio.Channel, **parts: object) -> pb.ListEncoderCallsResponse:
    request = pb.ListEncoderCallsRequest(tenant=CALL.tenant, survey_id=CALL.survey_id, **parts)
    return await pb_grpc.EmbeddingServiceStub(channel).ListEncoderCalls(request, timeout=TIMEOUT_S)


async def deleted_by(channel: grpc.aio.Channel) -> int:
    request = pb.DeleteEncoderCallsRequest(tenant=CALL.tenant, survey_id=CALL.survey_id)
    return (await pb_grpc.EmbeddingServiceStub(channel).DeleteEncoderCalls(request, timeout=TIMEOUT_S)).deleted_count


def ids_of(response: pb.FindPapersResponse) -> list[str]:
    return [found.paper.paper_id for found in response.papers]


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serving(mount, IN_MEMORY) as opened:
        yield opened


@pytest.fixture(params=["edge", "server"])
async def any_channel(request) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the service with each of its stores, for promises that a store could break."""
    if request.param == "edge":
        async with serving(mount, IN_MEMORY) as opened:
            yield opened
    else:
        async with QdrantStandIn() as qdrant, serving(mount, EmbeddingSettings(store=qdrant.url)) as opened:
            yield opened


async def test_each_paper_gets_a_unit_row_in_its_place(channel):
    papers = papers_from(3, 1, 2)

    response = await embed(channel, papers)
    alone = [await embed(channel, [paper]) for paper in papers]

    rows = vectors_of(response.vectors, response.dimension)
    assert response.encoder == "wordllama:l2_supercat_256"
    assert rows.shape == (response.count, response.dimension) == (3, 256)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert b"".join(each.vectors for each in alone) == response.vectors
    assert len({row.tobytes() for row in rows}) == 3


async def test_a_repeated_request_is_served_from_the_store_to_the_bit(any_channel):
    first = await embed(any_channel, papers_from(1, 2, 3))
    again = await embed(any_channel, papers_from(1, 2, 3))
    mixed = await embed(any_channel, papers_from(4, 3))

    assert (first.cached_count, again.cached_count, mixed.cached_count) == (0, 3, 1)
    assert again.vectors == first.vectors
    assert mixed.vectors[1024:] == first.vectors[2048:]


async def test_query_vector_is_that_of_the_query(channel):
    """A query is encoded like a paper's text, so it lies near the papers it asks for."""
    response = await embed(channel, papers_from(*range(5)), query="object tracking")

    query = vectors_of(response.query_vector, response.dimension)
    assert query.shape == (1, 256)
    assert np.allclose(np.linalg.norm(query, axis=1), 1, atol=1e-6)
    assert int(np.argmax(vectors_of(response.vectors, response.dimension) @ query[0])) == 1


async def test_without_a_query_there_is_no_query_vector(channel):
    assert (await embed(channel, papers_from(1))).query_vector == b""


async def test_usage_names_the_encoder_and_costs_nothing(channel):
    first = await embed(channel, papers_from(1))
    again = await embed(channel, papers_from(1))

    for response, call_count in ((first, 1), (again, 0)):
        (usage,) = response.usage
        assert usage.model == response.encoder
        assert (usage.call_count, usage.input_tokens) == (call_count, 0)
        assert usage.HasField("cost_nano_usd")
        assert usage.cost_nano_usd == 0
        assert usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED


async def test_requests_at_once_find_one_opened_store(any_channel):
    """The first calls of a new server come while it is still opening; the paper they share is encoded once."""
    responses = await asyncio.gather(*(embed(any_channel, papers_from(1)) for _ in range(6)))

    assert sorted(response.cached_count for response in responses) == [0, 1, 1, 1, 1, 1]
    assert len({response.vectors for response in responses}) == 1


async def test_all_broken_fields_are_named(channel):
    """The answer to a broken request must spare its sender a second try."""
    broken = paper_pb2.Paper(paper_id="https://arxiv.org/abs/1706.03762", abstract="x" * 200_001)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await embed(channel, [*papers_from(1, 1), broken], encoder="nobody:nothing", query="x" * 4_001)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_in(failure.value)] == [
        "encoder",
        "papers[2].paper_id",
        "papers[2].title",
        "papers[2].abstract",
        "papers",
        "query",
    ]


@pytest.mark.parametrize("count", [0, 501])
async def test_a_wrong_number_of_papers_is_refused(channel, count):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await embed(channel, papers_from(*range(count)))

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_in(failure.value)] == ["papers"]


@pytest.mark.parametrize("encoder", ["nobody:nothing", "wordllama:l3", "x"])
async def test_an_encoder_that_does_not_exist_is_told_with_the_providers(channel, encoder):
    for call in (embed(channel, papers_from(1), encoder=encoder), find(channel, encoder=encoder)):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call

        (violation,) = violations_in(failure.value)
        assert violation.field == "encoder"
        assert "provider fastembed or gemini or openai or wordllama" in violation.description


async def test_an_encoder_whose_package_is_missing_is_a_failed_precondition(channel, monkeypatch):
    """It is an extra; the local encoder goes on."""
    monkeypatch.setitem(sys.modules, "fastembed", None)

    for call in (embed(channel, papers_from(1), encoder="fastembed:org/model"), find(channel, encoder="fastembed:x")):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call

        assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "paperroute[fastembed]" in (failure.value.details() or "")
    assert (await embed(channel, papers_from(1))).count == 1


async def test_found_papers_come_nearest_first_as_they_were_embedded(any_channel):
    papers = papers_from(*range(5))
    papers[1].version = 3
    papers[1].authors.extend(["Ada Lovelace", "岡 潔"])
    papers[1].abstract_origin = paper_pb2.ABSTRACT_ORIGIN_PARAPHRASE
    await embed(any_channel, papers)

    response = await find(any_channel, "object tracking")

    assert response.papers[0].paper == papers[1]
    similarities = [found.similarity for found in response.papers]
    assert similarities == sorted(similarities, reverse=True)
    assert all(-1 <= each <= 1 for each in similarities)
    assert sorted(ids_of(response)) == [paper.paper_id for paper in papers]
    assert response.encoder == "wordllama:l2_supercat_256"


async def test_similarity_is_the_cosine_of_the_vectors(channel):
    embedded = await embed(channel, papers_from(*range(5)), query="object tracking")

    response = await find(channel, "object tracking")

    query = vectors_of(embedded.query_vector, embedded.dimension)[0]
    cosines = sorted(vectors_of(embedded.vectors, embedded.dimension) @ query, reverse=True)
    assert np.allclose([found.similarity for found in response.papers], cosines, atol=1e-6)


async def test_a_text_equal_to_a_papers_is_not_nearer_than_one(channel):
    """Rounding would otherwise carry the cosine past 1."""
    papers = papers_from(*range(20))
    await embed(channel, papers)

    for paper in papers:
        (found,) = (await find(channel, f"{paper.title}\n{paper.abstract}", max_papers=1)).papers
        assert found.paper.paper_id == paper.paper_id
        assert 1 - 1e-6 <= found.similarity <= 1


async def test_usage_of_a_search_names_the_encoder_and_costs_nothing(channel):
    (usage,) = (await find(channel)).usage

    assert (usage.model, usage.call_count, usage.input_tokens) == ("wordllama:l2_supercat_256", 1, 0)
    assert usage.HasField("cost_nano_usd")
    assert usage.cost_nano_usd == 0
    assert usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED


async def test_nothing_is_found_before_anything_was_embedded(any_channel):
    assert list((await find(any_channel)).papers) == []


async def test_a_search_is_not_kept(channel):
    """Its text is a reader's; the store holds papers only."""
    await embed(channel, papers_from(1))

    first = await find(channel, "object tracking")

    assert await find(channel, "object tracking") == first
    assert ids_of(first) == ["2101.00001"]


@pytest.mark.parametrize(("max_papers", "count"), [(0, 50), (1, 1), (60, 60), (500, 60)])
async def test_as_many_papers_are_found_as_asked_for(any_channel, max_papers, count):
    await embed(any_channel, papers_from(*range(60)))

    response = await find(any_channel, max_papers=max_papers)

    assert len(response.papers) == len(set(ids_of(response))) == count


async def test_a_paper_with_several_texts_is_found_once_by_the_nearest(any_channel):
    paper = papers_from(1)[0]
    for abstract in ("Object tracking.", "We follow objects by object tracking.", "Cooking."):
        paper.abstract = abstract
        await embed(any_channel, [paper])
    await embed(any_channel, papers_from(2, 3))

    response = await find(any_channel, "Object tracking in 3 steps\nObject tracking.", max_papers=3)

    assert sorted(ids_of(response)) == ["2101.00001", "2101.00002", "2101.00003"]
    assert response.papers[0].paper.abstract == "Object tracking."


@pytest.mark.parametrize(
    ("parts", "numbers"),
    [
        pytest.param({"published_from": new_year(2004)}, [4, 5], id="from"),
        pytest.param({"published_before": new_year(2002)}, [0, 1], id="before"),
        pytest.param({"published_from": new_year(2001), "published_before": new_year(2003)}, [1, 2], id="span"),
        pytest.param({"categories": ["cs.XX", "cs.CL"]}, [0, 2, 4], id="any category"),
        pytest.param({"published_from": new_year(2002), "categories": ["cs.CV"]}, [3, 5], id="both"),
    ],
)
async def test_only_papers_within_the_limits_are_found(any_channel, parts, numbers):
    await embed(any_channel, papers_from(*range(6)))

    assert sorted(ids_of(await find(any_channel, **parts))) == [f"2101.{number:05}" for number in numbers]


async def test_all_broken_fields_of_a_search_are_named(channel):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await find(
            channel,
            " ",
            encoder="nobody:nothing",
            max_papers=501,
            published_from=new_year(2002),
            published_before=new_year(2001),
            categories=["cs.CV", "x" * 41],
        )

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_in(failure.value)] == [
        "encoder",
        "text",
        "max_papers",
        "published_before",
        "categories[1]",
    ]


async def test_what_was_embedded_is_found_by_the_next_server(tmp_path):
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        await embed(opened, papers_from(*range(6)))
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        response = await find(opened, categories=["cs.CV"], published_before=new_year(2005))

    assert sorted(ids_of(response)) == ["2101.00001", "2101.00003"]


async def test_vectors_outlive_the_server(tmp_path):
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        first = await embed(opened, papers_from(1, 2))
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        again = await embed(opened, papers_from(2, 1, 3))

    assert again.cached_count == 2
    assert again.vectors[:2048] == first.vectors[1024:] + first.vectors[:1024]


async def test_a_store_in_use_is_a_failed_precondition_until_it_is_free(tmp_path):
    failures = []
    async with serving(mount, IN_FOLDER, tmp_path) as holder:
        await embed(holder, papers_from(1))
        async with serving(mount, IN_FOLDER, tmp_path) as other:
            for call in (embed(other, papers_from(1)), find(other)):
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await call
                failures.append(failure.value)
    async with serving(mount, IN_FOLDER, tmp_path) as next_holder:
        assert len((await find(next_holder)).papers) == 1

    for failure in failures:
        assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason_in(failure) == "NOT_READY"
        assert "PAPERROUTE_EMBEDDING__STORE" in (failure.details() or "")
        assert detail_of(failure, error_details_pb2.PreconditionFailure()).violations


async def test_a_store_in_use_is_replaced_by_memory_where_that_is_set(tmp_path):
    async with serving(mount, IN_FOLDER, tmp_path) as holder:
        await embed(holder, papers_from(1))  # from here on it has the folder
        async with serving(mount, EmbeddingSettings(memory_when_locked=True), tmp_path) as other:
            first = await embed(other, papers_from(1, 2))
            again = await embed(other, papers_from(1, 2))

    assert (first.cached_count, again.cached_count) == (0, 2)


async def test_an_unusable_data_folder_is_a_failed_precondition(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    async with serving(mount, IN_FOLDER, tmp_path / "data") as opened:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await embed(opened, papers_from(1))

    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "PAPERROUTE_DATA_DIR" in (failure.value.details() or "")


async def test_a_store_that_fails_is_unavailable_until_it_works_again():
    async with QdrantStandIn() as qdrant, serving(mount, EmbeddingSettings(store=qdrant.url)) as opened:
        await embed(opened, papers_from(1))
        failures = []
        qdrant.fails_with = 503
        for call in (embed(opened, papers_from(1, 2)), find(opened)):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call
            failures.append(failure.value)
        qdrant.fails_with = None
        afterwards = await embed(opened, papers_from(1, 2))

    for failure in failures:
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_in(failure) == "UPSTREAM_FAILED"
        assert detail_of(failure, error_details_pb2.RetryInfo()).HasField("retry_delay")
    assert afterwards.cached_count == 1


async def test_a_server_can_stop_before_anything_was_asked(tmp_path):
    """What is being opened in the background is closed again, and the folder is free."""
    async with serving(mount, IN_FOLDER, tmp_path):
        pass
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        assert (await embed(opened, papers_from(1))).count == 1


async def test_texts_get_unit_rows_in_their_places(channel):
    """The same as a query's, and in the store there is nothing afterwards."""
    texts = ["object tracking", "画像生成", "object tracking"]

    response = await texts_by(channel, texts)

    rows = vectors_of(response.vectors, response.dimension)
    query = await embed(channel, papers_from(1), query="object tracking")
    assert (response.encoder, response.count, rows.shape) == ("wordllama:l2_supercat_256", 3, (3, 256))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[0].tobytes() == rows[2].tobytes() == query.query_vector
    assert query.cached_count == 0
    (usage,) = response.usage
    assert (usage.model, usage.call_count, usage.cost_nano_usd) == (response.encoder, 1, 0)
    assert usage.HasField("cost_nano_usd")


async def test_all_broken_fields_of_a_request_for_texts_are_named(channel):
    call = usage_pb2.CallContext(max_cost_nano_usd=-1, tenant="x" * 129)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await texts_by(channel, ["", "x" * 4_001], encoder="nobody:nothing", call=call)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    fields = ["call.max_cost_nano_usd", "call.tenant", "encoder", "texts[0]", "texts[1]"]
    assert [violation.field for violation in violations_in(failure.value)] == fields


async def test_calls_are_listed_for_a_survey_that_made_none(channel):
    """Local encoders are called for nothing, and nothing of it is recorded."""
    await texts_by(channel, ["a"], call=CALL)

    assert (await calls_by(channel)).calls == []
    assert await deleted_by(channel) == 0


async def test_broken_fields_of_requests_for_calls_are_named(channel):
    stub = pb_grpc.EmbeddingServiceStub(channel)
    unknown_page = {"tenant": "t", "survey_id": "s", "page_token": "?"}
    for call, fields in (
        (stub.ListEncoderCalls(pb.ListEncoderCallsRequest(page_size=1_001)), ["tenant", "survey_id", "page_size"]),
        (stub.ListEncoderCalls(pb.ListEncoderCallsRequest(**unknown_page)), ["page_token"]),
        (stub.DeleteEncoderCalls(pb.DeleteEncoderCallsRequest()), ["tenant", "survey_id"]),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call

        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in violations_in(failure.value)] == fields


@pytest.fixture
async def far(monkeypatch) -> AsyncIterator[ProviderStandIn]:
    """The servers of all providers, with a key for each."""
    async with ProviderStandIn() as standin:
        for name in ("openai", "gemini"):
            monkeypatch.setenv(f"PAPERROUTE_{name.upper()}__BASE_URL", getattr(standin, f"{name}_url"))
            monkeypatch.setenv(f"{name.upper()}_API_KEY", "k")
        yield standin


@pytest.mark.parametrize("encoder", ["openai:text-embedding-3-large@128", "gemini:gemini-embedding-001@128"])
async def test_a_remote_encoder_is_paid_once(far, tmp_path, encoder):
    """By the one who asked first: a store hit costs nobody anything, a recorded question costs its tenant nothing."""
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        first = await embed(opened, papers_from(1, 2), query="object tracking", encoder=encoder, call=CALL)
        again = await embed(opened, papers_from(1, 2), query="object tracking", encoder=encoder, call=CALL)
        found = await find(opened, encoder=encoder, call=CALL)
    async with serving(mount, IN_MEMORY, tmp_path) as opened:
        anew = await embed(opened, papers_from(1, 2), encoder=encoder, call=OTHER_CALL)
        listed = await calls_by(opened)
        deleted = await deleted_by(opened)

    rows = vectors_of(first.vectors, first.dimension)
    assert (first.encoder, first.dimension, rows.shape) == (encoder, 128, (2, 128))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert len(far.requests) == 2
    (paid,) = first.usage
    assert (paid.model, paid.call_count) == (encoder.partition("@")[0], 2)
    assert paid.input_tokens > 0
    assert paid.cost_nano_usd > 0
    assert (again.vectors, again.cached_count) == (first.vectors, 2)
    assert again.usage[0].cost_nano_usd < paid.cost_nano_usd  # the question alone, which its payer gets back
    assert sorted(ids_of(found)) == ["2101.00001", "2101.00002"]
    assert anew.vectors == first.vectors
    assert (anew.usage[0].cost_nano_usd, anew.usage[0].avoided_cost_nano_usd > 0) == (0, True)
    assert [call.item for call in listed.calls] == ["papers 1", "texts 1"]
    assert {call.stage for call in listed.calls} == {"embed"}
    assert {call.outcome for call in listed.calls} == {usage_pb2.CALL_OUTCOME_OK}
    assert sum(call.usage.cost_nano_usd for call in listed.calls) == paid.cost_nano_usd
    assert deleted == 1


async def test_listed_calls_come_in_pages(far, tmp_path):
    encoder = "openai:text-embedding-3-large@16"
    async with serving(mount, IN_MEMORY, tmp_path) as opened:
        for text in ("a", "b", "c"):
            await texts_by(opened, [text], encoder=encoder, call=CALL)
        first = await calls_by(opened, page_size=2)
        second = await calls_by(opened, page_size=2, page_token=first.next_page_token)

    assert (len(first.calls), len(second.calls), second.next_page_token) == (2, 1, "")
    assert len({call.call_id for call in (*first.calls, *second.calls)}) == 3


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        pytest.param(refused_key(), grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY", id="key refused"),
        pytest.param(unknown_model(), grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY", id="no such model"),
        pytest.param(quota_spent(), grpc.StatusCode.UNAVAILABLE, "UPSTREAM_FAILED", id="quota spent"),
    ],
)
async def test_a_remote_encoder_that_fails_is_told(far, tmp_path, fault, code, reason):
    encoder = "openai:text-embedding-3-large@16"
    far.faults["text-embedding-3-large"] = fault
    async with serving(mount, IN_MEMORY, tmp_path) as opened:
        for call in (
            embed(opened, papers_from(1), encoder=encoder),
            find(opened, encoder=encoder),
            texts_by(opened, ["a"], encoder=encoder),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call

            assert (failure.value.code(), reason_in(failure.value)) == (code, reason)
            assert "openai:text-embedding-3-large" in (failure.value.details() or "")
        far.faults.clear()
        assert (await embed(opened, papers_from(1), encoder=encoder)).count == 1


async def test_a_missing_key_is_told_and_nothing_is_sent(far, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    async with serving(mount, IN_MEMORY, tmp_path) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await embed(opened, papers_from(1), encoder="openai:text-embedding-3-large")

    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "OPENAI_API_KEY" in (failure.value.details() or "")
    assert far.requests == []


async def test_a_budget_stops_a_remote_encoder_before_it_is_asked(far, tmp_path):
    call = usage_pb2.CallContext(tenant="t", survey_id="s", max_cost_nano_usd=1)
    async with serving(mount, IN_MEMORY, tmp_path) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await embed(opened, papers_from(1), encoder="openai:text-embedding-3-large@16", call=call)

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_in(failure.value) == "BUDGET_REACHED"
    assert far.requests == []


async def test_a_ledger_that_cannot_be_opened_is_a_failed_precondition(far, tmp_path):
    (tmp_path / "embedding.sqlite3").mkdir()
    async with serving(mount, IN_MEMORY, tmp_path) as opened:
        for call in (
            texts_by(opened, ["a"], encoder="openai:text-embedding-3-large@16"),
            calls_by(opened),
            deleted_by(opened),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call

            assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (await texts_by(opened, ["a"])).count == 1  # what costs nothing needs no ledger
    assert far.requests == []


async def test_an_acknowledged_vector_survives_a_kill(tmp_path):
    """The process ends without a chance to write anything more."""
    first_process, address = start_role(tmp_path)
    try:
        async with open_channel(address) as opened:
            first = await embed(opened, papers_from(*range(20)))
    finally:
        first_process.kill()
        first_process.communicate()

    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        again = await embed(opened, papers_from(*range(20)))

        found = await find(opened, max_papers=100)

    assert (first.cached_count, again.cached_count) == (0, 20)
    assert again.vectors == first.vectors
    assert len(found.papers) == 20


def start_role(data_dir: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the role in a process of its own; return it and the address it listens on."""
    settings = {
        "PAPERROUTE_DATA_DIR": str(data_dir),
        "PAPERROUTE_LOG_LEVEL": "info",
        "PAPERROUTE_EMBEDDING__LISTEN": "127.0.0.1:0",
    }
    code = "import asyncio; from services.embedding.server import main; asyncio.run(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | settings, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"embedding listens on (\S+)", line):
            return process, found[1]
    raise AssertionError(f"the role ended with {process.wait()} before it listened")


def detail_of(failure, detail):
    """Return the detail of that kind which the failed call carries."""
    status = status_in(failure)
    assert status
    assert any(packed.Unpack(detail) for packed in status.details)
    return detail
