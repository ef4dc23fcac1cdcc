"""`paperroute index build`: the progress on standard error, and what came of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.cli.index_embedding import PassingVectors
from gateway.cli.report import OurConsole, tell
from services.common.settings import SharedSettings, load
from services.common.telemetry.logs import configure_logging
from services.retrieval.index_build import BuildProgress, BuildReport, build
from services.retrieval.index_schema import FILE_NAME
from services.retrieval.settings import RetrievalSettings


async def run(files: Sequence[Path], *, is_anew: bool) -> int:
    """Build the index of the settings; return the exit status.

    Raises:
        SettingsError: the environment cannot be used.
        PaperRouteError: a file or the index cannot be used; the index is as it was.
    """
    shared = load(SharedSettings)
    configure_logging(shared)
    path = load(RetrievalSettings).index_path or shared.data_dir / FILE_NAME
    try:
        async with PassingVectors() as vectors:
            with _bar() as bar:
                task = bar.add_task("reading", total=None, note="")

                def show(progress: BuildProgress) -> None:
                    counts = progress.counts
                    note = f"{counts.new:,} new, {counts.changed:,} changed, {counts.rejected:,} rejected"
                    bar.update(task, completed=progress.read_bytes, total=progress.total_bytes, note=note)

                report = await build(files, path, vectors.of, is_anew=is_anew, on_progress=show)
    except asyncio.CancelledError:
        tell("stopped; the same command goes on where this one was")
        raise
    _tell_of(report, path)
    return 0


def _bar() -> Progress:
    console = OurConsole(stderr=True)
    return Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _tell_of(report: BuildReport, path: Path) -> None:
    counts = report.counts
    resumed = "went on with the build that was stopped; " if report.is_resumed else ""
    tell(
        f"{resumed}{report.record_count:,} papers in {path}: "
        f"{counts.new:,} new, {counts.changed:,} changed, {counts.unchanged:,} as they were"
    )
    if report.rejected_file:
        tell(f"{counts.rejected:,} lines were no records: {report.rejected_file}")
