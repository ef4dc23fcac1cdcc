"""`paperroute survey`: ask, watch, print."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import ordering_pb2, search_pb2, writing_pb2
from paperroute.v1 import survey_pb2 as pb

from gateway.cli import report
from gateway.cli.arguments import REFUSED, REFUSED_COST, enum_name, enum_value, nano_usd
from gateway.cli.following import watch_and_print, while_read
from gateway.cli.models import proposed, tell_estimate
from gateway.cli.output import Output
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_BAD_ARGUMENTS
from gateway.client import AsyncPaperRouteClient, RequestFailed
from services.common.papers import timestamp_of

_REFUSED_COUNT = 1
_REFUSED_MOMENT = Timestamp(seconds=253402300800)  # the year 10000 is no moment


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveyOptions:
    """What the survey shall be, as it was asked for."""

    question: str
    language: str
    max_papers: int
    source: str
    ordering: str
    as_of: str
    match: str
    cap_by: str
    category: tuple[str, ...]
    published_from: str
    with_withdrawn: bool
    model: str
    write_model: str
    writer: str
    summary_style: str
    plan_candidates: int
    max_cost: str
    no_cache: bool
    gateway: str


async def run(options: SurveyOptions, output: Output) -> int:
    """Write one survey; return the exit status."""
    unusable = output.problems()
    for problem in unusable:
        report.complain(problem)
    if unusable:
        return EXIT_BAD_ARGUMENTS
    spec, problems = spec_of(options)

    def line_of(field: str, description: str) -> str:
        return f"{_option(field, options)}: {problems.get(field, description)}"

    async with reached(options.gateway) as client:
        try:
            return await _written(client, spec, output)
        except RequestFailed as failure:
            return report.refused(failure, line_of)


async def _written(client: AsyncPaperRouteClient, spec: pb.SurveySpec, output: Output) -> int:
    estimate = await client.estimate_survey(spec)
    if not output.is_silent:
        tell_estimate(estimate)
    created = await client.create_survey(spec)
    async with while_read(client, created.survey_id):
        if output.is_jsonl:
            from gateway.cli.events import print_created

            print_created(created, estimate)
        return await watch_and_print(client, created.survey_id, output)


def spec_of(options: SurveyOptions) -> tuple[pb.SurveySpec, dict[str, str]]:
    """Return the request's spec, and by field what is wrong with options no message can carry.

    Such a field is filled with a value that the gateway refuses, so that it names all broken fields together.
    """
    problems: dict[str, str] = {}
    spec = pb.SurveySpec(question=options.question, language=options.language)
    spec.source = _enum_value("spec.source", options.source, search_pb2.Source, "SOURCE_", problems)
    spec.ordering = _enum_value(
        "spec.ordering", options.ordering, ordering_pb2.OrderingMethod, "ORDERING_METHOD_", problems
    )
    spec.max_papers = options.max_papers if 0 < options.max_papers < REFUSED else _REFUSED_COUNT
    if spec.max_papers != options.max_papers:
        problems["spec.max_papers"] = f"2 to 500, not {options.max_papers:,}"
    spec.match = _enum_value("spec.match", options.match, search_pb2.MatchMode, "MATCH_MODE_", problems)
    spec.cap_by = _enum_value("spec.cap_by", options.cap_by, search_pb2.CapBy, "CAP_BY_", problems)
    spec.categories.extend(options.category)
    spec.with_withdrawn = options.with_withdrawn
    _set_models(spec, options)
    spec.writer = _enum_value("spec.writer", options.writer, pb.Writer, "WRITER_", problems)
    spec.summary_style = _enum_value(
        "spec.summary_style", options.summary_style, writing_pb2.SummaryStyle, "SUMMARY_STYLE_", problems
    )
    spec.plan_candidates = options.plan_candidates if 0 < options.plan_candidates < REFUSED else REFUSED
    spec.cache_off = options.no_cache
    if options.max_cost:
        spec.max_cost_nano_usd = _nano_usd("spec.max_cost_nano_usd", options.max_cost, problems)
    for name in ("as_of", "published_from"):
        if day := getattr(options, name):
            getattr(spec, name).CopyFrom(_moment(f"spec.{name}", day, problems))
    return spec, problems


def _set_models(spec: pb.SurveySpec, options: SurveyOptions) -> None:
    """Name the models asked for, else those a key in the environment proposes for a survey in this process."""
    if not options.model and not options.gateway:
        spec.models.CopyFrom(proposed())
    for stage in ("plan", "summarize", "write", "frame") if options.model else ():
        setattr(spec.models, stage, options.model)
    if options.write_model:
        spec.models.write = options.write_model


def _nano_usd(field: str, text: str, problems: dict[str, str]) -> int:
    nano = nano_usd(text)
    if nano == REFUSED_COST:
        problems[field] = f"US dollars such as 0.05, not {text[:20]!r}"
    return nano


def _enum_value(field: str, name: str, kind: Any, prefix: str, problems: dict[str, str]) -> Any:
    value = enum_value(kind, prefix, name)
    if value == REFUSED:
        known = [enum_name(kind, prefix, each) for each in kind.values()[1:]]
        problems[field] = f"one of {', '.join(known)}, not {name!r}"
    return value


def _moment(field: str, text: str, problems: dict[str, str]) -> Timestamp:
    try:
        return timestamp_of(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC))
    except ValueError:
        problems[field] = f"a day as YYYY-MM-DD, not {text!r}"
        return _REFUSED_MOMENT


def _option(field: str, options: SurveyOptions) -> str:
    name = field.removeprefix("spec.").partition("[")[0]
    if name.startswith("models."):
        return "--write-model" if name == "models.write" and options.write_model else "--model"
    known = {"question": "QUESTION", "categories": "--category", "max_cost_nano_usd": "--max-cost"}
    return known.get(name, f"--{name.replace('_', '-')}")
