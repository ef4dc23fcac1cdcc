"""Messages of GenerationService and SummarizationService to tasks and back, and every rule of the requests' fields."""

from collections.abc import Sequence

from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import writing_pb2

from services.common.citations import KEY
from services.common.fields import LANGUAGE, FieldChecks
from services.common.paid.caller import MAX_NAME_CHARACTERS, check_call
from services.common.paid.usage import usage_message
from services.common.papers import check_paper, paper_of
from services.generation.engines import Engines
from services.generation.tasks import (
    Flag,
    FlagKind,
    FramePart,
    FramePartKind,
    FrameTask,
    KeyedPaper,
    Outline,
    OutlineSection,
    PaperSummary,
    PlanTask,
    Restarted,
    SearchPlan,
    SectionForm,
    SectionTask,
    SummaryStyle,
    SummaryTask,
    WrittenFrame,
    WrittenSection,
    place_of,
)

MAX_QUESTION_CHARACTERS = 4_000
MAX_SEARCH_TERMS = 10
DEFAULT_SEARCH_TERMS = 3
MAX_CHAPTERS = 50
MAX_SECTION_PAPERS = 50
MAX_SINGLE_PAPERS = 500
MAX_PLAN_CANDIDATES = 20
MAX_CALLS, DEFAULT_CALLS = 1_000, 500
MAX_PLACES = 10_000
SUMMARY_SECONDS = (5, 120)
DEFAULT_SUMMARY_SECONDS = 30

_PARTS = {
    FramePartKind.TITLE: pb.FRAME_PART_KIND_TITLE,
    FramePartKind.INTRODUCTION: pb.FRAME_PART_KIND_INTRODUCTION,
    FramePartKind.CHAPTER_TITLE: pb.FRAME_PART_KIND_CHAPTER_TITLE,
    FramePartKind.CHAPTER_TEXT: pb.FRAME_PART_KIND_CHAPTER_TEXT,
    FramePartKind.CLOSING: pb.FRAME_PART_KIND_CLOSING,
}
_FLAGS = {
    FlagKind.UNSUPPORTED: writing_pb2.TEXT_FLAG_KIND_UNSUPPORTED,
    FlagKind.FROM_MEMORY: writing_pb2.TEXT_FLAG_KIND_FROM_MEMORY,
}
_STYLES = {
    writing_pb2.SUMMARY_STYLE_UNSPECIFIED: SummaryStyle.PROBLEM_METHOD,
    writing_pb2.SUMMARY_STYLE_PLAIN: SummaryStyle.PLAIN,
    writing_pb2.SUMMARY_STYLE_PROBLEM_METHOD: SummaryStyle.PROBLEM_METHOD,
}

Request = pb.PlanSearchRequest | summarization_pb.SummarizePaperRequest | pb.WriteSectionRequest | pb.WriteFrameRequest


def plan_task_of(request: pb.PlanSearchRequest, engines: Engines) -> PlanTask:
    """Return the task of a request.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = _checks_of_call(request, engines)
    checks.length("question", request.question, 1, MAX_QUESTION_CHARACTERS)
    if request.language:
        _check_language(checks, request.language)
    checks.number("max_search_terms", request.max_search_terms, 1, MAX_SEARCH_TERMS)
    checks.number("plan_candidates", request.plan_candidates, 1, MAX_PLAN_CANDIDATES)
    checks.finish()
    return PlanTask(
        question=request.question,
        language=request.language,
        max_search_terms=request.max_search_terms or DEFAULT_SEARCH_TERMS,
        sample_seed=request.sample_seed,
        plan_candidates=request.plan_candidates or 1,
    )


def summary_task_of(request: summarization_pb.SummarizePaperRequest, engines: Engines) -> SummaryTask:
    """Return the task of a request.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = _checks_of_call(request, engines)
    check_paper(checks, "paper", request.paper)
    _check_language(checks, request.language)
    checks.number("summary_seconds", request.summary_seconds, *SUMMARY_SECONDS)
    checks.enum("style", request.style, writing_pb2.SummaryStyle)
    checks.finish()
    return SummaryTask(
        paper=paper_of(request.paper),
        language=request.language,
        summary_seconds=request.summary_seconds or DEFAULT_SUMMARY_SECONDS,
        style=_STYLES[request.style],
    )


