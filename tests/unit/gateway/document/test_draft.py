"""A draft is its parts: what is kept makes the same draft again; a resumed survey lets go of what it has to redo."""

import random

from fakes import papers, usage
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import ordering_service_pb2 as ordering_pb
from paperroute.v1 import retrieval_service_pb2 as retrieval_pb
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import survey_pb2 as pb

from gateway.document.assemble import survey_of
from gateway.document.draft import Draft, Part, PartKind, parts_to_redo
from services.common.papers import message_of

IDS = [paper.paper_id for paper in papers(3)]


def part(kind: PartKind, payload: object, place: str = "") -> Part:
    data = payload.encode() if isinstance(payload, str) else payload.SerializeToString()
    return Part(kind=kind, place=place, payload=data)


PARTS = [
    part(PartKind.PLAN, generation_pb.PlanSearchResponse(language="ja", search_terms=["a", "b"])),
    part(PartKind.SEARCH, retrieval_pb.SearchResult(papers=map(message_of, papers(3)))),
    part(
        PartKind.ORDER,
        ordering_pb.OrderPapersResponse(
            paper_ids=IDS,
            chapters=[
                ordering_pb.RouteChapter(
                    sections=[ordering_pb.RouteSection(paper_ids=IDS[:2]), ordering_pb.RouteSection(paper_ids=IDS[2:])]
                )
            ],
            points=[{}, {}, {}],
        ),
    ),
    part(PartKind.SUMMARY, summarization_pb.SummarizePaperResponse(summary="s", usage=[usage()]), IDS[0]),
    part(PartKind.DROPPED, "it could not be summarized", IDS[1]),
    part(PartKind.SECTION, generation_pb.SectionText(title="T", text="[P1].", model="fake:m"), "1.1"),
    part(PartKind.MISSING, "it could not be written", "1.2"),
    part(PartKind.REPORT, pb.StageReport(stage=pb.STAGE_PLAN, state=pb.STAGE_STATE_DONE), "1"),
    part(PartKind.REPORT, pb.StageReport(stage=pb.STAGE_SUMMARIZE, state=pb.STAGE_STATE_DONE, lost_count=1), "5"),
    part(PartKind.REPORT, pb.StageReport(stage=pb.STAGE_WRITE, state=pb.STAGE_STATE_RUNNING), "6"),
    part(PartKind.REWRITES, "2", "1.1"),
    part(PartKind.FAILURE, pb.Failure(stage=pb.STAGE_FRAME, reason="X")),
]


def draft_of(parts: list[Part]) -> Draft:
    draft = Draft(survey_id="s", spec=pb.SurveySpec(question="q"), labels={}, state=pb.SURVEY_STATE_FAILED)
    for each in parts:
        draft.add(each)
    return draft


def test_parts_make_the_same_survey_in_whatever_order_they_are_read():
    """A database returns rows as it likes."""
    whole = survey_of(draft_of(PARTS))
    for seed in range(20):
        shuffled = random.Random(seed).sample(PARTS, len(PARTS))
        found = survey_of(draft_of(shuffled))
        found.created_at.CopyFrom(whole.created_at)
        assert found == whole

    assert (whole.spec.language, list(whole.search_terms)) == ("ja", ["a", "b"])
    assert whole.chapters[0].sections[0].cited_keys == ["P1"]
    assert draft_of(PARTS).rewrite_counts == {(1, 1): 2}


def test_what_failed_was_lost_or_is_unfinished_is_done_again_and_nothing_else():
    redo = set(parts_to_redo(draft_of(PARTS)))

    assert redo == {
        (PartKind.FAILURE, ""),
        (PartKind.DROPPED, IDS[1]),
        (PartKind.MISSING, "1.2"),
        (PartKind.REPORT, "5"),
        (PartKind.REPORT, "6"),
    }


def test_a_section_written_after_all_is_not_missing_any_more():
    draft = draft_of(PARTS)
    draft.add(part(PartKind.SECTION, generation_pb.SectionText(text="[P3]."), "1.2"))

    assert draft.missing_sections == {}


def test_what_a_cancelled_survey_had_under_way_is_cancelled_with_it():
    survey = survey_of(draft_of(PARTS))

    assert [stage.state for stage in survey.stages][-1] == pb.STAGE_STATE_CANCELLED
