"""A survey as one HTML file that needs nothing from outside and runs nothing. A pure function of the stored Survey."""

from collections.abc import Sequence
from typing import Any

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2

from gateway.document.export_markdown import authors_of, date_of, remarks_of
from gateway.document.phrases import Phrases, phrases_of
from gateway.document.rendering import TEMPLATES, environment
from gateway.document.route_map import svg_of
from gateway.document.stages import name_of
from services.common.markdown import plain
from services.common.paid.money import shown

Row = tuple[str, ...]


def html_of(survey: pb.Survey) -> str:
    """Return the file: survey, route map, references, flags, cost table."""
    from markupsafe import Markup

    style = (TEMPLATES / "document.css").read_text(encoding="utf-8")
    parts = body_parts(survey)
    return environment().get_template("survey.html").render(**parts, style=Markup(style))  # noqa: S704  # a file of ours


def body_parts(survey: pb.Survey, *, has_map_style: bool = True) -> dict[str, Any]:
    """Return what the template `survey_body.html` shows of a survey.

    Args:
        survey: finished or not.
        has_map_style: whether the map brings its style along; a page that may not hold styles links to it.
    """
    from markupsafe import Markup

    phrases = phrases_of(survey.spec.language)
    has_route = any(paper.key for paper in survey.papers)
    return {
        "survey": survey,
        "phrases": phrases,
        "is_single": survey.spec.writer == pb.WRITER_SINGLE,
        "chapters": survey.chapters,
        "remarks": lambda section: remarks_of(section, phrases),
        "map": Markup(svg_of(survey, has_style=has_map_style)) if has_route else "",  # noqa: S704  # written as XML, its texts escaped
        "references": [_reference(paper) for paper in survey.papers] if has_route else [],
        "coverage": _coverage(survey.coverage, phrases),
        "costs": [_cost_row(name_of(stage.stage), stage.duration_ms, stage.usage) for stage in survey.stages],
        "total": _cost_row(phrases.total, _wall_ms(survey), survey.usage, has_models=False),
    }


def _reference(paper: pb.SurveyPaper) -> dict[str, str]:
    return {
        "key": paper.key,
        "authors": plain(authors_of(paper)),
        "url": paper.url,
        "title": plain(paper.paper.title),
        "month": date_of(paper),
    }


def _coverage(coverage: pb.Coverage, phrases: Phrases) -> str:
    return phrases.coverage.format(
        kept=coverage.kept_count,
        cited=coverage.cited_count,
        listed=coverage.listed_count,
        dropped=coverage.dropped_count,
        flagged=coverage.unsupported_count + coverage.from_memory_count,
    )


def _cost_row(name: str, duration_ms: int, usages: Sequence[usage_pb2.ModelUsage], *, has_models: bool = True) -> Row:
    """Return stage, time, models, calls, tokens in and out, cost."""
    models = ", ".join(sorted({usage.model for usage in usages})) if has_models else ""
    counts = [sum(getattr(each, field) for each in usages) for field in ("call_count", "input_tokens", "output_tokens")]
    return (
        name,
        f"{duration_ms / 1_000:.1f} s",
        models,
        *(f"{count:,}" if usages else "" for count in counts),
        _cost(usages),
    )


def _cost(usages: Sequence[usage_pb2.ModelUsage]) -> str:
    """Return what calls cost; what is missing for want of a price is said, never shown as nothing."""
    if not usages:
        return ""
    known = f"${shown(sum(usage.cost_nano_usd for usage in usages))}"
    return known if all(usage.HasField("cost_nano_usd") for usage in usages) else f"≥ {known}"


def _wall_ms(survey: pb.Survey) -> int:
    return max(0, survey.finished_at.ToMilliseconds() - survey.created_at.ToMilliseconds())
