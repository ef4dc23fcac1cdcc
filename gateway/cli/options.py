"""Options that several commands have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.cli.output import FORMS, Output

F = TypeVar("F", bound=Callable[..., Any])

GATEWAY = click.option(
    "--gateway",
    default="",
    metavar="HOST:PORT",
    help="Ask a running gateway.  [default: the data folder of this machine]",
)
SURVEY_ID = click.argument("survey_id")

_QUIET = click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Nothing on standard error but problems.")
_JSONL = click.option(
    "--jsonl",
    "is_jsonl",
    is_flag=True,
    help="Print events as JSON lines instead of the survey, which then goes to --out only.",
)
_FILE = click.Path(dir_okay=False, path_type=Path)


def document_options(command: F) -> F:
    """Add --out, --map, --format and --quiet."""
    for option in (
        _QUIET,
        click.option(
            "--format",
            "form",
            type=click.Choice(FORMS),
            default="md",
            show_default=True,
            help="Markdown, HTML in one file, the Survey message as JSON, or BibTeX of its papers.",
        ),
        click.option("--map", "map_file", type=_FILE, help="Draw the route through the papers into this SVG file."),
        click.option("--out", type=_FILE, help="Write the survey to this file."),
    ):
        command = option(command)
    return command


def following_options(command: F) -> F:
    """Add what says how a survey that is followed is shown: --out, --map, --format, --quiet and --jsonl."""
    return document_options(_JSONL(command))


def output_of(options: dict[str, Any]) -> Output:
    """Return where a survey goes, and take the options that say so out of all of a command."""
    return Output(**{name: options.pop(name) for name in Output.__dataclass_fields__ if name in options})
