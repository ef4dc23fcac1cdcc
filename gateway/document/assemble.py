"""Stage `assemble`: what the stages brought becomes one Survey. A pure function that also serves unfinished surveys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from paperroute.v1 import ordering_service_pb2 as ordering_pb
from paperroute.v1 import paper_pb2, search_pb2, usage_pb2, writing_pb2
from paperroute.v1 import survey_pb2 as pb

from gateway.document.draft import ENDED, Draft, SectionPlace
from gateway.document.links import reference_of, short_name_of, url_of
from gateway.document.phrases import Phrases, phrases_of
from services.common.citations import Reference, Rendered, render
from services.common.markdown import escape
from services.common.papers import Paper, moment_of, paper_of, timestamp_of

PAID_COUNTS = (
    "call_count",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
"""Fields of a ModelUsage that count what a survey paid for, its cost aside."""
SERVED_COUNTS = ("served_call_count", "served_input_tokens", "served_output_tokens", "avoided_cost_nano_usd")
"""Fields of a ModelUsage that count what the ledger answered instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyedPapers:
    """The papers on the route with their keys, P1 first."""

    papers: Mapping[str, Paper]
    """By key, in the order of the route."""
    key_of: Mapping[str, str]
    """By paper_id."""

    def references(self, keys: Sequence[str]) -> dict[str, Reference]:
        """Return the closed set that a text shown these papers may name."""
        return {key: reference_of(self.papers[key]) for key in keys}


def keyed_papers(draft: Draft) -> KeyedPapers:
    """Return the papers with the keys their places on the route give them; without a route, none."""
    if draft.search is None or draft.order is None:
        return KeyedPapers(papers={}, key_of={})
    by_id = {paper.paper_id: paper_of(paper) for paper in draft.search.papers}
    keys = {paper_id: f"P{place}" for place, paper_id in enumerate(draft.order.paper_ids, start=1)}
    return KeyedPapers(papers={key: by_id[paper_id] for paper_id, key in keys.items()}, key_of=keys)


def route_keys(draft: Draft, keyed: KeyedPapers) -> dict[SectionPlace, list[str]]:
    """Return the keys of each section in the order of the route, as the route was cut; in one piece for SINGLE."""
    if draft.spec.writer == pb.WRITER_SINGLE:
        return {(1, 1): list(keyed.papers)} if keyed.papers else {}
    chapters = draft.order.chapters if draft.order else ()
    return {
        (chapter_number, section_number): [keyed.key_of[paper_id] for paper_id in section.paper_ids]
        for chapter_number, chapter in enumerate(chapters, start=1)
        for section_number, section in enumerate(chapter.sections, start=1)
    }


def kept_keys(draft: Draft, keyed: KeyedPapers) -> dict[SectionPlace, list[str]]:
    """Return the keys of each section without the papers that were dropped; sections left empty are left out."""
    kept = {
        place: [key for key in keys if keyed.papers[key].paper_id not in draft.dropped]
        for place, keys in route_keys(draft, keyed).items()
    }
    return {place: keys for place, keys in kept.items() if keys}


def survey_of(draft: Draft) -> pb.Survey:
    """Return the survey as far as it is known: text with links, what became of each paper, coverage, totals."""
    keyed = keyed_papers(draft)
    places = kept_keys(draft, keyed)
    survey = pb.Survey(
        survey_id=draft.survey_id,
        state=draft.state,
        spec=draft.spec,
        labels=draft.labels,
        created_at=timestamp_of(draft.created_at),
        finished_at=timestamp_of(draft.finished_at) if draft.finished_at else None,
        search_terms=draft.plan.search_terms if draft.plan else (),
        search=draft.search.report if draft.search else None,
        failure=draft.failure,
        stages=_reports(draft),
        usage=usage_of(draft),
        attempt=draft.attempt,
        queue_position=draft.queue_position,
        budget_reached=any(report.budget_reached for report in draft.reports.values()),
    )
    survey.spec.language = draft.language
    rendered = {place: _rendered_section(draft, keyed, place, keys) for place, keys in places.items()}
    survey.chapters.extend(_chapters(draft, keyed, places, rendered))
    if draft.spec.writer == pb.WRITER_SINGLE and survey.chapters:  # it has no frame: its own heading is the title
        survey.title = survey.chapters[0].sections[0].title
    frame_counts = _write_frame(survey, draft, keyed)
    survey.papers.extend(_papers(draft, keyed, survey.chapters))
    if draft.order:
        survey.route.CopyFrom(_route(draft.order, draft.vectors.encoder if draft.vectors else ""))
    survey.coverage.CopyFrom(_coverage(draft, survey.papers, rendered, frame_counts))
    survey.footer = _footer(draft, survey)
    return survey


def section_of(draft: Draft, keyed: KeyedPapers, place: SectionPlace, keys: Sequence[str]) -> pb.Section:
    """Return one section as it stands in the survey, papers its text passes over listed at its end."""
    return _section(draft, keyed, place, keys, _rendered_section(draft, keyed, place, keys))


