"""Requests of the public services: every field rule, and the defaults of what was left open."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from paperroute.v1 import ordering_pb2, search_pb2, writing_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.jobs.values import JobFilter
from gateway.store.moments import limit_of
from services.common.categories import check_categories
from services.common.fields import FieldChecks
from services.common.languages import LANGUAGES
from services.common.paid.settings import ModelSettings
from services.common.papers import check_moment, moment_of, timestamp_of

MAX_QUESTION = 4_000
MAX_LABELS = 20
DEFAULT_MAX_PAPERS = 160
DEFAULT_SECTION_PAPERS = 8
DEFAULT_SUMMARY_SECONDS = 30
DEFAULT_PAGE_SIZE = 50
WRITING_STAGES = ("plan", "summarize", "write", "frame")
"""Stages whose models write; that of `embed` is an encoder."""
DAY_S = 86_400
MAX_PAGE_TOKEN = 200
MAX_STATES = 10


def check_create(request: service_pb.CreateSurveyRequest, now: datetime, allowed_models: str) -> None:
    """Check a CreateSurveyRequest.

    Args:
        request: as it came.
        now: the current moment.
        allowed_models: patterns of the models that may be named, separated by commas.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    _check_spec(checks, request.spec, now)
    _check_models(checks, request.spec.models, allowed_models)
    _check_labels(checks, request.labels)
    checks.length("request_id", request.request_id, 0, 128)
    checks.finish()


def filter_of(request: service_pb.ListSurveysRequest, tenant: str) -> JobFilter:
    """Return which surveys a ListSurveysRequest asks for; its page token is for the store to read.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    checks.number("page_size", request.page_size, 1, 1_000)
    checks.length("page_token", request.page_token, 0, MAX_PAGE_TOKEN)
    checks.count("states", len(request.states), 0, MAX_STATES)
    for position, state in enumerate(request.states[:MAX_STATES]):
        checks.enum(f"states[{position}]", state, pb.SurveyState)
        checks.require(state != pb.SURVEY_STATE_UNSPECIFIED, f"states[{position}]", "a state; none at all means all")
    _check_labels(checks, request.labels)
    moments = {}
    for name in ("created_from", "created_before"):
        if request.HasField(name) and check_moment(checks, name, getattr(request, name)):
            moments[name] = limit_of(getattr(request, name))
    checks.finish()
    return JobFilter(
        tenant=tenant,
        states=frozenset(request.states),
        labels=tuple(sorted(request.labels.items())),
        created_from=moments.get("created_from"),
        created_before=moments.get("created_before"),
    )


def check_estimate(request: service_pb.EstimateSurveyRequest, now: datetime, allowed_models: str) -> None:
    """Check an EstimateSurveyRequest by the rules of CreateSurvey.

    Raises:
        InvalidRequest: names every broken field.
    """
    check_create(service_pb.CreateSurveyRequest(spec=request.spec), now, allowed_models)


def check_rewrite(request: service_pb.RewriteSectionRequest, allowed_models: str) -> None:
    """Check a RewriteSectionRequest.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    for name in ("chapter_number", "section_number"):
        checks.require(getattr(request, name) >= 1, name, "from 1")
    _check_model(checks, "model", request.model, allowed_models)
    checks.finish()


def resolved(spec: pb.SurveySpec, now: datetime, timeout_s: int, models: ModelSettings) -> pb.SurveySpec:
    """Return a checked spec with its defaults filled in; the encoder stays open, its service chooses it."""
    full = pb.SurveySpec()
    full.CopyFrom(spec)
    full.question = " ".join(spec.question.split())
    full.source = spec.source or search_pb2.SOURCE_AUTO
    full.max_papers = spec.max_papers or DEFAULT_MAX_PAPERS
    full.ordering = spec.ordering or ordering_pb2.ORDERING_METHOD_ROUTE
    full.writer = spec.writer or pb.WRITER_SECTIONS
    full.match = spec.match or search_pb2.MATCH_MODE_ALL_WORDS
    full.cap_by = spec.cap_by or search_pb2.CAP_BY_NEWEST
    full.max_section_papers = spec.max_section_papers or DEFAULT_SECTION_PAPERS
    full.summary_seconds = spec.summary_seconds or DEFAULT_SUMMARY_SECONDS
    full.timeout_ms = spec.timeout_ms or timeout_s * 1_000
    full.plan_candidates = spec.plan_candidates or 1
    full.summary_style = spec.summary_style or writing_pb2.SUMMARY_STYLE_PROBLEM_METHOD
    for stage in WRITING_STAGES:
        setattr(full.models, stage, getattr(spec.models, stage) or getattr(models, stage))
    if not spec.HasField("as_of"):
        full.as_of.CopyFrom(timestamp_of(now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)))
    return full


