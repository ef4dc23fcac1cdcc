"""`paperroute surveys`: the surveys a gateway keeps; the work is done by `surveys_run`."""

from pathlib import Path

import click

from gateway.cli.running import run_and_exit

GATEWAY = click.option(
    "--gateway",
    default="",
    metavar="HOST:PORT",
    help="Ask a running gateway.  [default: the data folder of this machine]",
)


@click.group()
def surveys() -> None:
    """List, show, follow, resume, cancel and delete surveys."""


@surveys.command("list")
@click.option("--state", "states", multiple=True, metavar="NAME", help="Only these: queued, running, done, ...")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only those that carry it; may be repeated."
)
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Most surveys to show.")
@GATEWAY
def list_surveys(states: tuple[str, ...], labels: tuple[str, ...], limit: int, gateway: str) -> None:
    """Show surveys, newest first."""
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.show_list(states, labels, limit, gateway))


@surveys.command()
@click.argument("survey_id")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the survey to this file.")
@click.option("--map", "map_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw its route as SVG.")
@click.option("--format", "form", type=click.Choice(["md", "json", "bib"]), default="md", show_default=True)
@GATEWAY
def show(survey_id: str, out: Path | None, map_file: Path | None, form: str, gateway: str) -> None:
    """Print a survey as far as it is written."""
    from gateway.cli import surveys_run
    from gateway.cli.following import Output

    run_and_exit(surveys_run.show(survey_id, Output(out=out, map_file=map_file, form=form), gateway))


@surveys.command()
@click.argument("survey_id")
@GATEWAY
def watch(survey_id: str, gateway: str) -> None:
    """Follow a survey to its end and print it; an interrupt ends the watching, not the survey."""
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.watch(survey_id, gateway))


@surveys.command()
@click.argument("survey_id")
@GATEWAY
def resume(survey_id: str, gateway: str) -> None:
    """Go on with a survey that was interrupted, cancelled, or failed; what is finished is not paid for again."""
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.resume(survey_id, gateway))


@surveys.command()
@click.argument("survey_id")
@GATEWAY
def cancel(survey_id: str, gateway: str) -> None:
    """End a survey that is under way; what is finished stays."""
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.cancel(survey_id, gateway))


@surveys.command()
@click.argument("survey_id")
@click.confirmation_option(prompt="Remove the survey with its question and its texts?")
@GATEWAY
def delete(survey_id: str, gateway: str) -> None:
    """Remove a survey; what it cost stays in the usage."""
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.delete(survey_id, gateway))