def _section(
    draft: Draft, keyed: KeyedPapers, place: SectionPlace, keys: Sequence[str], rendered: Rendered
) -> pb.Section:
    section = pb.Section(number=place[1], keys=keys, missing_reason=draft.missing_sections.get(place, ""))
    written = draft.sections.get(place)
    if written is None and not section.missing_reason:
        return section  # not written yet: nothing is cited and nothing listed
    if written:
        section.title, section.model = written.title, written.model
        section.flags.extend(written.flags)
        section.fallback_reason, section.is_other_language = written.fallback_reason, written.is_other_language
    section.cited_keys.extend(key for key in keys if key in rendered.cited_keys)
    section.listed_keys.extend(key for key in keys if key not in rendered.cited_keys)
    listed = _listed(draft, keyed, section.listed_keys)
    section.text = "\n\n".join(part for part in (rendered.text, listed) if part)
    return section


def total_usage(usages: Iterable[usage_pb2.ModelUsage]) -> list[usage_pb2.ModelUsage]:
    """Return the sums for each model, in the order of the models' names; one unpriced part makes a sum unpriced."""
    totals: dict[str, usage_pb2.ModelUsage] = {}
    for usage in usages:
        total = totals.get(usage.model)
        if total is None:
            totals[usage.model] = usage_pb2.ModelUsage()
            totals[usage.model].CopyFrom(usage)
            continue
        _add(total, usage)
    return [totals[model] for model in sorted(totals)]


def usage_of(draft: Draft) -> list[usage_pb2.ModelUsage]:
    """Return what all stages took, one row for each model."""
    return total_usage(usage for report in draft.reports.values() for usage in report.usage)


def _add(total: usage_pb2.ModelUsage, usage: usage_pb2.ModelUsage) -> None:
    for name in (*PAID_COUNTS, *SERVED_COUNTS):
        setattr(total, name, getattr(total, name) + getattr(usage, name))
    if total.HasField("cost_nano_usd") and usage.HasField("cost_nano_usd"):
        total.cost_nano_usd += usage.cost_nano_usd
    else:
        total.ClearField("cost_nano_usd")
    total.source = max(total.source, usage.source)  # one estimate makes the sum an estimate


def _chapters(
    draft: Draft,
    keyed: KeyedPapers,
    places: Mapping[SectionPlace, Sequence[str]],
    rendered: Mapping[SectionPlace, Rendered],
) -> list[pb.Chapter]:
    chapters: dict[int, pb.Chapter] = {}
    for place, keys in places.items():
        chapter = chapters.setdefault(place[0], pb.Chapter(number=place[0]))
        chapter.sections.append(_section(draft, keyed, place, keys, rendered[place]))
    return list(chapters.values())


def _rendered_section(draft: Draft, keyed: KeyedPapers, place: SectionPlace, keys: Sequence[str]) -> Rendered:
    written = draft.sections.get(place)
    return render(written.text if written else "", keyed.references(keys))


