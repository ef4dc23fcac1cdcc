"""What SurveyService promises, with the services behind it played by fakes on a real server."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import Fakes, Gate, fails, papers
from gateways import SPEC, Gateway, gateway_with
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import ordering_pb2, search_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from services.common.errors import reason_in, retry_after_in, violations_in
from services.common.papers import timestamp_of

STAGES = [pb.Stage.Name(value) for value in pb.Stage.values()[1:]]


@pytest.fixture
async def gateway(tmp_path: Path):
    async with gateway_with(Fakes(), tmp_path) as made:
        yield made


async def test_a_question_becomes_a_survey_in_which_every_paper_is_cited(gateway: Gateway):
    survey = await gateway.finished()

    assert survey.state == pb.SURVEY_STATE_DONE
    assert (survey.title, [chapter.title for chapter in survey.chapters]) == ("A title", ["Chapter 1", "Chapter 2"])
    assert [paper.key for paper in survey.papers] == [f"P{number}" for number in range(1, 21)]
    assert survey.coverage == pb.Coverage(kept_count=20, cited_count=20, cited_share=1.0)
    assert "[Name20](https://arxiv.org/abs/2501.00020)" in survey.chapters[0].sections[0].text
    assert "[Name19](https://arxiv.org/abs/2501.00019v2)" in survey.chapters[0].sections[0].text
    assert survey.introduction == "Begins with [Name20](https://arxiv.org/abs/2501.00020)."
    assert [pb.Stage.Name(stage.stage) for stage in survey.stages] == STAGES
    assert all(stage.state == pb.STAGE_STATE_DONE for stage in survey.stages)


async def test_usage_is_summed_over_the_stages_and_an_unknown_price_stays_unknown(gateway: Gateway):
    """A total that leaves an unpriced part out would be read as the whole."""
    survey = await gateway.finished()

    by_stage = {pb.Stage.Name(stage.stage): list(stage.usage) for stage in survey.stages}
    assert by_stage["STAGE_SUMMARIZE"][0].call_count == 20
    assert by_stage["STAGE_SUMMARIZE"][0].cost_nano_usd == 140
    assert not by_stage["STAGE_FRAME"][0].HasField("cost_nano_usd")
    assert survey.usage[0].call_count == 1 + 20 + 4 + 1
    assert survey.usage[0].input_tokens == 260
    assert not survey.usage[0].HasField("cost_nano_usd")


async def test_events_are_numbered_and_end_with_the_end(gateway: Gateway):
    survey_id = await gateway.create()
    events = await gateway.events(survey_id)

    kept = [event for event in events if event.number]
    assert [event.number for event in kept] == list(range(1, len(kept) + 1))
    assert [event.state_changed.state for event in kept[:2]] == [pb.SURVEY_STATE_QUEUED, pb.SURVEY_STATE_RUNNING]
    assert events[-1].finished.state == pb.SURVEY_STATE_DONE
    started = [pb.Stage.Name(each.stage_started.stage) for each in events if each.HasField("stage_started")]
    assert sorted(started, key=STAGES.index) == STAGES
    assert await gateway.events(survey_id, after=len(kept) - 3) == kept[-3:]


async def test_every_section_is_told_once_as_it_stands_in_the_survey(gateway: Gateway):
    survey_id = await gateway.create()
    told = [event.section_finished for event in await gateway.events(survey_id) if event.HasField("section_finished")]
    survey = await gateway.get(survey_id)

    sections = {(chapter.number, each.number): each for chapter in survey.chapters for each in chapter.sections}
    assert {(each.chapter_number, each.section.number): each.section for each in told} == sections
    assert len(told) == 4


async def test_section_text_is_seen_while_it_grows_with_links_in_place(tmp_path: Path):
    gate = Gate(lambda request: request.section_number == 1 and request.chapter_number == 1)
    async with gateway_with(Fakes(before={"WriteSection midway": gate}), tmp_path) as gateway:
        survey_id = await gateway.create()
        event = await gateway.first(survey_id, lambda each: each.section_text.text)
        gate.opened.set()
        await gateway.events(survey_id)
        survey = await gateway.get(survey_id)

    piece = event.section_text
    assert (piece.chapter_number, piece.section_number, piece.attempt, piece.offset) == (1, 1, 1, 0)
    assert "(https://arxiv.org/abs/2501.00020)" in piece.text
    assert survey.chapters[0].sections[0].text.startswith(piece.text)
    assert event.number == 0


async def test_a_section_that_is_begun_anew_voids_its_text(tmp_path: Path):
    """A watcher replaces what it shows instead of doubling it."""
    shown, ended = asyncio.Event(), Gate()

    async def anew(request: Any) -> generation_pb.WriteSectionResponse:
        await shown.wait()
        return generation_pb.WriteSectionResponse(restarted=generation_pb.SectionRestarted())

    before = {"WriteSection midway": anew, "WriteSection end": ended}
    async with gateway_with(Fakes(found=papers(3), before=before), tmp_path) as gateway:
        survey_id = await gateway.create()
        restarts, texts = [], {}
        async for event in gateway.watch(survey_id):
            if event.HasField("section_text"):
                piece = event.section_text
                texts[piece.attempt] = texts.get(piece.attempt, "")[: piece.offset] + piece.text
                shown.set()
            if event.HasField("section_restarted"):
                restarts.append(event.section_restarted.attempt)
                ended.opened.set()

    assert restarts == [2]
    assert texts[1]


async def test_unknown_keys_are_dropped_and_papers_passed_over_are_listed(tmp_path: Path):
    """Each section's closed set holds its own papers: a key of another section is unknown to it too."""
    fakes = Fakes(text_of=lambda request: f"One [{request.papers[0].key}], two [P77], three [P1]. https://evil.example")
    async with gateway_with(fakes, tmp_path) as gateway:
        survey = await gateway.finished()

    first, second = survey.chapters[0].sections
    assert list(first.cited_keys) == ["P1"]
    assert list(first.listed_keys) == ["P2", "P3", "P4", "P5"]
    assert "- [Name18](https://arxiv.org/abs/2501.00018): Summary of 2501.00018." in first.text
    assert list(second.cited_keys) == ["P6"]
    assert "evil" not in str(survey.chapters)
    assert survey.coverage.unknown_key_count == 4 + 3
    assert survey.coverage.removed_link_count == 4
    assert (survey.coverage.cited_count, survey.coverage.listed_count) == (4, 16)


