"""The live display of a survey under way: one bar a stage, on standard error, and only on a terminal."""

from types import TracebackType
from typing import Self

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from gateway.document.stages import name_of
from services.common.markdown import plain

STAGES = tuple(pb.Stage.values()[1:])
NARROW = 60
"""Columns below which the notes are left out."""


class _Seconds(ProgressColumn):
    """How long a stage has run; nothing before it has begun."""

    def render(self, task: Task) -> Text:
        """Return the seconds since the start, to a tenth."""
        return Text(f"{task.elapsed:6.1f} s" if task.elapsed is not None else "", style="cyan")


class Progress:
    """Shows events; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = [
            TextColumn("{task.description:<9}", style="bold"),
            BarColumn(bar_width=20 if self._console.width >= NARROW else 8),
            TextColumn("{task.fields[count]:>9}"),
            _Seconds(),
        ]
        if self._console.width >= NARROW:
            columns.append(TextColumn("{task.fields[note]}", style="dim", table_column=Column(no_wrap=True, ratio=1)))
        self._bars = RichProgress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal, expand=True
        )
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bars.start()
        for stage in STAGES:
            name = name_of(stage)
            self._tasks[stage] = self._bars.add_task(name, total=None, start=False, note="", count="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bars away."""
        self._bars.stop()

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
                    note=_shown(progress.note),
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


def _shown(note: str) -> str:
    """Return a note without what a terminal or the markup of the display could take for a command."""
    return plain(note).replace("[", "\\[")
