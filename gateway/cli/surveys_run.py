"""What the commands of `paperroute surveys` do."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from rich.table import Table
from rich.text import Text

from gateway.cli import report
from gateway.cli.arguments import enum_name, enum_value
from gateway.cli.following import print_survey, watch_and_print, while_read
from gateway.cli.output import Output
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_BAD_ARGUMENTS, EXIT_DONE
from gateway.client import AsyncPaperRouteClient, RequestFailed
from services.common.markdown import plain
from services.common.papers import moment_of

MAX_QUESTION_WIDTH = 60
"""Columns; a Japanese character takes two."""
Work = Callable[[AsyncPaperRouteClient], Awaitable[int]]
"""Returns the exit status."""


async def show_list(states: Sequence[str], labels: Sequence[str], limit: int, gateway: str) -> int:
    """Print a table of surveys; return the exit status."""
    request = service_pb.ListSurveysRequest(page_size=limit, states=[_state(name) for name in states])
    for label in labels:
        key, _, value = label.partition("=")
        request.labels[key] = value

    async def work(client: AsyncPaperRouteClient) -> int:
        page = await client.surveys.ListSurveys(request)  # one page: whether there are more is to be told
        _print_table(page.surveys, has_more=bool(page.next_page_token))
        return EXIT_DONE

    return await _run(work, gateway)


async def show(survey_id: str, output: Output, gateway: str) -> int:
    """Print one survey; return the exit status."""
    return await _run(lambda client: _shown(client, survey_id, output), gateway, output)


async def watch(survey_id: str, output: Output, gateway: str) -> int:
    """Follow one survey to its end; return the exit status."""
    return await _run(lambda client: watch_and_print(client, survey_id, output, is_ours=False), gateway, output)


async def resume(survey_id: str, output: Output, gateway: str) -> int:
    """Give one survey another turn and follow it; return the exit status."""

    async def work(client: AsyncPaperRouteClient) -> int:
        await client.resume_survey(survey_id)
        async with while_read(client, survey_id):
            return await watch_and_print(client, survey_id, output)

    return await _run(work, gateway, output, can_recover=True)


async def cancel(survey_id: str, gateway: str) -> int:
    """End one survey; return the exit status."""

    async def work(client: AsyncPaperRouteClient) -> int:
        survey = await client.cancel_survey(survey_id)
        report.tell(f"the survey is {_state_name(survey.state)}")
        return EXIT_DONE

    return await _run(work, gateway)


async def delete(survey_id: str, gateway: str) -> int:
    """Remove one survey; return the exit status."""

    async def work(client: AsyncPaperRouteClient) -> int:
        report.tell(f"removed, with {await client.delete_survey(survey_id)} recorded answers")
        return EXIT_DONE

    return await _run(work, gateway)


async def _run(work: Work, gateway: str, output: Output | None = None, *, can_recover: bool = False) -> int:
    unusable = output.problems() if output else []
    for problem in unusable:
        report.complain(problem)
    if unusable:
        return EXIT_BAD_ARGUMENTS
    async with reached(gateway, can_recover=can_recover) as client:
        try:
            return await work(client)
        except RequestFailed as failure:
            status = report.refused(failure, _line_of)
            if failure.code is grpc.StatusCode.NOT_FOUND:
                report.tell(
                    f"those that there are: paperroute surveys list{f' --gateway {gateway}' if gateway else ''}"
                )
            return status


async def _shown(client: AsyncPaperRouteClient, survey_id: str, output: Output) -> int:
    return print_survey(await client.get_survey(survey_id), output)


def _line_of(field: str, description: str) -> str:
    return f"--{field.partition('[')[0].rstrip('s')}: {description}"


def _state(name: str) -> Any:
    return enum_value(pb.SurveyState, "SURVEY_STATE_", name)


def _state_name(state: pb.SurveyState.ValueType) -> str:
    return enum_name(pb.SurveyState, "SURVEY_STATE_", state)


def _print_table(surveys: Sequence[pb.Survey], *, has_more: bool) -> None:
    if not surveys:
        report.tell("there is none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("survey", "state", "created (UTC)", "papers", "cost"):
        table.add_column(name, justify="right" if name in {"papers", "cost"} else "left", no_wrap=True)
    table.add_column("question", overflow="fold")
    for survey in surveys:
        question = Text(plain(survey.title or survey.spec.question))
        question.truncate(MAX_QUESTION_WIDTH, overflow="ellipsis")
        state = _state_name(survey.state)
        table.add_row(
            survey.survey_id,
            f"{state} {survey.queue_position}" if survey.queue_position else state,
            f"{moment_of(survey.created_at):%Y-%m-%d %H:%M}",
            f"{survey.coverage.kept_count}" if survey.coverage.kept_count else "",
            report.cost_of(survey.usage) if survey.usage else "",
            question,
        )
    report.show_table(table)
    if has_more:
        report.tell("there are more: --limit")