async def test_all_broken_fields_are_named_at_once(gateway: Gateway):
    spec = pb.SurveySpec(
        question="x" * 4_001,
        language="klingon",
        max_papers=501,
        as_of=timestamp_of(datetime.now(UTC) + timedelta(days=2)),
        models=pb.ModelChoice(write="no colon"),
        timeout_ms=1,
        categories=["cs.CV", "not a category"],
        published_from=Timestamp(seconds=2**40),
    )
    spec.source, spec.ordering, spec.writer, spec.match, spec.cap_by = 99, 98, 97, 96, 95
    labels = {f"k{number}": "" for number in range(21)}

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.create(spec, labels=labels, request_id="r" * 129)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in violations_in(failure.value)} == {
        "spec.question",
        "spec.language",
        "spec.max_papers",
        "spec.as_of",
        "spec.models.write",
        "spec.timeout_ms",
        "spec.source",
        "spec.ordering",
        "spec.writer",
        "spec.match",
        "spec.cap_by",
        "spec.categories[1]",
        "spec.published_from",
        "labels",
        "request_id",
    }


@pytest.mark.parametrize("question", ["", "   \n\t "])
async def test_an_empty_question_is_refused(gateway: Gateway, question: str):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.create(pb.SurveySpec(question=question))

    assert [violation.field for violation in violations_in(failure.value)] == ["spec.question"]


async def test_the_same_request_id_gives_the_same_survey(gateway: Gateway):
    first = await gateway.create(request_id="r1", labels={"team": "a"})
    second = await gateway.create(request_id="r1", labels={"team": "a"})

    assert first == second
    await gateway.events(first)
    assert len(gateway.fakes.requests["PlanSearch"]) == 1


