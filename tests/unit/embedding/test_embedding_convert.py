from datetime import UTC, datetime

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import paper_pb2, usage_pb2

from services.common.errors import InvalidRequest
from services.common.paid.usage import Usage, usage_message
from services.common.papers import Paper, timestamp_of
from services.embedding import convert
from services.embedding.local_encoder import LocalEncoder
from services.embedding.paper_vectors import EmbeddedPapers, Encoded, FoundPaper, FoundPapers, Selection
from services.embedding.wordllama_encoder import WordLlamaEncoder

ENCODER = LocalEncoder(WordLlamaEncoder())
WANTED = "one of those there are"
PAID = Usage(model="openai:text-embedding-3-large", call_count=2, input_tokens=30, cost_nano_usd=3_900)
FIRST, SECOND = datetime(2021, 1, 1, tzinfo=UTC), datetime(2021, 1, 2, tzinfo=UTC)
NO_MOMENT = Timestamp(seconds=-(10**12))


def message(number: int = 1) -> paper_pb2.Paper:
    return paper_pb2.Paper(
        paper_id=f"2101.{number:05}",
        title="A title",
        abstract="An abstract.",
        published_at=timestamp_of(FIRST),
    )


def broken(read, request, encoder=ENCODER) -> list[str]:
    with pytest.raises(InvalidRequest) as failure:
        read(request, encoder, WANTED)
    return [violation.field for violation in failure.value.violations]


def test_a_request_for_vectors_is_read():
    asked = convert.embedding_of(pb.EmbedPapersRequest(papers=[message(2), message(1)], query="Why?"), ENCODER, WANTED)

    assert asked.encoder is ENCODER
    assert [paper.paper_id for paper in asked.papers] == ["2101.00002", "2101.00001"]
    assert asked.query == "Why?"


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        pytest.param({"papers": []}, ["papers"], id="no paper"),
        pytest.param({"papers": [message(each) for each in range(501)]}, ["papers"], id="too many papers"),
        pytest.param({"papers": [message(), message()]}, ["papers"], id="a paper twice"),
        pytest.param({"papers": [message(), paper_pb2.Paper(title="x")]}, ["papers[1].paper_id"], id="no paper_id"),
        pytest.param({"query": "x" * 4_001}, ["query"], id="long query"),
    ],
)
def test_broken_fields_of_a_request_for_vectors_are_named(change, fields):
    parts = {"papers": [message()]} | change

    assert broken(convert.embedding_of, pb.EmbedPapersRequest(**parts)) == fields


def test_all_broken_fields_of_a_request_for_vectors_are_named_at_once():
    request = pb.EmbedPapersRequest(encoder="x:y", papers=[paper_pb2.Paper()], query="x" * 4_001)

    fields = ["encoder", "papers[0].paper_id", "papers[0].title", "query"]
    assert broken(convert.embedding_of, request, encoder=None) == fields


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"papers": [message(each) for each in range(500)]}, id="500 papers"),
        pytest.param({"papers": [message()], "query": "問" * 4_000}, id="4,000 characters"),
    ],
)
def test_the_limits_of_a_request_for_vectors_are_allowed(parts):
    asked = convert.embedding_of(pb.EmbedPapersRequest(**parts), ENCODER, WANTED)

    assert len(asked.papers) == len(parts["papers"])


@pytest.mark.parametrize("read", [convert.embedding_of, convert.finding_of])
def test_an_unknown_encoder_is_answered_with_what_is_wanted(read):
    request = pb.EmbedPapersRequest() if read is convert.embedding_of else pb.FindPapersRequest()
    request.encoder = "openai:unknown" + 100 * "x"

    with pytest.raises(InvalidRequest, match=r"encoder: one of those there are, not 'openai:unknownx{26}'"):
        read(request, None, WANTED)


def test_a_request_for_near_papers_is_read():
    request = pb.FindPapersRequest(
        text="person tracking",
        max_papers=7,
        published_from=timestamp_of(FIRST),
        published_before=timestamp_of(SECOND),
        categories=["cs.CV", "cs.RO"],
    )

    asked = convert.finding_of(request, ENCODER, WANTED)

    assert asked == convert.Finding(
        encoder=ENCODER,
        text="person tracking",
        selection=Selection(published_from=FIRST, published_before=SECOND, categories=("cs.CV", "cs.RO")),
        max_papers=7,
    )


