"""`paperroute survey`: ask, watch, print."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import ordering_pb2, search_pb2, writing_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc

from gateway.cli import report
from gateway.cli.arguments import REFUSED, REFUSED_COST, enum_name, enum_value, nano_usd
from gateway.cli.following import CALL_TIMEOUT_S, Output, unusable_files, watch_and_print
from gateway.cli.models import proposed, tell_estimate
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_BAD_ARGUMENTS, EXIT_FAILED
from services.common.errors import violations_in
from services.common.papers import timestamp_of

_REFUSED_COUNT = 1
_REFUSED_MOMENT = Timestamp(seconds=253402300800)  # the year 10000 is no moment


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveyOptions:
    """The arguments of the command."""

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
    out: Path | None
    map_file: Path | None
    form: str
    gateway: str


async def run(options: SurveyOptions) -> int:
    """Write one survey; return the exit status."""
    problems = unusable_files({"--out": options.out, "--map": options.map_file})
    if problems:
        for problem in problems:
            report.complain(problem)
        return EXIT_BAD_ARGUMENTS
    async with reached(options.gateway) as channel:
        try:
            return await _survey(pb_grpc.SurveyServiceStub(channel), options)
        except grpc.aio.AioRpcError as failure:
            report.complain(report.explained(failure, options.gateway))
            return EXIT_FAILED


async def _survey(stub: Any, options: SurveyOptions) -> int:
    spec, problems = spec_of(options)
    try:
        estimate = await stub.EstimateSurvey(service_pb.EstimateSurveyRequest(spec=spec), timeout=CALL_TIMEOUT_S)
        tell_estimate(estimate)
        created = await stub.CreateSurvey(service_pb.CreateSurveyRequest(spec=spec), timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError as failure:
        if failure.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            raise
        lines = (
            f"{_option(violation.field, options)}: {problems.get(violation.field, violation.description)}"
            for violation in violations_in(failure)
        )
        for line in dict.fromkeys(lines):  # one option may fill several fields
            report.complain(line)
        return EXIT_BAD_ARGUMENTS
    output = Output(out=options.out, map_file=options.map_file, form=options.form)
    return await watch_and_print(stub, created.survey.survey_id, output)


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
