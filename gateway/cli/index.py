"""The commands `paperroute index ...`: what they are called and take; what they do is imported when one is called."""

from pathlib import Path
from typing import Any

import click

from gateway.cli.running import run_and_exit


@click.group()
def index() -> None:
    """Build, look at and search the local index of arXiv records."""


@index.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--anew", is_flag=True, help="Begin with an empty index instead of updating the one that is there.")
def build(files: tuple[Path, ...], anew: bool) -> None:
    """Put the records of FILEs into the index, in place of older versions of the same papers.

    FILEs hold arXiv metadata as JSON lines, plain or gzipped: the snapshot "arXiv Dataset" of Kaggle, or a corpus.
    Searches go on with the index as it was until the build is done. A build that was stopped goes on when the same
    command is given again.

    \b
    Examples:
      paperroute index build arxiv-metadata-oai-snapshot.json
      paperroute index build --anew corpus.jsonl.gz

    Exit status: 0 the index is in place, 1 it is as it was, 2 bad arguments or files, 130 interrupted.
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import index_build

    run_and_exit(index_build.run(files, is_anew=anew))


@index.command()
def stats() -> None:
    """Print what the index holds: papers, dates, categories, encoder, age and size.

    \b
    Example:
      paperroute index stats
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import index_search

    run_and_exit(index_search.show_stats())


@index.command()
@click.argument("query")
@click.option("--category", "categories", multiple=True, metavar="NAME", help="Only papers of cs.CV or the like.")
@click.option(
    "--from",
    "first",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Only papers published on this day or later.",
)
@click.option(
    "--to",
    "last",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Only papers published on this day or before.",
)
@click.option("--limit", type=click.IntRange(1, 2_000), default=20, show_default=True, help="Most papers to print.")
@click.option(
    "--newest", "is_newest_first", is_flag=True, help="The newest papers first instead of the nearest to QUERY."
)
def search(query: str, **options: Any) -> None:
    """Print papers whose title and abstract hold all words of QUERY, and when they are few, others near to it.

    \b
    Examples:
      paperroute index search "video generation" --category cs.CV --from 2026-01-01
      paperroute index search "LoRA merging" --newest --limit 50

    Exit status: 0 papers were found, 1 none or no index, 2 bad arguments.
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import index_search

    wanted = index_search.Wanted(query=query, **options)
    run_and_exit(index_search.run(wanted))
