"""The live display of a survey under way: one bar a stage, on standard error, and only on a terminal."""

import logging
import sys
from types import TracebackType
from typing import Self, TextIO

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from gateway.cli.report import NARROW, OurConsole
from gateway.document.stages import name_of
from services.common.markdown import plain

STAGES = tuple(pb.Stage.values()[1:])


class _Seconds(ProgressColumn):
    """How long a stage has run; nothing before it has begun."""

    def render(self, task: Task) -> Text:
        """Return the seconds since the start, to a tenth."""
        return Text(f"{task.elapsed:6.1f} s" if task.elapsed is not None else " " * 8, style="cyan")


class Progress:
    """Shows events; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._console = OurConsole(stderr=True)
        has_notes = self._console.width >= NARROW
        columns = [
            TextColumn("{task.description:<9}", style="bold", markup=False),
            BarColumn(bar_width=20 if has_notes else 8),
            TextColumn("{task.fields[count]:>9}", markup=False),
            _Seconds(),
        ]
        if has_notes:
            note = Column(no_wrap=True, ratio=1, overflow="ellipsis")
            columns.append(TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=note))
        self._bars = RichProgress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal, expand=has_notes
        )
        self._tasks: dict[int, TaskID] = {}
        self._logs: list[logging.StreamHandler[TextIO]] = []

    def __enter__(self) -> Self:
        """Begin to show."""
        before = sys.stderr
        self._bars.start()
        # What is logged meanwhile goes above the bars, not through them.
        handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
        self._logs = [each for each in handlers if each.stream is before]
        for handler in self._logs:
            handler.setStream(sys.stderr)
        for stage in STAGES:
            name = name_of(stage)
            self._tasks[stage] = self._bars.add_task(name, total=None, start=False, note="", count="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bars away."""
        self._bars.stop()
        for handler in self._logs:
            handler.setStream(sys.stderr)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line)

    def show(self, event: service_pb.WatchSurveyResponse) -> None:
        """Bring the display up to date with one event."""
        match event.WhichOneof("event"):
            case "queue_moved":
                self._note(STAGES[0], f"waits for its turn: place {event.queue_moved.queue_position}")
            case "state_changed" if event.state_changed.state == pb.SURVEY_STATE_RUNNING:
                self._note(STAGES[0], "")
            case "stage_started":
                self._bars.start_task(self._tasks[event.stage_started.stage])
                self._note(event.stage_started.stage, "begun again" if event.stage_started.attempt > 1 else "")
            case "stage_progress":
                progress = event.stage_progress
                self._bars.update(
                    self._tasks[progress.stage],
                    completed=progress.done_count,
                    total=progress.total_count or None,
                    count=_count(progress.done_count, progress.total_count),
                    note=plain(progress.note),
                )
            case "stage_finished":
                self._finish(event.stage_finished.report)
            case _:
                pass

    def _note(self, stage: int, note: str) -> None:
        self._bars.update(self._tasks[stage], note=note)

    def _finish(self, report: pb.StageReport) -> None:
        task = self._tasks[report.stage]
        notes = {pb.STAGE_STATE_FAILED: "failed", pb.STAGE_STATE_CANCELLED: "stopped"}
        note = notes.get(report.state, _found(report))
        total = report.total_count or report.done_count
        count = _count(report.done_count, total)
        self._bars.update(task, completed=report.done_count, total=total or 1, note=note, count=count)
        self._bars.stop_task(task)


def _found(report: pb.StageReport) -> str:
    if report.stage == pb.STAGE_EMBED:
        return f"cached {report.cached_count} of {report.paper_count}"
    return f"{report.paper_count} papers" if report.paper_count else ""


def _count(done: int, total: int) -> str:
    return f"{done}/{total}" if total else f"{done}" if done else ""
