"""A survey as a Markdown document. A pure function of the stored Survey: the same survey gives the same bytes."""

from paperroute.v1 import survey_pb2 as pb

from gateway.document.phrases import Phrases, phrases_of
from services.common.markdown import escape
from services.common.papers import moment_of


def markdown_of(survey: pb.Survey) -> str:
    """Return the document from title to footer; parts that were not written are left out."""
    parts = [f"# {escape(survey.title or survey.spec.question)}", survey.introduction]
    phrases = phrases_of(survey.spec.language)
    is_single = survey.spec.writer == pb.WRITER_SINGLE  # one text under the title, without headings of its own
    for chapter in survey.chapters:
        title = escape(chapter.title) or f"({chapter.number})"
        parts += [] if is_single else [f"## {chapter.number}. {title}", chapter.text]
        for section in chapter.sections:
            parts.append("" if is_single else f"### {chapter.number}.{section.number} {escape(section.title)}".rstrip())
            remark = phrases.gap.join(remarks_of(section, phrases))
            parts += [section.text, f"*{escape(remark)}*" if remark else ""]
    if survey.closing:
        parts += [f"## {phrases.closing}", survey.closing]
    if any(paper.key for paper in survey.papers):
        parts += [f"## {phrases.references}", _references(survey)]
    if survey.footer:
        parts += ["---", f"*{escape(survey.footer)}*"]
    return "\n\n".join(part for part in parts if part) + "\n"


def remarks_of(section: pb.Section, phrases: Phrases) -> list[str]:
    """Return what a reader should know of how a section came to be, in sentences; none for most."""
    remarks = []
    if section.fallback_reason:
        remarks.append(phrases.stood_in_here.format(model=section.model, reason=section.fallback_reason))
    terms = dict.fromkeys(term for flag in section.flags for term in flag.terms)
    if terms:
        remarks.append(phrases.not_borne_out.format(terms=", ".join(terms)))
    return remarks


def _references(survey: pb.Survey) -> str:
    lines = [
        f"{number}. {escape(authors_of(paper))} [{escape(paper.paper.title)}]({paper.url}). {date_of(paper)}."
        for number, paper in enumerate(survey.papers, start=1)
    ]
    return "\n".join(lines)


def authors_of(paper: pb.SurveyPaper) -> str:
    """Return the authors as a list of references shows them, with a point at the end."""
    names = list(paper.paper.authors)
    if not names:
        return "—"
    return f"{', '.join(names)}." if len(names) <= 3 else f"{names[0]} et al."  # noqa: PLR2004 - more names hide the title


def date_of(paper: pb.SurveyPaper) -> str:
    """Return the month in which a paper was published."""
    return f"{moment_of(paper.paper.published_at):%Y-%m}"