def _check_spec(checks: FieldChecks, spec: pb.SurveySpec, now: datetime) -> None:
    checks.length("spec.question", spec.question, 1, MAX_QUESTION)
    known = not spec.language or spec.language in LANGUAGES
    checks.require(known, "spec.language", f"a language subtag such as en or ja, not {spec.language[:20]!r}")
    checks.enum("spec.source", spec.source, search_pb2.Source)
    checks.number("spec.max_papers", spec.max_papers, 2, 500)
    checks.enum("spec.ordering", spec.ordering, ordering_pb2.OrderingMethod)
    checks.enum("spec.writer", spec.writer, pb.Writer)
    checks.enum("spec.match", spec.match, search_pb2.MatchMode)
    checks.enum("spec.cap_by", spec.cap_by, search_pb2.CapBy)
    checks.number("spec.max_section_papers", spec.max_section_papers, 1, 50)
    checks.number("spec.summary_seconds", spec.summary_seconds, 5, 120)
    checks.number("spec.timeout_ms", spec.timeout_ms, 1_000, 3_600_000)
    checks.number("spec.chapter_count", spec.chapter_count, 1, 50)
    if spec.HasField("max_cost_nano_usd"):
        checks.require(spec.max_cost_nano_usd >= 0, "spec.max_cost_nano_usd", "0 or more")
    if spec.HasField("as_of"):
        _check_as_of(checks, spec, now)
    _check_limits(checks, spec)
    checks.number("spec.plan_candidates", spec.plan_candidates, 1, 20)
    checks.enum("spec.summary_style", spec.summary_style, writing_pb2.SummaryStyle)


def _check_models(checks: FieldChecks, models: pb.ModelChoice, allowed: str) -> None:
    checks.model("spec.models.embed", models.embed)
    for stage in WRITING_STAGES:
        _check_model(checks, f"spec.models.{stage}", getattr(models, stage), allowed)


def _check_model(checks: FieldChecks, field: str, names: str, allowed: str) -> None:
    """Record models that are none, or that may not be used here."""
    if not checks.models(field, names):
        return
    patterns = [pattern.strip() for pattern in allowed.split(",")]
    for name in filter(None, names.split(",")):
        is_allowed = any(fnmatchcase(name, pattern) for pattern in patterns)
        checks.require(is_allowed, field, f"a model that is allowed here ({allowed}), not {name[:80]!r}")


def _check_limits(checks: FieldChecks, spec: pb.SurveySpec) -> None:
    check_categories(checks, "spec.categories", spec.categories)
    if spec.HasField("published_from") and check_moment(checks, "spec.published_from", spec.published_from):
        in_order = not spec.HasField("as_of") or spec.published_from.seconds <= spec.as_of.seconds + DAY_S
        checks.require(in_order, "spec.published_from", "not after as_of")


def _check_as_of(checks: FieldChecks, spec: pb.SurveySpec, now: datetime) -> None:
    if not check_moment(checks, "spec.as_of", spec.as_of):
        return
    as_of = moment_of(spec.as_of)
    tomorrow = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    checks.require(as_of < tomorrow, "spec.as_of", f"today ({now:%Y-%m-%d}, UTC) or earlier, not {as_of:%Y-%m-%d}")


def _check_labels(checks: FieldChecks, labels: Mapping[str, str]) -> None:
    checks.count("labels", len(labels), 0, MAX_LABELS)
    for key, value in labels.items():
        checks.length(f"labels[{key[:63]!r}]", key, 1, 63)
        checks.length(f"labels[{key[:63]!r}]", value, 0, 255)
