import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc
from paperroute.v1 import paper_pb2, usage_pb2
from serving import serving

from services.common.channel import open_channel
from services.common.errors import reason_in, status_in, violations_in
from services.common.vectors import vectors_of
from services.embedding.server import mount
from services.embedding.settings import EmbeddingSettings

ROOT = Path(__file__).parents[2]
IN_MEMORY = EmbeddingSettings(store=":memory:")
IN_FOLDER = EmbeddingSettings()
TIMEOUT_S = 60

TOPICS = ("Image generation", "Object tracking", "Quantization", "Retrieval", "Scene reconstruction")


def papers_from(*numbers: int) -> list[paper_pb2.Paper]:
    return [
        paper_pb2.Paper(
            paper_id=f"2101.{number:05}",
            title=f"{TOPICS[number % len(TOPICS)]} in {number + 2} steps",
            abstract=f"We study {TOPICS[number % len(TOPICS)].lower()} with {number} examples.",
        )
        for number in numbers
    ]


def embed(
    channel: grpc.aio.Channel, papers: list[paper_pb2.Paper], **parts: str
) -> grpc.aio.UnaryUnaryCall[pb.EmbedPapersRequest, pb.EmbedPapersResponse]:
    stub = pb_grpc.EmbeddingServiceStub(channel)
    return stub.EmbedPapers(pb.EmbedPapersRequest(papers=papers, **parts), timeout=TIMEOUT_S)


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serving(mount, IN_MEMORY) as opened:
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


async def test_a_repeated_request_is_served_from_the_store_to_the_bit(channel):
    first = await embed(channel, papers_from(1, 2, 3))
    again = await embed(channel, papers_from(1, 2, 3))
    mixed = await embed(channel, papers_from(4, 3))

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


async def test_requests_at_once_find_one_opened_store(channel):
    """The first calls of a new server come while it is still opening; the paper they share is encoded once."""
    responses = await asyncio.gather(*(embed(channel, papers_from(1)) for _ in range(6)))

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


async def test_vectors_outlive_the_server(tmp_path):
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        first = await embed(opened, papers_from(1, 2))
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        again = await embed(opened, papers_from(2, 1, 3))

    assert again.cached_count == 2
    assert again.vectors[:2048] == first.vectors[1024:] + first.vectors[:1024]


async def test_a_store_in_use_is_a_failed_precondition_until_it_is_free(tmp_path):
    async with serving(mount, IN_FOLDER, tmp_path) as holder:
        await embed(holder, papers_from(1))
        async with serving(mount, IN_FOLDER, tmp_path) as other:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await embed(other, papers_from(1))

    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_in(failure.value) == "NOT_READY"
    assert "PAPERROUTE_EMBEDDING__STORE" in (failure.value.details() or "")
    assert detail_of(failure.value, error_details_pb2.PreconditionFailure()).violations


async def test_a_store_in_use_is_replaced_by_memory_where_that_is_set(tmp_path):
    async with (
        serving(mount, IN_FOLDER, tmp_path) as holder,
        serving(mount, EmbeddingSettings(memory_when_locked=True), tmp_path) as other,
    ):
        await embed(holder, papers_from(1))
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


async def test_a_store_that_fails_is_unavailable_until_it_works_again(tmp_path):
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        await embed(opened, papers_from(1))
        (file,) = tmp_path.rglob("storage.sqlite")
        database = sqlite3.connect(file)
        database.execute("ALTER TABLE points RENAME TO away")

        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await embed(opened, papers_from(1, 2))
        database.execute("ALTER TABLE away RENAME TO points")
        database.close()
        afterwards = await embed(opened, papers_from(1, 2))

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_in(failure.value) == "UPSTREAM_FAILED"
    assert detail_of(failure.value, error_details_pb2.RetryInfo()).HasField("retry_delay")
    assert afterwards.cached_count == 1


async def test_a_server_can_stop_before_anything_was_asked(tmp_path):
    """What is being opened in the background is closed again, and the folder is free."""
    async with serving(mount, IN_FOLDER, tmp_path):
        pass
    async with serving(mount, IN_FOLDER, tmp_path) as opened:
        assert (await embed(opened, papers_from(1))).count == 1


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

    assert (first.cached_count, again.cached_count) == (0, 20)
    assert again.vectors == first.vectors


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
