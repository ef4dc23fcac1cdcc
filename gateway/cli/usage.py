"""`paperroute usage`: what surveys took and cost, in groups; the work is done by `usage_report`."""

from typing import Any

import click

from gateway.cli.options import GATEWAY
from gateway.cli.running import run_and_exit

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option(
    "--by",
    default="",
    metavar="NAMES",
    help="Groups, separated by commas: survey, stage, model, tenant, day, label:KEY.  [default: one sum]",
)
@click.option("--from", "first", type=_DAY, metavar="YYYY-MM-DD", help="Surveys created on this day (UTC) or later.")
@click.option("--to", "last", type=_DAY, metavar="YYYY-MM-DD", help="Surveys created on this day (UTC) or before.")
@click.option("--survey", "survey_id", default="", metavar="ID", help="Only this survey.")
@click.option("--stage", default="", metavar="NAME", help="Only this stage: plan, embed, summarize, write, frame, ...")
@click.option("--model", default="", metavar="PROVIDER:MODEL", help="Only this model.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only surveys with it; may be repeated.")
@click.option("--tenant", default="", metavar="NAME", help="Only this tenant; others than one's own need admin.")
@click.option("--json", "form", flag_value="json", help="Print the gateway's answer as JSON.")
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values, costs in full.")
@GATEWAY
def usage(form: str | None, gateway: str, **wanted: Any) -> None:
    """Print tokens and cost of surveys, in groups.

    \b
    Examples:
      paperroute usage --by stage,model
      paperroute usage --by day,label:team --from 2026-11-01 --to 2026-11-30 --csv

    Exit status: 0 printed, 1 the gateway refused, 2 bad arguments.
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import usage_report

    run_and_exit(usage_report.run(usage_report.Wanted(**wanted), form or "table", gateway))
