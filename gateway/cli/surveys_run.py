"""What the commands of `paperroute surveys` do."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from rich.table import Table

from gateway.cli import report
from gateway.cli.arguments import enum_name, enum_value
from gateway.cli.following import CALL_TIMEOUT_S, Output, print_survey, unusable_files, watch_and_print
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED
from services.common.errors import violations_in
from services.common.markdown import plain
from services.common.papers import moment_of

MAX_QUESTION = 60
Work = Callable[[Any], Awaitable[int]]
"""Given a stub of SurveyService, returns the exit status."""


async def show_list(states: Sequence[str], labels: Sequence[str], limit: int, gateway: str) -> int:
    """Print a table of surveys; return the exit status."""
    request = service_pb.ListSurveysRequest(page_size=limit, states=[_state(name) for name in states])
    for label in labels:
        key, _, value = label.partition("=")
        request.labels[key] = value

    async def work(stub: Any) -> int:
        page = await stub.ListSurveys(request, timeout=CALL_TIMEOUT_S)
        _print_table(page.surveys, has_more=bool(page.next_page_token))
        return EXIT_DONE

    return await _run(work, gateway)


async def show(survey_id: str, output: Output, gateway: str) -> int:
    """Print one survey; return the exit status."""
    problems = unusable_files({"--out": output.out, "--map": output.map_file})
    for problem in problems:
        report.complain(problem)
    if problems:
        return EXIT_BAD_ARGUMENTS

    async def work(stub: Any) -> int:
        answer = await stub.GetSurvey(service_pb.GetSurveyRequest(survey_id=survey_id), timeout=CALL_TIMEOUT_S)
        return print_survey(answer.survey, output)

    return await _run(work, gateway)


async def watch(survey_id: str, gateway: str) -> int:
    """Follow one survey to its end; return the exit status."""
    return await _run(lambda stub: watch_and_print(stub, survey_id, Output(), is_ours=False), gateway)


async def resume(survey_id: str, gateway: str) -> int:
    """Give one survey another turn and follow it; return the exit status."""

    async def work(stub: Any) -> int:
        await stub.ResumeSurvey(service_pb.ResumeSurveyRequest(survey_id=survey_id), timeout=CALL_TIMEOUT_S)
        return await watch_and_print(stub, survey_id, Output())

    return await _run(work, gateway, can_recover=True)


async def cancel(survey_id: str, gateway: str) -> int:
    """End one survey; return the exit status."""

    async def work(stub: Any) -> int:
        answer = await stub.CancelSurvey(service_pb.CancelSurveyRequest(survey_id=survey_id), timeout=CALL_TIMEOUT_S)
        report.tell(f"the survey is {_state_name(answer.survey.state)}")
        return EXIT_DONE

    return await _run(work, gateway)


async def delete(survey_id: str, gateway: str) -> int:
    """Remove one survey; return the exit status."""

    async def work(stub: Any) -> int:
        answer = await stub.DeleteSurvey(service_pb.DeleteSurveyRequest(survey_id=survey_id), timeout=CALL_TIMEOUT_S)
        report.tell(f"removed, with {answer.deleted_answer_count} recorded answers")
        return EXIT_DONE

    return await _run(work, gateway)


async def _run(work: Work, gateway: str, *, can_recover: bool = False) -> int:
    async with reached(gateway, can_recover=can_recover) as channel:
        try:
            return await work(pb_grpc.SurveyServiceStub(channel))
        except grpc.aio.AioRpcError as failure:
            for violation in violations_in(failure):
                report.complain(f"--{violation.field.partition('[')[0].rstrip('s')}: {violation.description}")
            if failure.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return EXIT_BAD_ARGUMENTS
            report.complain(report.explained(failure, gateway))
            return EXIT_FAILED


def _state(name: str) -> Any:
    return enum_value(pb.SurveyState, "SURVEY_STATE_", name)


def _state_name(state: pb.SurveyState.ValueType) -> str:
    return enum_name(pb.SurveyState, "SURVEY_STATE_", state)


def _print_table(surveys: Sequence[pb.Survey], *, has_more: bool) -> None:
    if not surveys:
        report.tell("there is none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("survey", "state", "created (UTC)", "papers", "cost", "question"):
        table.add_column(name, justify="right" if name in {"papers", "cost"} else "left", no_wrap=name != "question")
    for survey in surveys:
        question = plain(survey.title or survey.spec.question)
        state = _state_name(survey.state)
        table.add_row(
            survey.survey_id,
            f"{state} {survey.queue_position}" if survey.queue_position else state,
            f"{moment_of(survey.created_at):%Y-%m-%d %H:%M}",
            f"{survey.coverage.kept_count}" if survey.coverage.kept_count else "",
            report.cost_of(survey.usage) if survey.usage else "",
            question if len(question) <= MAX_QUESTION else f"{question[: MAX_QUESTION - 1]}…",
        )
    report.show_table(table)
    if has_more:
        report.tell("there are more: --limit")
