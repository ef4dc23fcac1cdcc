"""Every rule of the request's fields."""

import numpy as np
import pytest
from paperroute.v1 import ordering_pb2
from paperroute.v1 import ordering_service_pb2 as pb

from services.common.errors import InvalidRequest
from services.ordering import convert
from services.ordering.order import Method

COUNT, DIMENSION = 20, 4


def request_of(**fields: object) -> pb.OrderPapersRequest:
    """Return a good request with some fields replaced."""
    values = {
        "paper_ids": [f"2401.{number:05d}" for number in range(COUNT)],
        "vectors": rows(COUNT).tobytes(),
        "dimension": DIMENSION,
        "count": COUNT,
    }
    return pb.OrderPapersRequest(**{**values, **fields})


def rows(count: int, **replaced: object) -> np.ndarray:
    """Return vectors; row3=... replaces the row with that number."""
    vectors = np.arange(1, count * DIMENSION + 1, dtype="<f4").reshape(count, DIMENSION)
    for name, value in replaced.items():
        vectors[int(name.removeprefix("row"))] = value
    return vectors


def broken(request: pb.OrderPapersRequest) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        convert.task_of(request)
    return [violation.field for violation in refused.value.violations]


def test_a_good_request_is_read():
    task = convert.task_of(
        request_of(
            texts=["text"] * COUNT,
            query_vector=np.float32([1, 0, 0, 2]).tobytes(),
            starts_at_query=True,
            published_s=range(COUNT),
            max_section_papers=5,
            chapter_count=3,
            section_count=6,
            seed=2**64 - 1,
            method=ordering_pb2.ORDERING_METHOD_CHAIN,
        )
    )

    assert task.vectors.tolist() == rows(COUNT).tolist()
    assert task.question is not None
    assert task.question.tolist() == [1, 0, 0, 2]
    assert task.starts_at_question
    assert (task.limits.max_section_papers, task.limits.chapter_count, task.limits.section_count) == (5, 3, 6)
    assert task.seed == 2**64 - 1
    assert task.method is Method.CHAIN


def test_what_is_left_out_has_its_default():
    task = convert.task_of(request_of())

    assert task.method is Method.ROUTE
    assert task.limits.max_section_papers == 8
    assert task.question is None
    assert list(task.texts) == list(task.published_s) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"paper_ids": [], "vectors": b"", "count": 0}, ["paper_ids"], id="no paper"),
        pytest.param({"paper_ids": ["a"] * COUNT}, ["paper_ids"], id="identifier twice"),
        pytest.param({"count": 19}, ["count", "vectors"], id="another count"),
        pytest.param({"count": 0}, ["count", "vectors"], id="no count"),
        pytest.param({"dimension": 0}, ["dimension"], id="no dimension"),
        pytest.param({"dimension": 4097}, ["dimension"], id="dimension too large"),
        pytest.param({"dimension": 5}, ["vectors"], id="another dimension"),
        pytest.param({"vectors": rows(COUNT).tobytes()[:-1]}, ["vectors"], id="a byte missing"),
        pytest.param({"vectors": rows(COUNT, row3=np.nan).tobytes()}, ["vectors"], id="not a number"),
        pytest.param({"vectors": rows(COUNT, row3=-np.inf).tobytes()}, ["vectors"], id="infinite"),
        pytest.param({"vectors": rows(COUNT, row3=0).tobytes()}, ["vectors"], id="length zero"),
        pytest.param({"vectors": rows(COUNT, row3=0, row5=np.nan).tobytes()}, ["vectors"] * 2, id="both"),
        pytest.param({"texts": ["text"] * 19}, ["texts"], id="texts for some"),
        pytest.param({"published_s": [1] * 21}, ["published_s"], id="a moment too many"),
        pytest.param({"method": 77}, ["method"], id="unknown method"),
        pytest.param({"method": 3}, ["query_vector"], id="semantic without question"),
        pytest.param({"starts_at_query": True}, ["query_vector"], id="start without question"),
        pytest.param({"method": 4}, ["published_s"], id="newest without moments"),
        pytest.param({"query_vector": b"1234"}, ["query_vector"], id="question of another length"),
        pytest.param({"query_vector": rows(1, row0=0).tobytes()}, ["query_vector"], id="question of length zero"),
        pytest.param({"query_vector": rows(1, row0=np.nan).tobytes()}, ["query_vector"], id="question not a number"),
        pytest.param({"max_section_papers": 51}, ["max_section_papers"], id="sections too long"),
        pytest.param({"chapter_count": 21}, ["chapter_count"], id="more chapters than papers"),
        pytest.param({"section_count": 21}, ["section_count"], id="more sections than papers"),
        pytest.param({"section_count": 2}, ["section_count"], id="too few sections for 8 papers each"),
        pytest.param({"section_count": 4, "max_section_papers": 4}, ["section_count"], id="too few for 4 each"),
        pytest.param({"section_count": 3, "chapter_count": 4}, ["section_count"], id="fewer sections than chapters"),
    ],
)
def test_a_broken_field_is_named(fields, expected):
    assert broken(request_of(**fields)) == expected


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"section_count": 3}, id="just enough sections"),
        pytest.param({"section_count": 20, "chapter_count": 20}, id="every paper alone"),
        pytest.param({"max_section_papers": 50, "section_count": 1}, id="one section"),
        pytest.param({"published_s": [-1] * COUNT, "method": 4}, id="before 1970"),
        pytest.param({"vectors": rows(COUNT, row3=1e-40).tobytes()}, id="very short vector"),
    ],
)
def test_the_edges_of_the_rules_are_kept(fields):
    assert len(convert.task_of(request_of(**fields)).paper_ids) == COUNT


@pytest.mark.parametrize(("count", "is_kept"), [(10_000, True), (10_001, False)])
def test_ten_thousand_papers_are_the_most(count, is_kept):
    request = request_of(
        paper_ids=[str(number) for number in range(count)], count=count, vectors=np.ones((count, 4), "<f4").tobytes()
    )

    if is_kept:
        assert len(convert.task_of(request).paper_ids) == count
    else:
        assert broken(request) == ["paper_ids"]


@pytest.mark.parametrize(("count", "is_kept"), [(300, True), (301, False)])
def test_annealing_takes_300_papers(count, is_kept):
    request = request_of(
        paper_ids=[str(number) for number in range(count)],
        count=count,
        vectors=rows(count).tobytes(),
        method=ordering_pb2.ORDERING_METHOD_ROUTE_ANNEALING,
    )

    if is_kept:
        assert convert.task_of(request).method is Method.ROUTE_ANNEALING
    else:
        assert broken(request) == ["method"]


def test_all_broken_fields_are_named_at_once():
    request = pb.OrderPapersRequest(
        paper_ids=["a", "a"],
        vectors=b"1",
        dimension=1,
        count=3,
        texts=["one"],
        published_s=[1],
        method=99,
        starts_at_query=True,
        max_section_papers=99,
        chapter_count=3,
        section_count=4,
    )

    assert set(broken(request)) == {
        "paper_ids",
        "vectors",
        "count",
        "texts",
        "published_s",
        "method",
        "query_vector",
        "max_section_papers",
        "chapter_count",
        "section_count",
    }
