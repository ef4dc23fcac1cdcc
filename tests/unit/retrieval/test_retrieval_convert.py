from datetime import UTC, date, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import search_pb2

from services.common.errors import InvalidRequest
from services.common.papers import timestamp_of
from services.retrieval import convert
from services.retrieval.sources import CapBy, Match, SourceName

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
        pytest.param({"match": 9}, ["match"], id="unknown match"),
        pytest.param({"cap_by": 9}, ["cap_by"], id="unknown cap"),
        pytest.param(
            {"categories": ["cs.CV", "cs", "x" * 500]}, ["categories[1]", "categories[2]"], id="no categories"
        ),
        pytest.param({"categories": ["cs.CV"] * 51}, ["categories"], id="too many categories"),
        pytest.param({"published_from": moment(2026, 7, 2)}, ["published_from"], id="from tomorrow"),
        pytest.param(
            {"as_of": moment(2025, 1, 1), "published_from": moment(2025, 1, 2)},
            ["published_from"],
            id="from after as_of",
        ),
        pytest.param({"published_from": Timestamp(seconds=10**15)}, ["published_from"], id="from no moment"),
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
    ("fields", "found"),
    [
        ({}, (SourceName.AUTO, Match.ALL_WORDS, CapBy.NEWEST)),
        ({"source": search_pb2.SOURCE_SAMPLE}, (SourceName.SAMPLE, Match.ALL_WORDS, CapBy.NEWEST)),
        ({"source": search_pb2.SOURCE_STORE}, (SourceName.STORE, Match.ALL_WORDS, CapBy.NEWEST)),
        (
            {"match": search_pb2.MATCH_MODE_ARTICLE, "cap_by": search_pb2.CAP_BY_RELEVANCE},
            (SourceName.AUTO, Match.ARTICLE, CapBy.RELEVANCE),
        ),
        ({"match": search_pb2.MATCH_MODE_NONE}, (SourceName.AUTO, Match.NONE, CapBy.NEWEST)),
    ],
)
def test_modes(fields, found):
    made = search(**fields)

    assert (made.source, made.limits.match, made.limits.cap_by) == found


@pytest.mark.parametrize(
    "kind", [(search_pb2.Source, SourceName), (search_pb2.MatchMode, Match), (search_pb2.CapBy, CapBy)]
)
def test_every_value_of_the_contract_has_its_name(kind):
    messages, names = kind

    prefix = messages.keys()[0].removesuffix("UNSPECIFIED")
    assert [name.removeprefix(prefix) for name in messages.keys()[1:]] == [each.name for each in names]


def test_limits():
    made = search(categories=["cs.CV", "math-ph", "cs.CV"], published_from=moment(2026, 7, 1, 5), with_withdrawn=True)

    assert made.limits.categories == ("cs.CV", "math-ph")
    assert made.limits.published_from == datetime(2026, 7, 1, 5, tzinfo=UTC)
    assert made.with_withdrawn


def test_misspelt_category_gets_a_hint():
    with pytest.raises(InvalidRequest, match=r"did you mean cs.CV\?"):
        search(categories=["cs.cV"])