def test_what_is_not_given_is_no_limit():
    asked = convert.finding_of(pb.FindPapersRequest(text="x"), ENCODER, WANTED)

    assert asked.selection == Selection()
    assert asked.max_papers == 50


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        pytest.param({"text": ""}, ["text"], id="no text"),
        pytest.param({"text": " \n"}, ["text"], id="blank text"),
        pytest.param({"text": "x" * 4_001}, ["text"], id="long text"),
        pytest.param({"max_papers": 501}, ["max_papers"], id="too many papers"),
        pytest.param({"published_from": NO_MOMENT}, ["published_from"], id="from is no moment"),
        pytest.param({"published_before": NO_MOMENT}, ["published_before"], id="before is no moment"),
        pytest.param(
            {"published_from": timestamp_of(SECOND), "published_before": timestamp_of(FIRST)},
            ["published_before"],
            id="before is earlier",
        ),
        pytest.param(
            {"published_from": timestamp_of(FIRST), "published_before": timestamp_of(FIRST)},
            ["published_before"],
            id="before is the same",
        ),
        pytest.param(
            {"published_from": timestamp_of(SECOND), "published_before": NO_MOMENT},
            ["published_before"],
            id="nothing is earlier than no moment",
        ),
        pytest.param({"categories": ["cs.CV"] * 51}, ["categories"], id="too many categories"),
        pytest.param({"categories": ["cs.CV", ""]}, ["categories[1]"], id="empty category"),
        pytest.param({"categories": ["x" * 41]}, ["categories[0]"], id="long category"),
    ],
)
def test_broken_fields_of_a_request_for_near_papers_are_named(change, fields):
    parts = {"text": "x"} | change

    assert broken(convert.finding_of, pb.FindPapersRequest(**parts)) == fields


def test_all_broken_fields_of_a_request_for_near_papers_are_named_at_once():
    request = pb.FindPapersRequest(
        encoder="x:y",
        max_papers=501,
        published_from=NO_MOMENT,
        published_before=NO_MOMENT,
        categories=["", *["cs.CV"] * 50],
    )

    assert broken(convert.finding_of, request, encoder=None) == [
        "encoder",
        "text",
        "max_papers",
        "published_from",
        "published_before",
        "categories",
        "categories[0]",
    ]


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"text": "問" * 4_000}, id="4,000 characters"),
        pytest.param({"text": "x", "max_papers": 500}, id="500 papers"),
        pytest.param({"text": "x", "categories": ["x" * 40] * 50}, id="50 categories of 40 characters"),
        pytest.param({"text": "x", "published_before": timestamp_of(FIRST)}, id="an end alone"),
        pytest.param({"text": "x", "published_from": Timestamp(seconds=-62_135_596_800)}, id="year 1"),
    ],
)
def test_the_limits_of_a_request_for_near_papers_are_allowed(parts):
    asked = convert.finding_of(pb.FindPapersRequest(**parts), ENCODER, WANTED)

    assert asked.max_papers == parts.get("max_papers", 50)
    assert len(asked.selection.categories) == len(parts.get("categories", ()))


def test_a_response_with_vectors_carries_rows_counts_and_usage():
    vectors = np.eye(2, ENCODER.dimension, dtype=np.float32)
    embedded = EmbeddedPapers(vectors=vectors, cached_count=1, query_vector=vectors[1], usage=(PAID,))

    response = convert.embed_response_of(ENCODER, embedded)

    assert response.vectors == vectors.astype("<f4").tobytes()
    assert response.query_vector == vectors[1].astype("<f4").tobytes()
    assert (response.encoder, response.dimension, response.count, response.cached_count) == (ENCODER.name, 256, 2, 1)
    assert list(response.usage) == [usage_message(PAID)]


def test_a_response_without_a_query_has_no_query_vector():
    embedded = EmbeddedPapers(
        vectors=np.eye(1, ENCODER.dimension, dtype=np.float32), cached_count=1, query_vector=None, usage=()
    )

    response = convert.embed_response_of(ENCODER, embedded)

    assert response.query_vector == b""
    assert list(response.usage) == [free_usage(0)]
    assert response.usage[0].HasField("cost_nano_usd")