def _listed(draft: Draft, keyed: KeyedPapers, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    lines = [phrases_of(draft.language).also_here]
    for key, reference in keyed.references(keys).items():
        summary = draft.summary_of(keyed.papers[key].paper_id)
        lines.append(f"- [{escape(reference.name)}]({reference.url}){': ' if summary else ''}{escape(summary)}")
    return f"{lines[0]}\n\n" + "\n".join(lines[1:])


def _reports(draft: Draft) -> list[pb.StageReport]:
    """Return the stages' reports; what a survey that was cancelled had under way is cancelled with it."""
    reports = [draft.reports[stage] for stage in sorted(draft.reports)]
    if draft.state not in ENDED:
        return reports
    shown = []
    for report in reports:
        copy = pb.StageReport()
        copy.CopyFrom(report)
        if report.state == pb.STAGE_STATE_RUNNING:
            copy.state = pb.STAGE_STATE_CANCELLED
        shown.append(copy)
    return shown


def _write_frame(survey: pb.Survey, draft: Draft, keyed: KeyedPapers) -> tuple[int, int]:
    """Fill in the frame's parts; return how many unknown keys and links were removed from them."""
    if draft.frame is None:
        if draft.state == pb.SURVEY_STATE_PARTIAL:  # its time was over before it had a frame
            survey.title = survey.title or draft.spec.question
        return 0, 0
    everything = keyed.references([key for key, paper in keyed.papers.items() if paper.paper_id not in draft.dropped])
    unknown, removed = draft.frame.unknown_key_count, draft.frame.removed_link_count

    def rendered(text: str) -> str:
        nonlocal unknown, removed
        result = render(text, everything)
        unknown += result.unknown_key_count
        removed += result.removed_link_count
        return result.text

    survey.title = draft.frame.title
    survey.introduction = rendered(draft.frame.introduction)
    survey.closing = rendered(draft.frame.closing)
    heads = dict(enumerate(draft.frame.chapters, start=1))
    for chapter in survey.chapters:
        if chapter.number in heads:
            chapter.title = heads[chapter.number].title
            chapter.text = rendered(heads[chapter.number].text)
    return unknown, removed


def _papers(draft: Draft, keyed: KeyedPapers, chapters: Sequence[pb.Chapter]) -> list[pb.SurveyPaper]:
    if draft.search is None:
        return []
    if draft.order is None:
        return [_paper(draft, message) for message in draft.search.papers]
    messages = {message.paper_id: message for message in draft.search.papers}
    found = {key: _paper(draft, messages[paper.paper_id]) for key, paper in keyed.papers.items()}
    for (key, paper), point in zip(found.items(), draft.order.points, strict=True):
        paper.key = key
        paper.point.CopyFrom(point)
    for chapter in chapters:
        for section in chapter.sections:
            for key in section.keys:
                found[key].chapter_number, found[key].section_number = chapter.number, section.number
            _mark(found, section.cited_keys, pb.PAPER_MENTION_CITED)
            _mark(found, section.listed_keys, pb.PAPER_MENTION_LISTED)
    return list(found.values())


def _mark(found: Mapping[str, pb.SurveyPaper], keys: Sequence[str], mention: pb.PaperMention.ValueType) -> None:
    for key in keys:
        found[key].mention = mention


def _paper(draft: Draft, message: paper_pb2.Paper) -> pb.SurveyPaper:
    paper = paper_of(message)
    reason = draft.dropped.get(paper.paper_id, "")
    summary = draft.summaries.get(paper.paper_id)
    return pb.SurveyPaper(
        paper=message,
        url=url_of(paper),
        short_name=short_name_of(paper.title),
        summary=draft.summary_of(paper.paper_id),
        summary_model=summary.model if summary else "",
        mention=pb.PAPER_MENTION_DROPPED if reason else pb.PAPER_MENTION_UNSPECIFIED,
        dropped_reason=reason,
    )


def _route(order: ordering_pb.OrderPapersResponse, encoder: str) -> pb.RouteReport:
    return pb.RouteReport(
        method=order.method,
        path_length=order.path_length,
        priced_length=order.priced_length,
        section_coherence=order.section_coherence,
        encoder=encoder,
    )


def _coverage(
    draft: Draft,
    papers: Sequence[pb.SurveyPaper],
    rendered: Mapping[SectionPlace, Rendered],
    frame_counts: tuple[int, int],
) -> pb.Coverage:
    mentions = [paper.mention for paper in papers]
    cited = mentions.count(pb.PAPER_MENTION_CITED)
    coverage = pb.Coverage(
        kept_count=len(papers),
        cited_count=cited,
        listed_count=mentions.count(pb.PAPER_MENTION_LISTED),
        dropped_count=mentions.count(pb.PAPER_MENTION_DROPPED),
        cited_share=cited / len(papers) if papers else 0.0,
        unknown_key_count=frame_counts[0],
        removed_link_count=frame_counts[1],
    )
    for place, shown in rendered.items():
        written = draft.sections.get(place)
        if written:
            coverage.unknown_key_count += written.unknown_key_count + shown.unknown_key_count
            coverage.removed_link_count += written.removed_link_count + shown.removed_link_count
            coverage.fallback_section_count += bool(written.fallback_reason)
            _count_flags(coverage, written.flags)
    if draft.frame:
        _count_flags(coverage, draft.frame.flags)
    return coverage


def _count_flags(coverage: pb.Coverage, flags: Iterable[writing_pb2.TextFlag]) -> None:
    kinds = [flag.kind for flag in flags]
    coverage.unsupported_count += kinds.count(writing_pb2.TEXT_FLAG_KIND_UNSUPPORTED)
    coverage.from_memory_count += kinds.count(writing_pb2.TEXT_FLAG_KIND_FROM_MEMORY)


def _answers(report: search_pb2.SearchReport, phrases: Phrases) -> str:
    """Return the source and day of every answer the papers stand on, each once."""
    answers: dict[str, None] = {}
    for term in report.terms:
        form = phrases.stale_answer if term.is_stale else phrases.answer
        source = phrases.sources.get(search_pb2.Source.Name(term.source), "")
        answers[form.format(source=source, day=f"{moment_of(term.answered_at):%Y-%m-%d}")] = None
    return phrases.answer_gap.join(answers)


def _footer(draft: Draft, survey: pb.Survey) -> str:
    if not draft.sections or draft.search is None:
        return ""
    phrases = phrases_of(draft.language)
    report = draft.search.report
    written = {section.model for section in draft.sections.values()}
    models = sorted(written | ({draft.frame.model} if draft.frame else set()))
    parts = [
        phrases.written_by.format(models=", ".join(models)),
        phrases.found_in.format(answers=_answers(report, phrases), as_of=f"{moment_of(report.as_of):%Y-%m-%d}"),
    ]
    if all(model.startswith("extractive:") for model in models):
        parts.insert(1, phrases.extractive)
        if phrases.language != draft.language:
            parts.insert(2, phrases.other_language)
    if survey.coverage.fallback_section_count:
        parts.append(phrases.stood_in.format(count=survey.coverage.fallback_section_count))
    if any(paper.paper.abstract_origin for paper in survey.papers):
        parts.append(phrases.paraphrased)
    return phrases.gap.join(parts)