def section_task_of(request: pb.WriteSectionRequest, engines: Engines) -> SectionTask:
    """Return the task of a request.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = _checks_of_call(request, engines)
    checks.length("question", request.question, 1, MAX_QUESTION_CHARACTERS)
    _check_language(checks, request.language)
    keys = _check_outline(checks, request.outline)
    section_keys = _check_place(checks, request)
    checks.enum("form", request.form, pb.SectionForm)
    is_single = request.form == pb.SECTION_FORM_SINGLE
    checks.count("papers", len(request.papers), 1, MAX_SINGLE_PAPERS if is_single else MAX_SECTION_PAPERS)
    _check_papers(checks, request.papers)
    given = [each.key for each in request.papers]
    if section_keys is not None:
        is_subset = given == [key for key in section_keys if key in given]
        checks.require(is_subset, "papers", "papers of the outline's section, in its order")
    last = max((place_of(key) + 1 for key in keys), default=0)
    checks.count("route_titles", len(request.route_titles), last, MAX_PLACES)
    checks.finish()
    return SectionTask(
        question=request.question,
        language=request.language,
        outline=_outline_of(request.outline),
        chapter_number=request.chapter_number,
        section_number=request.section_number,
        papers=_papers_of(request.papers),
        route_titles=tuple(request.route_titles),
        sample_seed=request.sample_seed,
        form=SectionForm.SINGLE if is_single else SectionForm.SECTION,
    )


def frame_task_of(request: pb.WriteFrameRequest, engines: Engines) -> FrameTask:
    """Return the task of a request.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = _checks_of_call(request, engines)
    checks.length("question", request.question, 1, MAX_QUESTION_CHARACTERS)
    _check_language(checks, request.language)
    keys = _check_outline(checks, request.outline)
    checks.count("papers", len(request.papers), 1, MAX_PLACES)
    _check_papers(checks, request.papers)
    foreign = [each.key for each in request.papers if each.key not in keys]
    checks.require(not foreign, "papers", f"papers of the outline, not {', '.join(foreign[:3])[:60]!r}")
    checks.finish()
    return FrameTask(
        question=request.question,
        language=request.language,
        outline=_outline_of(request.outline),
        papers=_papers_of(request.papers),
        search_terms=tuple(term for term in request.search_terms if term.strip()),
        sample_seed=request.sample_seed,
    )


def plan_response_of(plan: SearchPlan) -> pb.PlanSearchResponse:
    """Return the response of a plan."""
    return pb.PlanSearchResponse(
        search_terms=plan.search_terms,
        language=plan.language,
        model=plan.model,
        usage=map(usage_message, plan.usage),
        fallback_reason=plan.fallback_reason,
        budget_reached=plan.budget_reached,
    )


def summary_response_of(summary: PaperSummary) -> summarization_pb.SummarizePaperResponse:
    """Return the response of a summary."""
    return summarization_pb.SummarizePaperResponse(
        summary=summary.summary,
        model=summary.model,
        usage=map(usage_message, summary.usage),
        fallback_reason=summary.fallback_reason,
        budget_reached=summary.budget_reached,
    )


def section_response_of(event: str | Restarted | WrittenSection) -> pb.WriteSectionResponse:
    """Return the message of one event of a section: a piece of text, a new beginning, or the section at its end."""
    if isinstance(event, str):
        return pb.WriteSectionResponse(text_delta=event)
    if isinstance(event, Restarted):
        return pb.WriteSectionResponse(restarted=pb.SectionRestarted(reason=event.reason))
    finished = pb.SectionText(
        title=event.title,
        text=event.text,
        cited_keys=event.cited_keys,
        unknown_key_count=event.unknown_key_count,
        removed_link_count=event.removed_link_count,
        model=event.model,
        usage=map(usage_message, event.usage),
        flags=map(_flag_message, event.flags),
        repair_count=event.repair_count,
        fallback_reason=event.fallback_reason,
        is_other_language=event.is_other_language,
        budget_reached=event.budget_reached,
    )
    return pb.WriteSectionResponse(finished=finished)


