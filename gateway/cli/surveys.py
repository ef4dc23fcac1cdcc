"""`paperroute surveys`: the surveys a gateway keeps; the work is done by `surveys_run`."""

from typing import Any

import click

from gateway.cli import completing
from gateway.cli.options import GATEWAY, SURVEY_ID, document_options, following_options, output_of
from gateway.cli.running import run_and_exit


@click.group()
def surveys() -> None:
    """List, show, follow, resume, cancel and delete surveys."""


@surveys.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    shell_complete=completing.values_of("survey_pb2", "SurveyState", "SURVEY_STATE_"),
    metavar="NAME",
    help="Only these: queued, running, done, ...",
)
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only those that carry it; may be repeated."
)
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Most surveys to show.")
@GATEWAY
def list_surveys(states: tuple[str, ...], labels: tuple[str, ...], limit: int, gateway: str) -> None:
    """Show surveys, newest first.

    \b
    Example:
      paperroute surveys list --state failed --state cancelled --label team=vision
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.show_list(states, labels, limit, gateway))


@surveys.command()
@SURVEY_ID
@document_options
@GATEWAY
def show(survey_id: str, gateway: str, **options: Any) -> None:
    """Print a survey as far as it is written.

    \b
    Examples:
      paperroute surveys show SURVEY_ID --format html --out survey.html
      paperroute surveys show SURVEY_ID --format bib --quiet > survey.bib

    Exit status: 0 it is there, 1 it is not, or it failed, or was cancelled, 2 bad arguments.
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.show(survey_id, output_of(options), gateway))


@surveys.command()
@SURVEY_ID
@following_options
@GATEWAY
def watch(survey_id: str, gateway: str, **options: Any) -> None:
    """Follow a survey to its end and print it; an interrupt ends the watching, not the survey.

    \b
    Example:
      paperroute surveys watch SURVEY_ID --jsonl --gateway 127.0.0.1:50050
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.watch(survey_id, output_of(options), gateway))


@surveys.command()
@SURVEY_ID
@following_options
@GATEWAY
def resume(survey_id: str, gateway: str, **options: Any) -> None:
    """Go on with a survey that was interrupted, cancelled, or failed; what is finished is not paid for again.

    \b
    Example:
      paperroute surveys resume SURVEY_ID --out survey.md
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.resume(survey_id, output_of(options), gateway))


@surveys.command()
@SURVEY_ID
@GATEWAY
def cancel(survey_id: str, gateway: str) -> None:
    """End a survey that is under way; what is finished stays.

    \b
    Example:
      paperroute surveys cancel SURVEY_ID --gateway 127.0.0.1:50050
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.cancel(survey_id, gateway))


@surveys.command()
@SURVEY_ID
@click.confirmation_option(prompt="Remove the survey with its question and its texts?")
@GATEWAY
def delete(survey_id: str, gateway: str) -> None:
    """Remove a survey; what it cost stays in the usage.

    \b
    Example:
      paperroute surveys delete SURVEY_ID --yes
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import surveys_run

    run_and_exit(surveys_run.delete(survey_id, gateway))
