"""Requests of generation and summarization: every rule of every field, all named at once."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import paper_pb2, usage_pb2
from paperroute.v1 import summarization_service_pb2 as summarization_pb

from services.common.errors import InvalidRequest
from services.generation import convert
from services.generation.engines import make_engines
from services.generation.tasks import FramePart, FramePartKind, Usage, WrittenSection

ENGINES = make_engines()


def paper(number: int = 1, **fields: Any) -> paper_pb2.Paper:
    values = {
        "paper_id": f"2501.{number:05d}",
        "title": f"Name{number}: a paper",
        "abstract": "We propose it.",
        "published_at": Timestamp(seconds=1_735_700_000),
    }
    return paper_pb2.Paper(**{**values, **fields})


def keyed(number: int, **fields: Any) -> pb.KeyedPaper:
    return pb.KeyedPaper(**{"key": f"P{number}", "paper": paper(number), "summary": "A summary.", **fields})


def outline(*chapters: list[list[str]]) -> list[pb.OutlineChapter]:
    return [pb.OutlineChapter(sections=[pb.OutlineSection(keys=keys) for keys in sections]) for sections in chapters]


def section_request(**fields: Any) -> pb.WriteSectionRequest:
    values: dict[str, Any] = {
        "question": "Why?",
        "language": "en",
        "outline": outline([["P1", "P2"], ["P3"]], [["P4"]]),
        "chapter_number": 1,
        "section_number": 1,
        "papers": [keyed(1), keyed(2)],
        "route_titles": [f"Name{number}: a paper" for number in range(1, 5)],
    }
    return pb.WriteSectionRequest(**{**values, **fields})


def frame_request(**fields: Any) -> pb.WriteFrameRequest:
    values: dict[str, Any] = {
        "question": "Why?",
        "language": "ja",
        "outline": outline([["P1", "P2"]], [["P3"]]),
        "papers": [keyed(1), keyed(3)],
        "search_terms": ["ropes", " "],
    }
    return pb.WriteFrameRequest(**{**values, **fields})


def summary_request(**fields: Any) -> summarization_pb.SummarizePaperRequest:
    return summarization_pb.SummarizePaperRequest(**{"paper": paper(), "language": "en", **fields})


def broken(read: Callable[[Any, Any], Any], request: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as failure:
        read(request, ENGINES)
    return [violation.field for violation in failure.value.violations]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"question": " "}, ["question"], id="blank"),
        pytest.param({"question": "x" * 4_001}, ["question"], id="long"),
        pytest.param({"language": "English"}, ["language"], id="language"),
        pytest.param({"language": "EN"}, ["language"], id="capitals"),
        pytest.param({"model": "openai:gpt"}, ["model"], id="model"),
        pytest.param({"max_search_terms": 11}, ["max_search_terms"], id="terms"),
        pytest.param({"call": usage_pb2.CallContext(max_cost_nano_usd=-1)}, ["call.max_cost_nano_usd"], id="cost"),
        pytest.param({"call": usage_pb2.CallContext(call_scope=9)}, ["call.call_scope"], id="scope"),
        pytest.param({"question": "", "language": "e", "model": "x"}, ["model", "question", "language"], id="all"),
    ],
)
def test_broken_plan_requests(fields: dict[str, Any], named: list[str]):
    request = pb.PlanSearchRequest(**{"question": "Why?", **fields})

    assert broken(convert.plan_task_of, request) == named


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"paper": paper(paper_id="x")}, ["paper.paper_id"], id="paper_id"),
        pytest.param({"paper": paper(title="")}, ["paper.title"], id="title"),
        pytest.param({"paper": paper(abstract="x" * 200_001)}, ["paper.abstract"], id="abstract"),
        pytest.param({"language": ""}, ["language"], id="no-language"),
        pytest.param({"summary_seconds": 4}, ["summary_seconds"], id="too-short"),
        pytest.param({"summary_seconds": 121}, ["summary_seconds"], id="too-long"),
        pytest.param({"model": "x:y", "language": "1"}, ["model", "language"], id="both"),
    ],
)
def test_broken_summary_requests(fields: dict[str, Any], named: list[str]):
    assert broken(convert.summary_task_of, summary_request(**fields)) == named


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"question": "", "language": ""}, ["question", "language"], id="texts"),
        pytest.param({"model": "openai:gpt"}, ["model"], id="model"),
        pytest.param({"chapter_number": 3}, ["chapter_number"], id="no-such-chapter"),
        pytest.param({"chapter_number": 0, "section_number": 0}, ["chapter_number", "section_number"], id="zeros"),
        pytest.param({"section_number": 3}, ["section_number"], id="no-such-section"),
        pytest.param({"papers": []}, ["papers"], id="no-papers"),
        pytest.param({"papers": [keyed(1), keyed(1)]}, ["papers", "papers"], id="a-key-twice"),
        pytest.param({"papers": [keyed(2), keyed(1)]}, ["papers"], id="another-order"),
        pytest.param({"papers": [keyed(1), keyed(3)]}, ["papers"], id="of-another-section"),
        pytest.param({"papers": [keyed(1, key="Q1")]}, ["papers[0].key", "papers"], id="no-key"),
        pytest.param({"papers": [keyed(1, paper=paper(title=""))]}, ["papers[0].paper.title"], id="no-title"),
        pytest.param({"outline": []}, ["outline", "chapter_number"], id="no-outline"),
        pytest.param(
            {"outline": outline([["P1", "P2"]], [])},
            ["outline[1].sections"],
            id="no-sections",
        ),
        pytest.param({"outline": outline([["P1", "P2"], []])}, ["outline[0].sections[1].keys"], id="no-keys"),
        pytest.param({"outline": outline([["P1", "P2"], ["P2"]])}, ["outline"], id="a-key-in-two-sections"),
        pytest.param(
            {"outline": outline([["P1", "P2"], ["P01", "P10001"]])},
            ["outline[0].sections[1].keys[0]", "outline[0].sections[1].keys[1]"],
            id="bad-keys",
        ),
        pytest.param({"route_titles": ["a", "b", "c"]}, ["route_titles"], id="too-few-titles"),
    ],
)  # fmt: skip
def test_broken_section_requests(fields: dict[str, Any], named: list[str]):
    assert broken(convert.section_task_of, section_request(**fields)) == named


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"outline": []}, ["outline", "papers"], id="no-outline"),
        pytest.param({"outline": outline(*[[[f"P{n}"]] for n in range(1, 52)])}, ["outline"], id="51-chapters"),
        pytest.param({"papers": []}, ["papers"], id="no-papers"),
        pytest.param({"papers": [keyed(1), keyed(4)]}, ["papers"], id="not-in-the-outline"),
        pytest.param({"papers": [keyed(1), keyed(1)]}, ["papers"], id="twice"),
        pytest.param({"language": "japanese", "model": "a:b"}, ["model", "language"], id="texts"),
    ],
)
def test_broken_frame_requests(fields: dict[str, Any], named: list[str]):
    assert broken(convert.frame_task_of, frame_request(**fields)) == named


def test_an_unknown_model_is_told_what_there_is():
    with pytest.raises(InvalidRequest, match="extractive:builtin"):
        convert.plan_task_of(pb.PlanSearchRequest(question="Why?", model="openai:gpt"), ENGINES)


def test_zeros_mean_defaults():
    plan = convert.plan_task_of(pb.PlanSearchRequest(question="Why?"), ENGINES)
    summary = convert.summary_task_of(summary_request(), ENGINES)

    assert (plan.max_search_terms, plan.language) == (3, "")
    assert summary.summary_seconds == 30


def test_sections_may_lack_papers_that_were_dropped():
    """A paper that could not be summarized stays in the outline and in the titles."""
    task = convert.section_task_of(section_request(papers=[keyed(2)]), ENGINES)

    assert [each.key for each in task.papers] == ["P2"]
    assert [each.place for each in task.papers] == [1]
    assert task.outline[0][0].keys == ("P1", "P2")


def test_blank_search_terms_are_none():
    assert convert.frame_task_of(frame_request(), ENGINES).search_terms == ("ropes",)


def test_unpriced_usage_has_no_cost():
    """Not set is not zero."""
    section = WrittenSection(
        title="t", text="x", cited_keys=(), unknown_key_count=0, removed_link_count=0, model="a:b",
        usage=(Usage(model="a:b", cost_nano_usd=None), Usage(model="c:d", cost_nano_usd=0, is_estimated=True)),
    )  # fmt: skip

    first, second = convert.section_response_of(section).finished.usage

    assert not first.HasField("cost_nano_usd")
    assert first.source == usage_pb2.USAGE_SOURCE_PROVIDER
    assert second.HasField("cost_nano_usd")
    assert second.source == usage_pb2.USAGE_SOURCE_ESTIMATED


@pytest.mark.parametrize("kind", FramePartKind)
def test_every_kind_of_part_has_its_value(kind: FramePartKind):
    part = convert.frame_response_of(FramePart(kind=kind, chapter_number=2, text="x")).part

    assert pb.FramePartKind.Name(part.kind) == f"FRAME_PART_KIND_{kind.name}"
    assert (part.chapter_number, part.text) == (2, "x")
