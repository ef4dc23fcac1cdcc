"""`paperroute index search` and `paperroute index stats`: what the index holds, on standard output."""

import asyncio
import contextlib
import difflib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import click
from rich.table import Table

from gateway.cli.index_embedding import own_embedding
from gateway.cli.report import OurConsole, complain, tell
from gateway.document.links import url_of
from services.common.categories import CATEGORIES
from services.common.errors import InvalidRequest, Violation
from services.common.markdown import plain
from services.common.papers import Paper
from services.common.settings import SharedSettings, load
from services.common.telemetry.logs import configure_logging
from services.retrieval.index_file import IndexFile, IndexLimits
from services.retrieval.index_schema import FILE_NAME
from services.retrieval.index_source import IndexAnswer, IndexQuery, IndexSource
from services.retrieval.settings import RetrievalSettings
from services.retrieval.words import term_words

SHOWN_CATEGORIES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The arguments of the search."""

    query: str
    categories: tuple[str, ...]
    first: datetime | None
    last: datetime | None
    limit: int
    is_newest_first: bool


async def run(wanted: Wanted) -> int:
    """Print the papers found; return the exit status.

    Raises:
        SettingsError: the environment cannot be used.
        InvalidRequest: arguments cannot be used; all are named.
        PaperRouteError: there is no index, or it cannot be read.
    """
    _check(wanted)
    limits = IndexLimits(
        published_from=wanted.first.date() if wanted.first else None,
        published_by=wanted.last.date() if wanted.last else None,
        categories=wanted.categories,
    )
    query = IndexQuery(
        term=wanted.query, max_results=wanted.limit, is_newest_first=wanted.is_newest_first, limits=limits
    )
    async with _source() as source:
        answer = await source.search(query)
    for paper in answer.papers:
        click.echo(_line_of(paper))
    if not answer.papers:
        complain("no paper was found; look with fewer words or wider limits")
        return 1
    tell(_ending(answer))
    return 0


async def show_stats() -> int:
    """Print the figures; return the exit status.

    Raises:
        SettingsError: the environment cannot be used.
        NotReady: there is no index, or it cannot be read.
    """
    path = _path()
    index = IndexFile(path)
    try:
        facts = await asyncio.to_thread(index.facts)
        categories = await asyncio.to_thread(index.use, lambda view: view.category_counts())
    finally:
        index.close()
    shown = ", ".join(f"{name} {count:,}" for name, count in islice(categories.items(), SHOWN_CATEGORIES))
    others = len(categories) - SHOWN_CATEGORIES
    rows = {
        "file": str(path),
        "size": f"{facts.size_bytes / 1e6:,.1f} MB",
        "papers": f"{facts.record_count:,}",
        "first submitted": f"{facts.oldest_at:%Y-%m-%d} (the oldest)",
        "newest record": f"{facts.newest_at:%Y-%m-%d}",
        "categories": f"{shown} and {others:,} more" if others > 0 else shown,
        "encoder": f"{facts.encoder}, {facts.dimension} numbers",
        "built": f"{facts.built_at:%Y-%m-%d %H:%M} UTC, {(datetime.now(UTC) - facts.built_at).days:,} days ago",
        "built from": ", ".join(facts.input_files),
        "rejected lines": f"{facts.rejected_count:,}",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, figure in rows.items():
        table.add_row(name, plain(figure))
    OurConsole().print(table)
    if not facts.is_word_rule_current:
        tell("Words are folded differently since it was built; build it anew to find all papers.")
    return 0


def _check(wanted: Wanted) -> None:
    violations = []
    if not term_words(wanted.query):
        violations.append(Violation(field="QUERY", description="at least one letter or digit"))
    for name in wanted.categories:
        if name not in CATEGORIES:
            close = difflib.get_close_matches(name, CATEGORIES, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            violations.append(Violation(field="--category", description=f"arXiv has no {name!r}{meant}"))
    if wanted.first and wanted.last and wanted.first > wanted.last:
        violations.append(
            Violation(field="--from", description=f"not after --to: {wanted.first:%Y-%m-%d} > {wanted.last:%Y-%m-%d}")
        )
    if violations:
        raise InvalidRequest(violations)


@contextlib.asynccontextmanager
async def _source() -> AsyncIterator[IndexSource]:
    path = _path()
    index = IndexFile(path)
    await asyncio.to_thread(index.facts)  # tells what is wrong with it before a model is loaded in vain
    index.close()
    async with own_embedding() as embedding:
        source = IndexSource(path, embedding)
        try:
            yield source
        finally:
            await source.close()


def _path() -> Path:
    shared = load(SharedSettings)
    configure_logging(shared)
    return load(RetrievalSettings).index_path or shared.data_dir / FILE_NAME


def _line_of(paper: Paper) -> str:
    day = f"{paper.published_at:%Y-%m-%d}" if paper.is_day_known else f"{paper.published_at:%Y-%m}   "
    return f"{day}  {url_of(paper)}  {plain(paper.title)}"


def _ending(answer: IndexAnswer) -> str:
    others = len(answer.papers) - answer.hit_count
    more = f"; {others:,} more hold some of the words or are near" if others else ""
    shown = f", {answer.hit_count:,} of them shown" if answer.hit_count < answer.all_hit_count else ""
    return f"{answer.all_hit_count:,} papers hold all words{shown}{more}"