def frame_response_of(event: FramePart | WrittenFrame) -> pb.WriteFrameResponse:
    """Return the message of one event of a frame: a part, or the frame at its end."""
    if isinstance(event, FramePart):
        part = pb.FramePart(kind=_PARTS[event.kind], chapter_number=event.chapter_number, text=event.text)
        return pb.WriteFrameResponse(part=part)
    finished = pb.FrameText(
        title=event.title,
        introduction=event.introduction,
        chapters=[pb.ChapterHead(title=head.title, text=head.text) for head in event.chapters],
        closing=event.closing,
        unknown_key_count=event.unknown_key_count,
        removed_link_count=event.removed_link_count,
        model=event.model,
        usage=map(usage_message, event.usage),
        flags=map(_flag_message, event.flags),
        fallback_reason=event.fallback_reason,
        is_other_language=event.is_other_language,
        budget_reached=event.budget_reached,
    )
    return pb.WriteFrameResponse(finished=finished)


def check_survey_calls(request: pb.ListCallsRequest | pb.DeleteCallsRequest) -> None:
    """Check a request for the calls of a survey.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = FieldChecks()
    checks.length("tenant", request.tenant, 1, MAX_NAME_CHARACTERS)
    checks.length("survey_id", request.survey_id, 1, MAX_NAME_CHARACTERS)
    if isinstance(request, pb.ListCallsRequest):
        checks.number("page_size", request.page_size, 1, MAX_CALLS)
    checks.finish()


def _flag_message(flag: Flag) -> writing_pb2.TextFlag:
    return writing_pb2.TextFlag(kind=_FLAGS[flag.kind], sentence=flag.sentence, terms=flag.terms, keys=flag.keys)


def _checks_of_call(request: Request, engines: Engines) -> FieldChecks:
    """Return the checks of a request, with those that every request has already made."""
    checks = FieldChecks()
    check_call(checks, request.call)
    engines.check_models(checks, "model", request.model)
    return checks


def _check_language(checks: FieldChecks, language: str) -> None:
    is_subtag = LANGUAGE.fullmatch(language) is not None
    checks.require(is_subtag, "language", f'a BCP 47 primary subtag such as "en" or "ja", not {language[:20]!r}')


def _check_outline(checks: FieldChecks, outline: Sequence[pb.OutlineChapter]) -> list[str]:
    """Record what is wrong with an outline; return those of its keys that are keys."""
    checks.count("outline", len(outline), 1, MAX_CHAPTERS)
    keys: list[str] = []
    for chapter_place, chapter in enumerate(outline):
        chapter_field = f"outline[{chapter_place}].sections"
        checks.require(bool(chapter.sections), chapter_field, "at least one section")
        for section_place, section in enumerate(chapter.sections):
            field = f"{chapter_field}[{section_place}].keys"
            checks.require(bool(section.keys), field, "at least one key")
            for place, key in enumerate(section.keys):
                if _check_key(checks, f"{field}[{place}]", key):
                    keys.append(key)
    checks.unique("outline", keys)
    return keys


def _check_place(checks: FieldChecks, request: pb.WriteSectionRequest) -> Sequence[str] | None:
    """Record a section that the outline does not have; return the keys of one that it has."""
    chapters = len(request.outline)
    chapter, section = request.chapter_number, request.section_number
    if not checks.require(1 <= chapter <= chapters, "chapter_number", f"1 to {chapters}, not {chapter}"):
        checks.require(section >= 1, "section_number", "from 1")
        return None
    sections = request.outline[chapter - 1].sections
    if not checks.require(1 <= section <= len(sections), "section_number", f"1 to {len(sections)}, not {section}"):
        return None
    return sections[section - 1].keys


def _check_papers(checks: FieldChecks, papers: Sequence[pb.KeyedPaper]) -> None:
    for place, keyed in enumerate(papers):
        _check_key(checks, f"papers[{place}].key", keyed.key)
        check_paper(checks, f"papers[{place}].paper", keyed.paper)
    checks.unique("papers", [keyed.key for keyed in papers])


def _check_key(checks: FieldChecks, field: str, key: str) -> bool:
    is_key = KEY.fullmatch(key) is not None and place_of(key) < MAX_PLACES
    return checks.require(is_key, field, f'"P1" to "P{MAX_PLACES}", not {key[:20]!r}')


def _outline_of(outline: Sequence[pb.OutlineChapter]) -> Outline:
    return tuple(
        tuple(OutlineSection(keys=tuple(section.keys), title=section.title) for section in chapter.sections)
        for chapter in outline
    )


def _papers_of(papers: Sequence[pb.KeyedPaper]) -> tuple[KeyedPaper, ...]:
    return tuple(KeyedPaper(key=each.key, paper=paper_of(each.paper), summary=each.summary) for each in papers)
