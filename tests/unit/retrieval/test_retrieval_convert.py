from datetime import UTC, date, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import search_pb2

from services.common.errors import InvalidRequest
from services.common.papers import timestamp_of
from services.retrieval import convert

TODAY = date(2026, 7, 1)


def search(**fields):
    request = pb.SearchPapersRequest(**{"search_terms": ["LoRA"], **fields})
    return convert.search_of(request, today=TODAY, max_results_per_term=200)


def moment(*parts: int) -> Timestamp:
    return timestamp_of(datetime(*parts, tzinfo=UTC))


def test_defaults():
    found = search()

    assert (found.as_of, found.max_papers, found.max_results_per_term) == (TODAY, 160, 200)


def test_given_values():
    found = search(search_terms=["a b", " c "], max_papers=2, max_results_per_term=2_000, as_of=moment(2025, 1, 2, 23))

    assert found.search_terms == ("a b", " c ")
    assert (found.as_of, found.max_papers, found.max_results_per_term) == (date(2025, 1, 2), 2, 2_000)


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        pytest.param({"search_terms": []}, ["search_terms"], id="no term"),
        pytest.param({"search_terms": ["x"] * 11}, ["search_terms"], id="too many terms"),
        pytest.param({"search_terms": ["x", ""]}, ["search_terms[1]"], id="empty term"),
        pytest.param({"search_terms": ["  "]}, ["search_terms[0]"], id="blank term"),
        pytest.param({"search_terms": ["x" * 201]}, ["search_terms[0]"], id="long term"),
        pytest.param({"search_terms": ["--"]}, ["search_terms[0]"], id="term without a word"),
        pytest.param({"source": 9}, ["source"], id="unknown source"),
        pytest.param({"max_papers": 1}, ["max_papers"], id="one paper"),
        pytest.param({"max_papers": 501}, ["max_papers"], id="too many papers"),
        pytest.param({"as_of": moment(2026, 7, 2)}, ["as_of"], id="tomorrow"),
        pytest.param({"as_of": Timestamp(seconds=10**15)}, ["as_of"], id="no moment"),
        pytest.param({"as_of": Timestamp(nanos=-1)}, ["as_of"], id="no nanoseconds"),
        pytest.param({"max_results_per_term": 2_001}, ["max_results_per_term"], id="too many results"),
    ],
)
def test_broken_field_is_named(fields, broken):
    with pytest.raises(InvalidRequest) as failure:
        search(**fields)

    assert [each.field for each in failure.value.violations] == broken


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"search_terms": ["x" * 200] * 10}, id="longest terms"),
        pytest.param({"max_papers": 500}, id="most papers"),
        pytest.param({"as_of": moment(2026, 7, 1, 23, 59, 59)}, id="last second of today"),
        pytest.param({"as_of": moment(1, 1, 1)}, id="first day there is"),
        pytest.param({"max_results_per_term": 1}, id="one result"),
        pytest.param({"search_terms": ["画像生成"]}, id="Japanese"),
    ],
)
def test_edge_of_the_rules_is_kept(fields):
    assert search(**fields)


@pytest.mark.parametrize(
    ("asked", "source"),
    [
        (search_pb2.SOURCE_UNSPECIFIED, search_pb2.SOURCE_ARXIV),
        (search_pb2.SOURCE_AUTO, search_pb2.SOURCE_ARXIV),
        (search_pb2.SOURCE_ARXIV, search_pb2.SOURCE_ARXIV),
        (search_pb2.SOURCE_SAMPLE, search_pb2.SOURCE_SAMPLE),
    ],
)
def test_sample_is_chosen_by_name_only(asked, source):
    assert convert.source_of(pb.SearchPapersRequest(source=asked)) == source