async def test_a_request_id_used_for_another_request_is_refused_with_the_difference(gateway: Gateway):
    await gateway.create(request_id="r1")

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.create(pb.SurveySpec(question="Another?"), request_id="r1", labels={"a": "b"})

    assert failure.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "spec.question, labels" in failure.value.details()


@pytest.mark.parametrize(
    ("method", "stage", "service"),
    [
        ("PlanSearch", "STAGE_PLAN", "GenerationService"),
        ("SearchPapers", "STAGE_RETRIEVE", "RetrievalService"),
        ("EmbedPapers", "STAGE_EMBED", "EmbeddingService"),
        ("OrderPapers", "STAGE_ORDER", "OrderingService"),
        ("SummarizePaper", "STAGE_SUMMARIZE", "SummarizationService"),
        ("WriteSection", "STAGE_WRITE", "GenerationService"),
        ("WriteFrame", "STAGE_FRAME", "GenerationService"),
    ],
)
async def test_a_failing_service_is_named_with_its_stage(tmp_path: Path, method: str, stage: str, service: str):
    fakes = Fakes(before={method: fails(grpc.StatusCode.FAILED_PRECONDITION)})
    async with gateway_with(fakes, tmp_path) as gateway:
        survey_id = await gateway.create()
        events = await gateway.events(survey_id)
        survey = await gateway.get(survey_id)

    assert survey.state == pb.SURVEY_STATE_FAILED
    assert pb.Stage.Name(survey.failure.stage) == stage
    assert survey.failure.service == f"paperroute.v1.{service}"
    assert survey.failure.status == "FAILED_PRECONDITION"
    assert events[-1].failed == survey.failure


async def test_what_was_finished_before_a_failure_stays_readable(tmp_path: Path):
    fakes = Fakes(before={"WriteFrame": fails(grpc.StatusCode.INTERNAL)})
    async with gateway_with(fakes, tmp_path) as gateway:
        held = Gate()

        async def after_the_sections(request: Any) -> None:
            await held.opened.wait()
            raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "told")

        fakes.before["WriteFrame"] = after_the_sections
        survey_id = await gateway.create()
        await gateway.first(survey_id, lambda event: event.stage_finished.report.stage == pb.STAGE_WRITE)
        held.opened.set()
        await gateway.events(survey_id)
        survey = await gateway.get(survey_id)

    assert survey.state == pb.SURVEY_STATE_FAILED
    assert survey.coverage.cited_count == 20
    assert all(section.text for chapter in survey.chapters for section in chapter.sections)


async def test_a_service_that_hangs_fails_the_survey_within_its_time(tmp_path: Path):
    fakes = Fakes(before={"EmbedPapers": Gate()})
    async with gateway_with(fakes, tmp_path) as gateway:
        survey = await gateway.finished(pb.SurveySpec(question="Names?", timeout_ms=1_500))

    assert survey.failure.status == "DEADLINE_EXCEEDED"
    assert pb.Stage.Name(survey.failure.stage) in {"STAGE_EMBED", "STAGE_SUMMARIZE"}
    assert survey.finished_at.ToMilliseconds() - survey.created_at.ToMilliseconds() <= 2_500


async def test_a_paper_that_cannot_be_summarized_is_dropped_with_the_reason(tmp_path: Path):
    lost = fails(grpc.StatusCode.INVALID_ARGUMENT, lambda request: request.paper.paper_id == "2501.00007")
    async with gateway_with(Fakes(before={"SummarizePaper": lost}), tmp_path) as gateway:
        survey = await gateway.finished()

    dropped = [paper for paper in survey.papers if paper.mention == pb.PAPER_MENTION_DROPPED]
    assert survey.state == pb.SURVEY_STATE_DONE
    assert [paper.paper.paper_id for paper in dropped] == ["2501.00007"]
    assert dropped[0].dropped_reason == "it could not be summarized: INVALID_ARGUMENT"
    assert (survey.coverage.cited_count, survey.coverage.dropped_count) == (19, 1)


