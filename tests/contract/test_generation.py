"""GenerationService over a real channel: what the comments of its contract promise."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import generation_service_pb2_grpc as pb_grpc
from paperroute.v1 import paper_pb2, usage_pb2
from serving import serving

from services.common.citations import Reference, render
from services.common.errors import reason_in, status_in, violations_in
from services.generation import server
from services.generation.settings import GenerationSettings

LIBRARY = Path(__file__).parents[2] / "services" / "retrieval" / "sample_library.jsonl"
MODEL = "extractive:builtin"
QUESTION = "画像生成のLoRA周りの技術トレンドを網羅的に知りたいです"
SECTION_PAPERS = 6


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serving(server.mount, GenerationSettings()) as opened:
        yield opened


@pytest.fixture
def generation(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.GenerationServiceStub(channel)


@pytest.fixture(scope="module")
def keyed_papers() -> list[pb.KeyedPaper]:
    """The LoRA papers of the sample library, keyed in the order of their titles."""
    records = [json.loads(line) for line in LIBRARY.read_text(encoding="utf-8").splitlines()]
    chosen = sorted((each for each in records if each["topic"] == "lora"), key=lambda each: each["title"])
    return [
        pb.KeyedPaper(key=f"P{place}", paper=message_of(record), summary=record["abstract"])
        for place, record in enumerate(chosen, start=1)
    ]


def message_of(record: dict[str, Any]) -> paper_pb2.Paper:
    published = Timestamp()
    published.FromDatetime(datetime.fromisoformat(record["published"]).replace(tzinfo=UTC))
    return paper_pb2.Paper(
        paper_id=record["id"],
        title=record["title"],
        abstract=record["abstract"],
        primary_category=record["primary_category"],
        published_at=published,
    )


def outline_of(papers: list[pb.KeyedPaper]) -> list[pb.OutlineChapter]:
    """Return three chapters of two sections of six papers each."""
    keys = [each.key for each in papers]
    sections = [
        pb.OutlineSection(keys=keys[start : start + SECTION_PAPERS]) for start in range(0, len(keys), SECTION_PAPERS)
    ]
    return [pb.OutlineChapter(sections=sections[start : start + 2]) for start in range(0, len(sections), 2)]


def section_request(route: list[pb.KeyedPaper], chapter: int = 1, section: int = 1, **fields: Any) -> Any:
    outline = outline_of(route)
    keys = outline[chapter - 1].sections[section - 1].keys
    values: dict[str, Any] = {
        "question": QUESTION,
        "language": "ja",
        "outline": outline,
        "chapter_number": chapter,
        "section_number": section,
        "papers": [each for each in route if each.key in keys],
        "route_titles": [each.paper.title for each in route],
    }
    return pb.WriteSectionRequest(**{**values, **fields})


def frame_request(papers: list[pb.KeyedPaper], **fields: Any) -> pb.WriteFrameRequest:
    values: dict[str, Any] = {
        "question": QUESTION,
        "language": "ja",
        "outline": outline_of(papers),
        "papers": papers,
        "search_terms": ["LoRA image generation"],
    }
    return pb.WriteFrameRequest(**{**values, **fields})


def assert_free(usages: Any) -> None:
    """The extractive engine is priced, at nothing, and says that nobody counted tokens."""
    (usage,) = usages
    assert (usage.model, usage.call_count) == (MODEL, 1)
    assert usage.HasField("cost_nano_usd")
    assert (usage.cost_nano_usd, usage.avoided_cost_nano_usd) == (0, 0)
    assert usage.input_tokens == usage.output_tokens == usage.reasoning_tokens == 0
    assert usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED


@pytest.mark.parametrize(
    ("question", "wanted", "language"),
    [
        pytest.param(QUESTION, "", "ja", id="japanese"),
        pytest.param("What are the trends in LoRA for image generation?", "", "en", id="english"),
        pytest.param("What are the trends in LoRA for image generation?", "ja", "ja", id="asked-for"),
        pytest.param("What are the trends in LoRA for image generation?", "fr", "fr", id="language-without-phrases"),
    ],
)
async def test_a_question_becomes_search_terms(generation: Any, question: str, wanted: str, language: str):
    """1 to `max_search_terms` English terms of at most 80 characters, unique, and a language."""
    response = await generation.PlanSearch(pb.PlanSearchRequest(question=question, language=wanted), timeout=10)

    assert 1 <= len(response.search_terms) <= 3
    assert len(set(response.search_terms)) == len(response.search_terms)
    assert all(0 < len(term) <= 80 and term.isascii() for term in response.search_terms)
    assert "LoRA" in response.search_terms[0]
    assert response.language == language
    assert response.model == MODEL
    assert_free(response.usage)


async def test_the_number_of_search_terms_is_kept(generation: Any):
    response = await generation.PlanSearch(pb.PlanSearchRequest(question=QUESTION, max_search_terms=1), timeout=10)

    assert len(response.search_terms) == 1


async def test_a_question_without_a_subject_is_told_so(generation: Any):
    """FAILED_PRECONDITION with advice: another question, or a language model."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await generation.PlanSearch(pb.PlanSearchRequest(question="Что нового?"), timeout=10)

    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_in(failure.value) == "NO_SEARCH_TERMS"
    status = status_in(failure.value)
    assert status is not None
    details = error_details_pb2.PreconditionFailure()
    assert any(detail.Unpack(details) for detail in status.details)
    assert "English" in details.violations[0].description


