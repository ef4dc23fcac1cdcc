"""Requests of generation and summarization: every rule of every field, all named at once."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import paper_pb2, usage_pb2, writing_pb2
from paperroute.v1 import summarization_service_pb2 as summarization_pb

from services.common.errors import InvalidRequest
from services.common.paid.usage import Usage
from services.common.providers.registry import Providers
from services.common.providers.settings import ProviderSettings
from services.generation import convert
from services.generation.engines import Engines
from services.generation.tasks import (
    Flag,
    FlagKind,
    FramePart,
    FramePartKind,
    Restarted,
    SectionForm,
    SummaryStyle,
    WrittenSection,
)

ENGINES = Engines(Providers({"openai": ProviderSettings()}, {}), calls=None)  # the rules ask for names only


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
        pytest.param({"model": "nobody:gpt"}, ["model"], id="model"),
        pytest.param({"model": "openai:a,,"}, ["model"], id="models"),
        pytest.param({"model": "openai:a,nobody:b"}, ["model"], id="second-model"),
        pytest.param({"max_search_terms": 11}, ["max_search_terms"], id="terms"),
        pytest.param({"plan_candidates": 21}, ["plan_candidates"], id="candidates"),
        pytest.param({"call": usage_pb2.CallContext(max_cost_nano_usd=-1)}, ["call.max_cost_nano_usd"], id="cost"),
        pytest.param({"call": usage_pb2.CallContext(call_scope=9)}, ["call.call_scope"], id="scope"),
        pytest.param({"call": usage_pb2.CallContext(tenant="x" * 129)}, ["call.tenant"], id="tenant"),
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
        pytest.param({"style": 9}, ["style"], id="style"),
        pytest.param({"model": "x:y", "language": "1"}, ["model", "language"], id="both"),
    ],
)
def test_broken_summary_requests(fields: dict[str, Any], named: list[str]):
    assert broken(convert.summary_task_of, summary_request(**fields)) == named


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"question": "", "language": ""}, ["question", "language"], id="texts"),
        pytest.param({"model": "nobody:gpt"}, ["model"], id="model"),
        pytest.param({"chapter_number": 3}, ["chapter_number"], id="no-such-chapter"),
        pytest.param({"chapter_number": 0, "section_number": 0}, ["chapter_number", "section_number"], id="zeros"),
        pytest.param({"section_number": 3}, ["section_number"], id="no-such-section"),
        pytest.param({"papers": []}, ["papers"], id="no-papers"),
        pytest.param({"form": 7}, ["form"], id="form"),
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
        convert.plan_task_of(pb.PlanSearchRequest(question="Why?", model="nobody:gpt"), ENGINES)


def whole_route(count: int, **fields: Any) -> pb.WriteSectionRequest:
    keys = [f"P{number}" for number in range(1, count + 1)]
    return section_request(
        outline=outline([keys]),
        papers=[keyed(number) for number in range(1, count + 1)],
        route_titles=["A paper"] * count,
        **fields,
    )


def test_the_baseline_may_be_shown_a_whole_route_and_a_section_may_not():
    single = convert.section_task_of(whole_route(500, form=pb.SECTION_FORM_SINGLE), ENGINES)

    assert (len(single.papers), single.form) == (500, SectionForm.SINGLE)
    assert broken(convert.section_task_of, whole_route(51)) == ["papers"]
    assert broken(convert.section_task_of, whole_route(501, form=pb.SECTION_FORM_SINGLE)) == ["papers"]


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        pytest.param(pb.ListCallsRequest(page_size=1_001), ["tenant", "survey_id", "page_size"], id="list"),
        pytest.param(pb.DeleteCallsRequest(tenant="a"), ["survey_id"], id="delete"),
    ],
)
def test_broken_requests_for_calls(request_: Any, named: list[str]):
    with pytest.raises(InvalidRequest) as failure:
        convert.check_survey_calls(request_)
    assert [violation.field for violation in failure.value.violations] == named


def test_a_new_beginning_tells_why():
    assert convert.section_response_of(Restarted(reason="no key")).restarted.reason == "no key"


def test_flags_and_stand_ins_are_told():
    flag = Flag(kind=FlagKind.FROM_MEMORY, sentence="Like FooNet.", terms=("FooNet",), keys=())
    section = WrittenSection(
        title="t", text="x", cited_keys=(), unknown_key_count=0, removed_link_count=0, model="a:b", usage=(),
        flags=(flag,), repair_count=2, fallback_reason="because", is_other_language=True,
    )  # fmt: skip

    told = convert.section_response_of(section).finished

    assert (told.repair_count, told.fallback_reason, told.is_other_language) == (2, "because", True)
    assert told.flags[0].kind == writing_pb2.TEXT_FLAG_KIND_FROM_MEMORY
    assert list(told.flags[0].terms) == ["FooNet"]


def test_zeros_mean_defaults():
    plan = convert.plan_task_of(pb.PlanSearchRequest(question="Why?"), ENGINES)
    summary = convert.summary_task_of(summary_request(), ENGINES)

    assert (plan.max_search_terms, plan.language, plan.plan_candidates) == (3, "", 1)
    assert (summary.summary_seconds, summary.style) == (30, SummaryStyle.PROBLEM_METHOD)


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
