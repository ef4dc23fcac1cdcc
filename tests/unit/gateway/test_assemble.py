"""Assembling is a pure function: the same draft gives the same survey, finished or not."""

from datetime import UTC, datetime

from fakes import papers
from markdown_it import MarkdownIt
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import ordering_pb2, usage_pb2
from paperroute.v1 import ordering_service_pb2 as ordering_pb
from paperroute.v1 import retrieval_service_pb2 as retrieval_pb
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import survey_pb2 as pb

from gateway.document.assemble import survey_of, total_usage
from gateway.document.draft import Draft
from gateway.document.export_markdown import markdown_of
from services.common.papers import message_of

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


def draft(**fields: object) -> Draft:
    return Draft(
        survey_id="a1",
        spec=pb.SurveySpec(question="Which names?"),
        labels={},
        created_at=MOMENT,
        plan=generation_pb.PlanSearchResponse(language="en", search_terms=["name"]),
        **fields,
    )


def written_draft(text: str, introduction: str = "About [P1].") -> Draft:
    found = papers(3)
    ids = [paper.paper_id for paper in found]
    section = ordering_pb.RouteSection(paper_ids=ids)
    return draft(
        state=pb.SURVEY_STATE_DONE,
        search=retrieval_pb.SearchResult(papers=map(message_of, found)),
        order=ordering_pb.OrderPapersResponse(
            paper_ids=ids, chapters=[ordering_pb.RouteChapter(sections=[section])], points=[ordering_pb2.MapPoint()] * 3
        ),
        summaries={
            paper_id: summarization_pb.SummarizePaperResponse(summary=f"Summary of {paper_id} <b>.") for paper_id in ids
        },
        sections={(1, 1): generation_pb.SectionText(title="S", text=text, model="fake:m")},
        frame=generation_pb.FrameText(
            title="A <b>title</b>",
            introduction=introduction,
            chapters=[generation_pb.ChapterHead(title="C *1*", text="Text.")],
            closing="End.",
            model="fake:m",
        ),
    )


def test_a_draft_without_anything_is_a_survey_too():
    survey = survey_of(draft())

    assert survey.state == pb.SURVEY_STATE_QUEUED
    assert survey.spec.question == "Which names?"
    assert survey.coverage == pb.Coverage()


def test_papers_found_but_not_yet_ordered_stand_without_keys():
    survey = survey_of(draft(search=retrieval_pb.SearchResult(papers=map(message_of, papers(2)))))

    assert [(paper.key, paper.short_name) for paper in survey.papers] == [("", "Name1"), ("", "Name2")]


def test_the_same_draft_gives_the_same_bytes():
    made = written_draft("All [P1, P2] and [P3].")

    assert survey_of(made).SerializeToString(deterministic=True) == survey_of(made).SerializeToString(
        deterministic=True
    )
    assert markdown_of(survey_of(made)) == markdown_of(survey_of(made))


def test_every_paper_is_cited_or_listed_once():
    survey = survey_of(written_draft("Only [P2], twice [P2]."))

    assert [paper.mention for paper in survey.papers] == [
        pb.PAPER_MENTION_LISTED,
        pb.PAPER_MENTION_CITED,
        pb.PAPER_MENTION_LISTED,
    ]
    assert survey.coverage.kept_count == survey.coverage.cited_count + survey.coverage.listed_count == 3


def test_a_document_shows_hostile_text_as_text_and_links_to_papers_only():
    survey = survey_of(written_draft("See <script>x</script> and [y](https://evil.example) [P1]."))

    tokens = MarkdownIt("commonmark").parse(markdown_of(survey))
    inner = [token for block in tokens for token in (block, *(block.children or ()))]
    addresses = {str(token.attrs["href"]) for token in inner if token.type == "link_open"}
    assert addresses == {paper.url for paper in survey.papers}
    assert not [token for token in inner if token.type.startswith("html")]
    assert "".join(token.content for token in tokens[1].children) == "A <b>title</b>"


def test_an_unknown_key_in_the_frame_is_removed_and_counted():
    survey = survey_of(written_draft("All [P1-P3].", introduction="Begins with [P1] and [P9]."))

    assert survey.introduction.startswith("Begins with [Name1](https://arxiv.org/abs/2501.00001v2)")
    assert "P9" not in survey.introduction
    assert survey.coverage.unknown_key_count == 1


def test_sums_keep_models_apart_and_unknown_prices_unknown():
    priced = usage_pb2.ModelUsage(model="a:b", call_count=1, input_tokens=5, cost_nano_usd=3)
    unpriced = usage_pb2.ModelUsage(model="c:d", call_count=1)

    totals = total_usage([priced, unpriced, priced])

    assert [(total.model, total.call_count, total.input_tokens) for total in totals] == [("a:b", 2, 10), ("c:d", 1, 0)]
    assert totals[0].cost_nano_usd == 6
    assert not totals[1].HasField("cost_nano_usd")
    assert priced.call_count == 1