@pytest.mark.parametrize("language", ["en", "ja", "ko"])
async def test_a_section_streams_pieces_then_exactly_one_finished(
    generation: Any, keyed_papers: list[pb.KeyedPaper], language: str
):
    """Pieces in order make the whole, keys are never cut in two, and the closed set is kept."""
    request = section_request(keyed_papers, language=language)

    events = [event async for event in generation.WriteSection(request, timeout=10)]
    pieces, finished = [event.text_delta for event in events[:-1]], events[-1].finished

    assert {event.WhichOneof("event") for event in events[:-1]} == {"text_delta"}
    assert events[-1].WhichOneof("event") == "finished"
    assert "".join(pieces) == finished.text
    assert all(piece.count("[") == piece.count("]") for piece in pieces)
    assert list(finished.cited_keys) == [each.key for each in request.papers]
    assert re.findall(r"(?<!\\)\[(P\d+)\]", finished.text) == list(finished.cited_keys)
    assert (finished.unknown_key_count, finished.removed_link_count) == (0, 0)
    assert finished.title
    assert "\n" not in finished.title
    assert not re.search(r"(?m)^#|\]\(|<\w|!\[", finished.text)
    assert finished.model == MODEL
    assert_free(finished.usage)


async def test_what_is_rendered_cites_the_same_papers(generation: Any, keyed_papers: list[pb.KeyedPaper]):
    """The parser of the gateway finds in the text what the service says it holds."""
    request = section_request(keyed_papers, chapter=2, section=2, language="en")
    references = {each.key: Reference(name=each.key, url="https://arxiv.org/abs/x") for each in request.papers}

    events = [event async for event in generation.WriteSection(request, timeout=10)]
    rendered = render(events[-1].finished.text, references)

    assert list(rendered.cited_keys) == list(events[-1].finished.cited_keys)
    assert (rendered.unknown_key_count, rendered.removed_link_count) == (0, 0)


async def test_titles_of_all_sections_differ(generation: Any, keyed_papers: list[pb.KeyedPaper]):
    """Sections are written side by side, and still no two are named alike."""
    titles = []
    for chapter, sections in enumerate(outline_of(keyed_papers), start=1):
        for section in range(1, len(sections.sections) + 1):
            request = section_request(keyed_papers, chapter, section, language="en")
            titles += [e.finished.title async for e in generation.WriteSection(request, timeout=10) if e.finished.title]

    assert len(titles) == 6
    assert len(set(titles)) == 6


@pytest.mark.parametrize("language", ["en", "ja"])
async def test_a_frame_sends_each_part_once_then_finished(
    generation: Any, keyed_papers: list[pb.KeyedPaper], language: str
):
    events = [
        event async for event in generation.WriteFrame(frame_request(keyed_papers, language=language), timeout=10)
    ]
    parts, finished = [event.part for event in events[:-1]], events[-1].finished
    places = [(part.kind, part.chapter_number) for part in parts]

    assert {event.WhichOneof("event") for event in events[:-1]} == {"part"}
    assert events[-1].WhichOneof("event") == "finished"
    assert len(set(places)) == len(places) == 3 + 2 * 3
    assert pb.FRAME_PART_KIND_UNSPECIFIED not in {part.kind for part in parts}
    assert all(part.text for part in parts)
    assert finished.title
    assert len(finished.chapters) == 3
    assert all(head.title and head.text for head in finished.chapters)
    assert finished.introduction
    assert finished.closing
    assert (finished.unknown_key_count, finished.removed_link_count) == (0, 0)
    assert finished.model == MODEL
    assert_free(finished.usage)


async def test_broken_fields_of_a_plan_are_all_named(generation: Any):
    request = pb.PlanSearchRequest(question=" ", model="nobody:gpt", language="eng lish", max_search_terms=11)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await generation.PlanSearch(request, timeout=10)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = {violation.field: violation.description for violation in violations_in(failure.value)}
    assert list(found) == ["model", "question", "language", "max_search_terms"]
    assert MODEL in found["model"]


async def test_broken_fields_of_a_section_are_all_named(generation: Any, keyed_papers: list[pb.KeyedPaper]):
    request = section_request(
        keyed_papers, question="", language="", section_number=9, route_titles=[], papers=[pb.KeyedPaper(key="X")]
    )

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in generation.WriteSection(request, timeout=10):
            pass

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_in(failure.value)] == [
        "question",
        "language",
        "section_number",
        "papers[0].key",
        "papers[0].paper.paper_id",
        "papers[0].paper.title",
        "route_titles",
    ]


async def test_broken_fields_of_a_frame_are_all_named(generation: Any, keyed_papers: list[pb.KeyedPaper]):
    request = frame_request(keyed_papers, question="", outline=[], model="x")

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in generation.WriteFrame(request, timeout=10):
            pass

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_in(failure.value)] == ["model", "question", "outline", "papers"]


async def test_a_caller_that_leaves_ends_only_its_own_call(generation: Any, keyed_papers: list[pb.KeyedPaper]):
    """A cancelled stream leaves the service as it was."""
    call = generation.WriteSection(section_request(keyed_papers), timeout=10)
    async for _ in call:
        call.cancel()
        break

    events = [event async for event in generation.WriteSection(section_request(keyed_papers), timeout=10)]

    assert events[-1].WhichOneof("event") == "finished"


async def test_the_service_says_that_it_serves(channel: grpc.aio.Channel):
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="paperroute.v1.GenerationService")

    assert (await health.Check(request, timeout=10)).status == health_pb2.HealthCheckResponse.SERVING
