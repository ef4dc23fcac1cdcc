from datetime import UTC, datetime

import numpy as np
import pytest
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import paper_pb2, usage_pb2

from services.common.errors import InvalidRequest
from services.common.papers import timestamp_of
from services.embedding import convert
from services.embedding.paper_vectors import EmbeddedPapers
from services.embedding.wordllama_encoder import WordLlamaEncoder

ENCODER = WordLlamaEncoder()
ENCODERS = {ENCODER.name: ENCODER}


def message(number: int = 1) -> paper_pb2.Paper:
    return paper_pb2.Paper(
        paper_id=f"2101.{number:05}",
        title="A title",
        abstract="An abstract.",
        published_at=timestamp_of(datetime(2021, 1, 1, tzinfo=UTC)),
    )


def broken(request: pb.EmbedPapersRequest) -> list[str]:
    with pytest.raises(InvalidRequest) as failure:
        convert.embedding_of(request, ENCODERS, ENCODER.name)
    return [violation.field for violation in failure.value.violations]


@pytest.mark.parametrize("named", ["", ENCODER.name])
def test_encoder_is_the_one_named_or_the_default(named):
    asked = convert.embedding_of(
        pb.EmbedPapersRequest(encoder=named, papers=[message(2), message(1)], query="Why?"), ENCODERS, ENCODER.name
    )

    assert asked.encoder is ENCODER
    assert [paper.paper_id for paper in asked.papers] == ["2101.00002", "2101.00001"]
    assert asked.query == "Why?"


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        pytest.param({"encoder": "openai:unknown"}, ["encoder"], id="unknown encoder"),
        pytest.param({"encoder": "no colon"}, ["encoder"], id="malformed encoder"),
        pytest.param({"papers": []}, ["papers"], id="no paper"),
        pytest.param({"papers": [message(each) for each in range(501)]}, ["papers"], id="too many papers"),
        pytest.param({"papers": [message(), message()]}, ["papers"], id="a paper twice"),
        pytest.param({"papers": [message(), paper_pb2.Paper(title="x")]}, ["papers[1].paper_id"], id="no paper_id"),
        pytest.param({"query": "x" * 4_001}, ["query"], id="long query"),
        pytest.param(
            {"encoder": "x:y", "papers": [paper_pb2.Paper()], "query": "x" * 4_001},
            ["encoder", "papers[0].paper_id", "papers[0].title", "query"],
            id="all at once",
        ),
    ],
)
def test_broken_fields_are_all_named(change, fields):
    parts = {"papers": [message()]} | change

    assert broken(pb.EmbedPapersRequest(**parts)) == fields


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"papers": [message(each) for each in range(500)]}, id="500 papers"),
        pytest.param({"papers": [message()], "query": "問" * 4_000}, id="4,000 characters"),
    ],
)
def test_the_limits_themselves_are_allowed(parts):
    asked = convert.embedding_of(pb.EmbedPapersRequest(**parts), ENCODERS, ENCODER.name)

    assert len(asked.papers) == len(parts["papers"])


def test_an_unknown_encoder_is_answered_with_those_there_are():
    with pytest.raises(InvalidRequest, match="one of wordllama:l2_supercat_256, not 'openai:unknown'"):
        convert.embedding_of(
            pb.EmbedPapersRequest(encoder="openai:unknown", papers=[message()]), ENCODERS, ENCODER.name
        )


def test_response_carries_rows_counts_and_usage():
    vectors = np.eye(2, ENCODER.dimension, dtype=np.float32)
    embedded = EmbeddedPapers(vectors=vectors, cached_count=1, query_vector=vectors[1], call_count=1)

    response = convert.response_of(ENCODER, embedded)

    assert response.vectors == vectors.astype("<f4").tobytes()
    assert response.query_vector == vectors[1].astype("<f4").tobytes()
    assert (response.encoder, response.dimension, response.count, response.cached_count) == (ENCODER.name, 256, 2, 1)
    (usage,) = response.usage
    assert usage == usage_pb2.ModelUsage(
        model=ENCODER.name, call_count=1, cost_nano_usd=0, source=usage_pb2.USAGE_SOURCE_ESTIMATED
    )
    assert usage.HasField("cost_nano_usd")


def test_response_without_a_query_has_no_query_vector():
    embedded = EmbeddedPapers(
        vectors=np.eye(1, ENCODER.dimension, dtype=np.float32), cached_count=1, query_vector=None, call_count=0
    )

    response = convert.response_of(ENCODER, embedded)

    assert response.query_vector == b""
    assert response.usage[0].call_count == 0