async def test_a_section_that_cannot_be_written_lists_its_papers(tmp_path: Path):
    lost = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda request: request.papers[0].key == "P6")
    async with gateway_with(Fakes(before={"WriteSection": lost}), tmp_path) as gateway:
        survey = await gateway.finished()

    section = survey.chapters[0].sections[1]
    assert survey.state == pb.SURVEY_STATE_DONE
    assert list(section.listed_keys) == ["P6", "P7", "P8", "P9", "P10"]
    assert section.missing_reason == "it could not be written: RESOURCE_EXHAUSTED"
    assert (survey.coverage.cited_count, survey.coverage.listed_count) == (15, 5)


async def test_nothing_found_means_nothing_written(tmp_path: Path):
    async with gateway_with(Fakes(found=[]), tmp_path) as gateway:
        survey = await gateway.finished()

    assert survey.state == pb.SURVEY_STATE_NO_PAPERS
    assert list(survey.search_terms) == ["name paper"]
    assert survey.search.filters[0].dropped_count == 4
    assert (survey.title, survey.introduction, list(survey.chapters)) == ("", "", [])
    assert set(gateway.fakes.requests) == {"PlanSearch", "SearchPapers"}


async def test_one_paper_is_enough_for_a_survey(tmp_path: Path):
    async with gateway_with(Fakes(found=papers(1)), tmp_path) as gateway:
        survey = await gateway.finished()

    assert survey.state == pb.SURVEY_STATE_DONE
    assert survey.coverage.cited_count == 1


async def test_a_section_is_written_as_soon_as_its_own_papers_are_summarized(tmp_path: Path):
    """The time of a survey is its critical path: one slow summary must not hold the other sections."""
    gate = Gate(lambda request: request.paper.paper_id == "2501.00001")
    async with gateway_with(Fakes(before={"SummarizePaper": gate}), tmp_path) as gateway:
        survey_id = await gateway.create()
        event = await gateway.first(survey_id, lambda each: each.section_finished.section.keys[:1] == ["P11"])
        gate.opened.set()
        await gateway.events(survey_id)
        survey = await gateway.get(survey_id)

    assert list(event.section_finished.section.cited_keys) == ["P11", "P12", "P13", "P14", "P15"]
    assert survey.coverage.cited_count == 20


async def test_papers_are_summarized_while_they_are_embedded(tmp_path: Path):
    embed, summarize = Gate(), Gate()
    async with gateway_with(Fakes(before={"EmbedPapers": embed, "SummarizePaper": summarize}), tmp_path) as gateway:
        survey_id = await gateway.create()
        async with asyncio.timeout(10):
            await embed.entered.wait()
            await summarize.entered.wait()
        embed.opened.set()
        summarize.opened.set()
        events = await gateway.events(survey_id)

    assert events[-1].finished.state == pb.SURVEY_STATE_DONE


@pytest.mark.parametrize(
    ("ordering", "query"),
    [
        pytest.param(ordering_pb2.ORDERING_METHOD_ROUTE, "", id="route"),
        pytest.param(ordering_pb2.ORDERING_METHOD_SEMANTIC, SPEC.question, id="semantic"),
    ],
)
async def test_the_question_is_encoded_only_where_the_order_needs_it(gateway: Gateway, ordering: int, query: str):
    """A question is never kept, so each encoding of it is a call of the encoder."""
    await gateway.finished(pb.SurveySpec(question=SPEC.question, ordering=ordering))

    assert gateway.fakes.requests["EmbedPapers"][0].query == query
    assert gateway.fakes.requests["OrderPapers"][0].method == ordering


async def test_the_order_is_found_once_and_kept(gateway: Gateway):
    """Two searches for a route may end in different ones of equal length; a survey read twice must not change."""
    survey = await gateway.finished()
    again = await gateway.get(survey.survey_id)

    assert again == survey
    assert [paper.key for paper in again.papers] == [f"P{number}" for number in range(1, 21)]
    assert len(gateway.fakes.requests["OrderPapers"]) == 1


