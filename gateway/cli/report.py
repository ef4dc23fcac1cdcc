"""What the command line prints: the document on standard output, everything about it on standard error."""

from collections.abc import Sequence
from pathlib import Path

import click
import grpc
from paperroute.v1 import search_pb2, usage_pb2
from paperroute.v1 import survey_pb2 as pb
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from gateway.document.stages import name_of
from services.common.errors import reason_in
from services.common.markdown import plain
from services.common.paid.money import shown

MAX_TEXT_WIDTH = 100
"""Columns of running text; longer lines are hard to read."""
FILE_WIDTH = 400
"""Columns of a table that is not printed on a terminal: nothing in it is broken into lines."""


def complain(line: str) -> None:
    """Print one line about what is wrong."""
    click.echo(f"paperroute: {plain(line)}", err=True)


def explained(failure: grpc.aio.AioRpcError, gateway: str) -> str:
    """Return why a call to a gateway failed, and what to do; `gateway` is empty for the one in this process."""
    if failure.code() is grpc.StatusCode.UNAVAILABLE and reason_in(failure) == "UNAVAILABLE" and gateway:
        return (
            f"no gateway answers at {gateway}; start one with: paperroute up. "
            "One that is there wants PAPERROUTE_CA when it is encrypted"
        )
    return f"{failure.code().name}: {failure.details()}"


def tell(line: str) -> None:
    """Print one line of information."""
    click.echo(line, err=True)


def show_document(document: str, *, is_markdown: bool) -> None:
    """Print the document: rendered on a terminal, as it is elsewhere."""
    console = Console(highlight=False)
    if is_markdown and console.is_terminal:
        console.print(Markdown(document), width=min(console.width, MAX_TEXT_WIDTH))
    else:
        click.echo(document, nl=False)


def show_table(table: Table) -> None:
    """Print a table on standard output; what is in it is text, whatever it looks like."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)


def write_file(path: Path, text: str) -> bool:
    """Write a file and say so; return whether that went well, so that nothing is lost where it did not."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        complain(f"{path} cannot be written: {error.strerror}")
        return False
    tell(f"written to {path}")
    return True


def show_stages(survey: pb.Survey) -> None:
    """Print the table of stages: time, papers, calls, tokens, cost."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    for name in ("time", "papers", "calls", "tokens in", "out", "cost"):
        table.add_column(name, justify="right")
    for stage in survey.stages:
        name = name_of(stage.stage)
        cached = f" ({stage.cached_count} cached)" if stage.cached_count else ""
        papers = f"{stage.paper_count}{cached}" if stage.paper_count else ""
        table.add_row(name, f"{stage.duration_ms / 1_000:.2f} s", papers, *_spent(stage.usage))
    if survey.stages:
        wall_ms = survey.finished_at.ToMilliseconds() - survey.created_at.ToMilliseconds()
        table.add_section()
        kept = f"{survey.coverage.kept_count}" if survey.coverage.kept_count else ""
        table.add_row("total", f"{max(0, wall_ms) / 1_000:.2f} s", kept, *_spent(survey.usage), style="bold")
        Console(stderr=True, highlight=False).print(table)
    _show_served(survey.usage)
    if survey.coverage.cited_count:
        coverage = survey.coverage
        tell(
            f"{coverage.kept_count} papers kept: {coverage.cited_count} cited, "
            f"{coverage.listed_count} listed, {coverage.dropped_count} dropped"
        )


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


def _spent(usages: Sequence[usage_pb2.ModelUsage]) -> tuple[str, str, str, str]:
    if not usages:
        return "", "", "", ""
    calls = sum(usage.call_count for usage in usages)
    tokens_in = sum(usage.input_tokens for usage in usages)
    tokens_out = sum(usage.output_tokens for usage in usages)
    return f"{calls:,}", f"{tokens_in:,}", f"{tokens_out:,}", cost_of(usages)


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
