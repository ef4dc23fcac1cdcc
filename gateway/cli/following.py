"""A survey as the command line follows it: its progress while it runs, then its document and what became of it."""

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToJson
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.cli import report
from gateway.cli.progress import Progress
from gateway.cli.running import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from gateway.document.export_bibtex import bibtex_of
from gateway.document.export_markdown import markdown_of
from gateway.document.route_map import svg_of

CALL_TIMEOUT_S = 20
WATCH_TIMEOUT_S = 3_600
WATCH_TRIES = 20
"""A second apart: a gateway that is started again goes on with its surveys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where a survey's document goes, and in which form: "md", "json" or "bib"."""

    out: Path | None = None
    map_file: Path | None = None
    form: str = "md"


async def watch_and_print(stub: Any, survey_id: str, output: Output, *, is_ours: bool = True) -> int:
    """Follow a survey to its end and print it; return the exit status.

    Args:
        stub: of SurveyService.
        survey_id: which.
        output: where its document goes.
        is_ours: whether an interrupt cancels the survey; else it only ends the watching.
    """
    interrupted = await _watch(stub, survey_id, is_ours=is_ours)
    get = service_pb.GetSurveyRequest(survey_id=survey_id)
    answer = await stub.GetSurvey(get, timeout=CALL_TIMEOUT_S)
    return print_survey(answer.survey, output, interrupted=interrupted)


async def _watch(stub: Any, survey_id: str, *, is_ours: bool) -> bool:
    """Show the events until the survey has ended; return whether the user interrupted that."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    with Progress() as progress:
        watching = asyncio.create_task(_show_events(stub, survey_id, progress))
        waiting = asyncio.create_task(interrupted.wait())
        try:
            await asyncio.wait([watching, waiting], return_when=asyncio.FIRST_COMPLETED)
            if interrupted.is_set() and is_ours:
                cancel = service_pb.CancelSurveyRequest(survey_id=survey_id)
                await stub.CancelSurvey(cancel, timeout=CALL_TIMEOUT_S)
            if is_ours or not interrupted.is_set():
                await watching
        finally:
            waiting.cancel()
            watching.cancel()
            loop.remove_signal_handler(signal.SIGINT)
    return interrupted.is_set()


async def _show_events(stub: Any, survey_id: str, progress: Progress) -> None:
    """Show every event once, also over a connection that breaks and comes back."""
    number, tries = 0, WATCH_TRIES
    while True:
        try:
            request = service_pb.WatchSurveyRequest(survey_id=survey_id, after_number=number)
            async for event in stub.WatchSurvey(request, timeout=WATCH_TIMEOUT_S):
                number, tries = max(number, event.number), WATCH_TRIES
                progress.show(event)
        except grpc.aio.AioRpcError as failure:
            tries -= 1
            if failure.code() is not grpc.StatusCode.UNAVAILABLE or not tries:
                raise
            await asyncio.sleep(1)
        else:
            return


def print_survey(survey: pb.Survey, output: Output, *, interrupted: bool = False) -> int:
    """Print the survey as far as it was written, and what became of it; return the exit status."""
    has_text = bool(survey.chapters) and any(section.text for each in survey.chapters for section in each.sections)
    document = _document(survey, output.form) if has_text or output.form == "json" else ""
    if document and not (output.out and report.write_file(output.out, document)):
        report.show_document(document, is_markdown=output.form == "md")
    if output.map_file and has_text:
        report.write_file(output.map_file, svg_of(survey))
    report.show_stages(survey)
    return _ending(survey, interrupted=interrupted)


def _document(survey: pb.Survey, form: str) -> str:
    if form == "json":
        return MessageToJson(survey, ensure_ascii=False, always_print_fields_with_no_presence=True) + "\n"
    return bibtex_of(survey) if form == "bib" else markdown_of(survey)


def _ending(survey: pb.Survey, *, interrupted: bool) -> int:
    match survey.state:
        case pb.SURVEY_STATE_DONE:
            return EXIT_DONE
        case pb.SURVEY_STATE_PARTIAL:
            report.tell(f"its time was over; for the rest: paperroute surveys resume {survey.survey_id}")
            return EXIT_DONE
        case pb.SURVEY_STATE_NO_PAPERS:
            report.show_nothing_found(survey)
        case pb.SURVEY_STATE_FAILED:
            report.show_failure(survey.failure)
        case pb.SURVEY_STATE_CANCELLED:
            report.complain("the survey was cancelled")
        case _:
            report.tell(f"the survey is under way; follow it with: paperroute surveys watch {survey.survey_id}")
            return EXIT_DONE
    if survey.state != pb.SURVEY_STATE_NO_PAPERS:
        report.tell(f"go on with what is there: paperroute surveys resume {survey.survey_id}")
    return EXIT_INTERRUPTED if interrupted else EXIT_FAILED


def unusable_files(files: Mapping[str, Path | None]) -> list[str]:
    """Return which of the files could not be written, before anything is spent."""
    missing = {name: path.parent for name, path in files.items() if path and not path.parent.is_dir()}
    return [f"{name}: there is no folder {str(folder)!r}" for name, folder in missing.items()]