async def test_limits_of_the_search_reach_retrieval(gateway: Gateway):
    day = Timestamp(seconds=1_700_000_000)
    spec = pb.SurveySpec(
        question=SPEC.question,
        match=search_pb2.MATCH_MODE_NONE,
        cap_by=search_pb2.CAP_BY_RELEVANCE,
        categories=["cs.CV"],
        published_from=day,
        with_withdrawn=True,
    )
    await gateway.finished(spec)

    asked = gateway.fakes.requests["SearchPapers"][0]
    assert (asked.match, asked.cap_by) == (search_pb2.MATCH_MODE_NONE, search_pb2.CAP_BY_RELEVANCE)
    assert (list(asked.categories), asked.published_from, asked.with_withdrawn) == (["cs.CV"], day, True)


async def test_the_footer_names_every_answer_and_its_day(gateway: Gateway):
    survey = await gateway.finished()

    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert f"Papers from the sample library of PaperRoute as of {today}, looking back from {today}." in survey.footer


async def test_cancel_stops_the_calls_and_keeps_what_was_finished(tmp_path: Path):
    gate = Gate()
    async with gateway_with(Fakes(before={"WriteSection": gate}), tmp_path) as gateway:
        survey_id = await gateway.create()
        await gateway.first(survey_id, lambda event: event.stage_finished.report.stage == pb.STAGE_SUMMARIZE)
        await gate.entered.wait()
        request = service_pb.CancelSurveyRequest(survey_id=survey_id)
        survey = (await gateway.stub.CancelSurvey(request, timeout=5)).survey
        events = await gateway.events(survey_id)
        again = (await gateway.stub.CancelSurvey(request, timeout=5)).survey

    assert survey.state == pb.SURVEY_STATE_CANCELLED
    assert events[-1].finished.state == pb.SURVEY_STATE_CANCELLED
    assert len([paper for paper in survey.papers if paper.summary]) == 20
    assert again == survey


