"""A survey as the command line follows it: its progress while it runs, then its document and what became of it."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from paperroute.v1 import survey_pb2 as pb

from gateway.cli import report
from gateway.cli.display import Display, Silent
from gateway.cli.output import Output, document_of
from gateway.cli.running import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from gateway.client import AsyncPaperRouteClient
from gateway.document.route_map import svg_of


@dataclass(frozen=True, kw_only=True, slots=True)
class _Interrupts:
    """What Ctrl-C has asked for: to stop, then to leave at once."""

    first: asyncio.Event
    second: asyncio.Event

    def count(self) -> None:
        """Take one more."""
        (self.second if self.first.is_set() else self.first).set()


async def watch_and_print(
    client: AsyncPaperRouteClient, survey_id: str, output: Output, *, is_ours: bool = True
) -> int:
    """Follow a survey to its end and print it; return the exit status.

    Args:
        client: of the gateway that has it.
        survey_id: which.
        output: where its document goes.
        is_ours: whether an interrupt cancels the survey; else it only ends the watching.

    Raises:
        RequestFailed: there is no such survey, or the gateway stays away.
        BrokenPipeError: nobody reads on.
    """
    with _interrupts() as interrupts:
        await _watch(client, survey_id, display_of(output), interrupts, is_ours=is_ours)
    if interrupts.second.is_set():
        report.complain(f"left at once; see what became of it with: paperroute surveys show {survey_id}")
        return EXIT_INTERRUPTED
    survey = await client.get_survey(survey_id)
    return print_survey(survey, output, is_interrupted=interrupts.first.is_set())


@contextlib.asynccontextmanager
async def while_read(client: AsyncPaperRouteClient, survey_id: str) -> AsyncIterator[None]:
    """Cancel a survey when nobody reads any more what is written of it: it shall not go on to cost."""
    try:
        yield
    except BrokenPipeError:
        await client.cancel_survey(survey_id)
        raise


def display_of(output: Output) -> Display:
    """Return what shows the events as they come."""
    if output.is_jsonl:
        from gateway.cli.events import JsonLines

        return JsonLines()
    if output.is_quiet:
        return Silent()
    from gateway.cli.progress import Progress

    return Progress()


@contextlib.contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Yield what counts the interrupts, in place of whatever they would do otherwise."""
    found = _Interrupts(first=asyncio.Event(), second=asyncio.Event())
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, found.count)
    try:
        yield found
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)  # the loop would put Python's own there


async def _watch(
    client: AsyncPaperRouteClient, survey_id: str, display: Display, interrupts: _Interrupts, *, is_ours: bool
) -> None:
    """Show the events until the survey has ended, or the user does not want that any more."""
    with display:
        watching = asyncio.create_task(_show_events(client, survey_id, display))
        try:
            await _either(watching, interrupts.first)
            if is_ours and interrupts.first.is_set():
                display.say("stopping; press Ctrl-C again to leave at once")
                await _either(asyncio.create_task(_stopped(client, survey_id, watching)), interrupts.second)
        finally:
            watching.cancel()
            await asyncio.wait([watching])


async def _stopped(client: AsyncPaperRouteClient, survey_id: str, watching: asyncio.Task[None]) -> None:
    await client.cancel_survey(survey_id)
    await watching


async def _show_events(client: AsyncPaperRouteClient, survey_id: str, display: Display) -> None:
    stream: Any = client.watch_survey(survey_id)  # Any: an async generator, which its type does not say
    async with aclosing(stream) as events:
        async for event in events:
            display.show(event)


async def _either(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Wait for the end of a task or for an event; a task that failed raises what it failed with."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()


def print_survey(survey: pb.Survey, output: Output, *, is_interrupted: bool = False) -> int:
    """Print the survey as far as it was written, and what became of it; return the exit status."""
    has_text = bool(survey.chapters) and any(section.text for each in survey.chapters for section in each.sections)
    if has_text or output.form == "json":
        _deliver(document_of(survey, output.form), output)
    if output.map_file and has_text:
        report.write_file(output.map_file, svg_of(survey), is_quiet=output.is_silent)
    if not output.is_silent:
        report.show_stages(survey)
    status = _ending(survey, is_interrupted=is_interrupted)
    if output.is_jsonl:
        from gateway.cli.events import print_end

        print_end(survey, status)
    return status


def _deliver(document: str, output: Output) -> None:
    """Write the document where it goes; on standard output where that cannot be, so that nothing is lost."""
    is_written = output.out and report.write_file(output.out, document, is_quiet=output.is_silent)
    if not (is_written or output.is_jsonl):
        report.show_document(document, is_markdown=output.form == "md")


def _ending(survey: pb.Survey, *, is_interrupted: bool) -> int:
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
    return EXIT_INTERRUPTED if is_interrupted else EXIT_FAILED