def test_a_response_with_near_papers_carries_their_messages_and_usage():
    paper = Paper(paper_id="2101.00001", title="A title", abstract="An abstract.", published_at=FIRST)

    found = FoundPapers(papers=(FoundPaper(paper=paper, similarity=0.25),), usage=(PAID,))
    response = convert.find_response_of(ENCODER, found)

    (message,) = response.papers
    assert message.paper.paper_id == "2101.00001"
    assert message.paper.published_precision == paper_pb2.DATE_PRECISION_DAY
    assert message.similarity == 0.25
    assert response.encoder == ENCODER.name
    assert list(response.usage) == [usage_message(PAID)]


def test_a_response_with_vectors_of_texts_carries_rows_and_usage():
    rows = np.eye(2, ENCODER.dimension, dtype=np.float32)

    response = convert.texts_response_of(ENCODER, Encoded(rows=rows, usage=(PAID,)))

    assert response.vectors == rows.astype("<f4").tobytes()
    assert (response.encoder, response.dimension, response.count) == (ENCODER.name, 256, 2)
    assert list(response.usage) == [usage_message(PAID)]


def test_a_request_for_vectors_of_texts_is_read():
    asked = convert.texts_of(pb.EmbedTextsRequest(texts=["b", "a", "b"]), ENCODER, WANTED)

    assert asked == convert.TextEmbedding(encoder=ENCODER, texts=("b", "a", "b"), stage="plan")


def test_texts_may_be_those_of_a_search():
    request = pb.EmbedTextsRequest(texts=["b"], stage="retrieve")

    assert convert.texts_of(request, ENCODER, WANTED).stage == "retrieve"


@pytest.mark.parametrize(
    ("parts", "fields"),
    [
        pytest.param({"texts": []}, ["texts"], id="no text"),
        pytest.param({"texts": ["x"] * 501}, ["texts"], id="too many texts"),
        pytest.param({"texts": ["x", " ", "x" * 4_001]}, ["texts[1]", "texts[2]"], id="blank and long"),
        pytest.param({"texts": ["x"], "stage": "write"}, ["stage"], id="a stage that compares none"),
        pytest.param({"texts": ["問" * 4_000] * 500}, [], id="the most"),
    ],
)
def test_broken_fields_of_a_request_for_vectors_of_texts_are_named(parts, fields):
    request = pb.EmbedTextsRequest(**parts)

    if fields:
        assert broken(convert.texts_of, request) == fields
    else:
        assert len(convert.texts_of(request, ENCODER, WANTED).texts) == 500


@pytest.mark.parametrize(
    ("read", "request_of"),
    [
        pytest.param(convert.embedding_of, lambda call: pb.EmbedPapersRequest(papers=[message()], call=call)),
        pytest.param(convert.finding_of, lambda call: pb.FindPapersRequest(text="x", call=call)),
        pytest.param(convert.texts_of, lambda call: pb.EmbedTextsRequest(texts=["x"], call=call)),
    ],
)
def test_broken_fields_of_the_call_are_named(read, request_of):
    call = usage_pb2.CallContext(max_cost_nano_usd=-1, call_scope=9, tenant="x" * 129)

    fields = ["call.max_cost_nano_usd", "call.call_scope", "call.tenant"]
    assert broken(read, request_of(call)) == fields


@pytest.mark.parametrize(
    ("request_message", "fields"),
    [
        (pb.ListEncoderCallsRequest(), ["tenant", "survey_id"]),
        (pb.ListEncoderCallsRequest(tenant="t", survey_id="x" * 129, page_size=1_001), ["survey_id", "page_size"]),
        (pb.DeleteEncoderCallsRequest(tenant=" "), ["tenant", "survey_id"]),
    ],
)
def test_broken_fields_of_a_request_for_calls_are_named(request_message, fields):
    with pytest.raises(InvalidRequest) as failure:
        convert.check_survey_calls(request_message)

    assert [violation.field for violation in failure.value.violations] == fields


def free_usage(call_count: int) -> usage_pb2.ModelUsage:
    return usage_pb2.ModelUsage(
        model=ENCODER.name, call_count=call_count, cost_nano_usd=0, source=usage_pb2.USAGE_SOURCE_ESTIMATED
    )