async def test_surveys_wait_for_their_turn_and_too_many_are_refused(tmp_path: Path):
    gate = Gate()
    limits = {"max_running_surveys_per_tenant": 1, "max_queued_surveys_per_tenant": 2}
    async with gateway_with(Fakes(before={"PlanSearch": gate}), tmp_path, **limits) as gateway:
        first = await gateway.create()
        await gate.entered.wait()
        waiting = [await gateway.create() for _ in range(2)]
        moved = await gateway.first(waiting[1], lambda event: event.HasField("queue_moved"))
        shown = [await gateway.get(survey_id) for survey_id in waiting]
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await gateway.create()
        gate.opened.set()
        ended = [(await gateway.events(survey_id))[-1].finished.state for survey_id in (first, *waiting)]
        later = await gateway.finished()

    assert [(each.state, each.queue_position) for each in shown] == [
        (pb.SURVEY_STATE_QUEUED, 1), (pb.SURVEY_STATE_QUEUED, 2),
    ]  # fmt: skip
    assert moved.queue_moved.queue_position == 2
    assert (failure.value.code(), reason_in(failure.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert retry_after_in(failure.value) > 0
    assert ended == [pb.SURVEY_STATE_DONE] * 3
    assert later.state == pb.SURVEY_STATE_DONE


async def test_a_survey_that_waits_is_cancelled_before_it_has_begun(tmp_path: Path):
    gate = Gate()
    async with gateway_with(Fakes(before={"PlanSearch": gate}), tmp_path, max_running_surveys=1) as gateway:
        first = await gateway.create()
        second = await gateway.create()
        await gateway.stub.CancelSurvey(service_pb.CancelSurveyRequest(survey_id=second), timeout=5)
        gate.opened.set()
        await gateway.events(first)
        survey = await gateway.get(second)

    assert (survey.state, survey.attempt) == (pb.SURVEY_STATE_CANCELLED, 0)
    assert len(gateway.fakes.requests["PlanSearch"]) == 1


async def test_after_a_cancel_no_call_is_begun(tmp_path: Path):
    """Within a second, as promised; here the survey runs on the replica that is asked."""
    gate = Gate()
    async with gateway_with(Fakes(before={"SummarizePaper": gate}), tmp_path, max_summaries_in_flight=2) as gateway:
        survey_id = await gateway.create()
        await gate.entered.wait()
        await gateway.stub.CancelSurvey(service_pb.CancelSurveyRequest(survey_id=survey_id), timeout=5)
        begun = len(gateway.fakes.requests["SummarizePaper"])
        gate.opened.set()
        await gateway.finished(pb.SurveySpec(question="Another one?"))
        texts = len(gateway.fakes.requests["SummarizePaper"]) - begun

    assert begun == 2
    assert texts == 20


@pytest.mark.parametrize(("method", "wanted"), [("SummarizePaper", pb.STAGE_SUMMARIZE), ("WriteFrame", pb.STAGE_FRAME)])
async def test_a_failed_survey_is_resumed_where_it_failed(tmp_path: Path, method: str, wanted: int):
    fakes = Fakes(before={method: fails(grpc.StatusCode.FAILED_PRECONDITION)})
    async with gateway_with(fakes, tmp_path) as gateway:
        failed = await gateway.finished()
        last = (await gateway.events(failed.survey_id))[-1].number
        del fakes.before[method]
        fakes.requests.clear()
        resumed = await gateway.resume(failed.survey_id)
        events = await gateway.events(failed.survey_id, after=last)
        survey = await gateway.get(failed.survey_id)

    assert (failed.state, failed.failure.stage) == (pb.SURVEY_STATE_FAILED, wanted)
    assert resumed.state in {pb.SURVEY_STATE_QUEUED, pb.SURVEY_STATE_RUNNING}
    assert (survey.state, survey.attempt, survey.coverage.cited_count) == (pb.SURVEY_STATE_DONE, 2, 20)
    assert not survey.HasField("failure")
    assert next(event.number for event in events if event.number) == last + 1
    assert "PlanSearch" not in fakes.requests
    assert "SearchPapers" not in fakes.requests


async def test_a_survey_that_is_done_is_not_resumed(gateway: Gateway):
    survey = await gateway.finished()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.resume(survey.survey_id)

    assert (failure.value.code(), reason_in(failure.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")


async def test_at_its_deadline_a_survey_is_delivered_as_far_as_it_is(tmp_path: Path):
    gate = Gate(lambda request: request.papers[0].key != "P1")
    async with gateway_with(Fakes(before={"WriteSection": gate}), tmp_path) as gateway:
        partial = await gateway.finished(pb.SurveySpec(question="Names?", timeout_ms=2_000))
        gate.opened.set()
        await gateway.resume(partial.survey_id)
        await gateway.events(partial.survey_id)
        whole = await gateway.get(partial.survey_id)

    assert partial.state == pb.SURVEY_STATE_PARTIAL
    assert (partial.coverage.cited_count, partial.coverage.listed_count) == (5, 15)
    assert partial.finished_at.ToMilliseconds() - partial.created_at.ToMilliseconds() <= 3_000
    assert (whole.state, whole.coverage.cited_count) == (pb.SURVEY_STATE_DONE, 20)


async def test_a_gateway_that_stops_leaves_its_surveys_to_the_next_one(tmp_path: Path):
    gate = Gate()
    fakes = Fakes(before={"WriteFrame": gate})
    async with gateway_with(fakes, tmp_path) as gateway:
        survey_id = await gateway.create()
        await gate.entered.wait()
        await gateway.first(survey_id, lambda event: event.stage_finished.report.stage == pb.STAGE_WRITE)
    gate.opened.set()
    fakes.requests.clear()
    async with gateway_with(fakes, tmp_path) as gateway:
        events = await gateway.events(survey_id)
        survey = await gateway.get(survey_id)

    numbers = [event.number for event in events if event.number]
    assert numbers == list(range(1, len(numbers) + 1))
    assert (survey.state, survey.attempt) == (pb.SURVEY_STATE_DONE, 2)
    assert set(fakes.requests) - {"ListCalls", "ListEncoderCalls"} == {"WriteFrame"}


async def test_a_deleted_survey_is_gone_with_the_answers_that_hold_its_question(gateway: Gateway):
    survey = await gateway.finished(labels={"team": "a"})
    request = service_pb.DeleteSurveyRequest(survey_id=survey.survey_id)
    deleted = await gateway.stub.DeleteSurvey(request, timeout=5)

    assert deleted.deleted_answer_count == 4
    assert gateway.fakes.requests["DeleteCalls"][0].survey_id == survey.survey_id
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.get(survey.survey_id)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert not (await gateway.stub.ListSurveys(service_pb.ListSurveysRequest(), timeout=5)).surveys


async def test_a_survey_under_way_is_cancelled_and_deleted(tmp_path: Path):
    gate = Gate()
    async with gateway_with(Fakes(before={"SearchPapers": gate}), tmp_path) as gateway:
        survey_id = await gateway.create()
        await gate.entered.wait()
        watch = asyncio.create_task(gateway.events(survey_id))
        await gateway.stub.DeleteSurvey(service_pb.DeleteSurveyRequest(survey_id=survey_id), timeout=10)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await watch
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await gateway.get(survey_id)

    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_lists_are_narrowed_by_state_label_and_time(tmp_path: Path):
    async with gateway_with(Fakes(found=papers(1)), tmp_path) as gateway:
        first = await gateway.finished(labels={"team": "a", "kind": "x"})
        second = await gateway.finished(labels={"team": "b"})

        async def listed(**fields: Any) -> list[str]:
            page = await gateway.stub.ListSurveys(service_pb.ListSurveysRequest(**fields), timeout=5)
            return [survey.survey_id for survey in page.surveys]

        assert await listed(labels={"team": "a"}) == [first.survey_id]
        assert await listed(labels={"team": "a", "kind": "y"}) == []
        assert await listed(states=[pb.SURVEY_STATE_DONE]) == [second.survey_id, first.survey_id]
        assert await listed(states=[pb.SURVEY_STATE_FAILED]) == []
        assert await listed(created_from=second.created_at) == [second.survey_id]
        assert await listed(created_before=second.created_at) == [first.survey_id]


async def test_surveys_are_listed_newest_first_in_pages(gateway: Gateway):
    made = [await gateway.create() for _ in range(5)]
    seen, token = [], ""
    while True:
        request = service_pb.ListSurveysRequest(page_size=2, page_token=token)
        page = await gateway.stub.ListSurveys(request, timeout=5)
        seen += [survey.survey_id for survey in page.surveys]
        token = page.next_page_token
        if not token:
            break

    assert seen == made[::-1]


@pytest.mark.parametrize("token", ["not a token", "-1", "9" * 40, "x" * 300])
async def test_a_page_token_of_nobody_is_refused(gateway: Gateway, token: str):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.stub.ListSurveys(service_pb.ListSurveysRequest(page_token=token), timeout=5)

    assert [violation.field for violation in violations_in(failure.value)] == ["page_token"]


@pytest.mark.parametrize("method", ["GetSurvey", "WatchSurvey", "CancelSurvey", "ResumeSurvey", "DeleteSurvey"])
async def test_an_unknown_survey_is_not_found(gateway: Gateway, method: str):
    request = getattr(service_pb, f"{method}Request")(survey_id="nobody")
    call = getattr(gateway.stub, method)(request, timeout=5)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await (call.read() if method == "WatchSurvey" else call)

    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        pytest.param({"request_id": "a\0b"}, "request_id", id="request_id"),
        pytest.param({"labels": {"team": "a\0"}}, "labels['team']", id="label"),
    ],
)
async def test_what_a_database_cannot_hold_is_refused(gateway: Gateway, fields: dict[str, Any], broken: str):
    """PostgreSQL holds no NUL in a text."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.create(**fields)

    assert [violation.field for violation in violations_in(failure.value)] == [broken]
