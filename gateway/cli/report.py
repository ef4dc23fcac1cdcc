"""What the command line prints: the document on standard output, everything about it on standard error."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import grpc
from paperroute.v1 import search_pb2, usage_pb2
from paperroute.v1 import survey_pb2 as pb
from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Column, Table

from gateway.cli.running import EXIT_BAD_ARGUMENTS, EXIT_FAILED
from gateway.client import RequestFailed
from gateway.document.stages import name_of
from services.common.markdown import plain
from services.common.paid.money import shown

MAX_TEXT_WIDTH = 100
"""Columns of running text; longer lines are hard to read."""
NARROW = 60
"""Columns below which a survey under way, and what its stages took, are shown in fewer words."""
LEAST_TEXT_WIDTH = 14
"""Columns that are left to a text which may go on in the next line."""
_GAP = 2
FILE_WIDTH = 400
"""Columns of a table that is not printed on a terminal: nothing in it is broken into lines."""


def complain(line: str) -> None:
    """Print one line about what is wrong."""
    click.echo(f"paperroute: {plain(line)}", err=True)


def refused(failure: RequestFailed, line_of: Callable[[str, str], str]) -> int:
    """Print why a gateway refused a request, a line for each broken field; return the exit status.

    Args:
        failure: what the request failed with.
        line_of: returns the line for a field ("spec.max_papers") and what is wrong with it.
    """
    if failure.code is not grpc.StatusCode.INVALID_ARGUMENT:
        complain(str(failure))
        return EXIT_FAILED
    lines = [line_of(each.field, each.description) if each.field else each.description for each in failure.violations]
    for line in dict.fromkeys(lines or [str(failure)]):  # one option may fill several fields
        complain(line)
    return EXIT_BAD_ARGUMENTS


def tell(line: str) -> None:
    """Print one line of information."""
    click.echo(line, err=True)


class OurConsole(Console):
    """A console that shows text as it is, and lets the command end when nobody reads on."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Pass the error on that is being handled."""
        raise  # noqa: PLE0704  # it is called where that error is handled


def show_document(document: str, *, is_markdown: bool) -> None:
    """Print the document: rendered on a terminal, as it is elsewhere."""
    console = OurConsole()
    if is_markdown and console.is_terminal:
        console.print(Markdown(document), width=min(console.width, MAX_TEXT_WIDTH))
    else:
        click.echo(document, nl=False)


def show_table(table: Table) -> None:
    """Print a table on standard output; where the terminal is too narrow for its figures, row by row below each other.

    Columns with `no_wrap` are never cut: half a cost is another cost.
    """
    console = OurConsole()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    if sum(_least_width(column) for column in table.columns) + _GAP * (len(table.columns) - 1) <= console.width:
        console.print(table)
    else:
        _show_records(console, table)


def _least_width(column: Column) -> int:
    widest = max(cell_len(str(cell)) for cell in (column.header, column.footer, *column.cells))
    return widest if column.no_wrap else min(widest, LEAST_TEXT_WIDTH)


def _show_records(console: Console, table: Table) -> None:
    names = [str(column.header) for column in table.columns]
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    if table.show_footer:
        rows.append(tuple(column.footer for column in table.columns))
    for row in rows:
        heads, cells = Column(style="bold", no_wrap=True), Column(overflow="fold")
        record = Table(heads, cells, box=None, pad_edge=False, show_header=False)
        for name, cell in zip(names, row, strict=True):
            if cell:
                record.add_row(name, cell)
        console.print(record)
        if row is not rows[-1]:
            console.print()


def write_file(path: Path, text: str, *, is_quiet: bool = False) -> bool:
    """Write a file and say so; return whether that went well, so that nothing is lost where it did not."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        complain(f"{path} cannot be written: {error.strerror}")
        return False
    if not is_quiet:
        tell(f"written to {path}")
    return True


def show_stages(survey: pb.Survey) -> None:
    """Print the table of stages: time, papers, calls, tokens, cost."""
    console = OurConsole(stderr=True)
    names = (
        ["time", "calls", "cost"] if console.width < NARROW else ["time", "papers", "calls", "tokens in", "out", "cost"]
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", *names):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for stage in survey.stages:
        cached = f" ({stage.cached_count} cached)" if stage.cached_count else ""
        papers = f"{stage.paper_count}{cached}" if stage.paper_count else ""
        figures = {"time": f"{stage.duration_ms / 1_000:.2f} s", "papers": papers, **_spent(stage.usage)}
        table.add_row(name_of(stage.stage), *(figures[name] for name in names))
    if survey.stages:
        wall_ms = survey.finished_at.ToMilliseconds() - survey.created_at.ToMilliseconds()
        kept = f"{survey.coverage.kept_count}" if survey.coverage.kept_count else ""
        total = {"time": f"{max(0, wall_ms) / 1_000:.2f} s", "papers": kept, **_spent(survey.usage)}
        table.add_row("total", *(total[name] for name in names), style="bold")
        console.print(table)
    _show_served(survey.usage)
    if survey.coverage.cited_count:
        coverage = survey.coverage
        line = (
            f"{coverage.kept_count} papers kept: {coverage.cited_count} cited, "
            f"{coverage.listed_count} listed, {coverage.dropped_count} dropped"
        )
        console.print(line, soft_wrap=not console.is_terminal)


def show_nothing_found(survey: pb.Survey) -> None:
    """Print what was tried and what each filter dropped."""
    source = search_pb2.Source.Name(survey.search.source).removeprefix("SOURCE_").lower()
    complain(f"no paper was found in {source}, so nothing was written; what was tried:")
    for term in survey.search.terms:
        tell(f"  {plain(term.search_term)}: {term.found_count} found, {term.kept_count} kept")
    for filter_ in survey.search.filters:
        if filter_.dropped_count:
            tell(f"  filter {filter_.name}: {filter_.dropped_count} of {filter_.input_count} dropped")
    tell("Ask with fewer or more common words, or try another --source.")


def show_failure(failure: pb.Failure) -> None:
    """Print which stage and service failed, why, and what to do."""
    stage = name_of(failure.stage)
    complain(f"stage {stage} failed: {failure.service}, {failure.reason}: {failure.message}")


def _spent(usages: Sequence[usage_pb2.ModelUsage]) -> dict[str, str]:
    if not usages:
        return dict.fromkeys(("calls", "tokens in", "out", "cost"), "")
    return {
        "calls": f"{sum(usage.call_count for usage in usages):,}",
        "tokens in": f"{sum(usage.input_tokens for usage in usages):,}",
        "out": f"{sum(usage.output_tokens for usage in usages):,}",
        "cost": cost_of(usages),
    }


def _show_served(usages: Sequence[usage_pb2.ModelUsage]) -> None:
    paid, served = (sum(getattr(usage, name) for usage in usages) for name in ("call_count", "served_call_count"))
    if served:
        saved = shown(sum(usage.avoided_cost_nano_usd for usage in usages))
        tell(f"{served:,} calls ({served_of(paid, served)}) answered from the ledger: ${saved} saved")


def served_of(paid_count: int, served_count: int) -> str:
    """Return which part of the calls the ledger answered, in percent; empty where it answered none."""
    return f"{100 * served_count / (paid_count + served_count):.0f} %" if served_count else ""


def cost_of(usages: Sequence[usage_pb2.ModelUsage]) -> str:
    """Return the cost in US dollars to 4 places, half up; "unpriced" beside it where a price is unknown."""
    known = f"${shown(sum(usage.cost_nano_usd for usage in usages))}"
    unpriced = any(not usage.HasField("cost_nano_usd") for usage in usages)
    return f"{known} + unpriced" if unpriced else known
