"""What `paperroute usage` asks and prints."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_service_pb2 as usage_pb
from rich.table import Table

from gateway.cli import report
from gateway.cli.arguments import REFUSED, enum_value
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_DONE
from gateway.client import RequestFailed
from gateway.document.stages import name_of, stage_of
from services.common.markdown import plain
from services.common.paid.money import shown, usd_of
from services.common.papers import timestamp_of

_LABEL = "label:"
_FIELDS = {"survey": "survey_id", "label": "label_value"}
_COUNTS = ("survey_count", "call_count", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
_SERVED = ("served_call_count", "served_input_tokens", "served_output_tokens")
_OPTIONS = {"group_by": "--by", "label_key": "--by", "created_from": "--from", "created_before": "--to"}
_RARE = ("served", "cached", "saved")
"""Figures that the table leaves out where there is nothing of them."""
_NOTHING = ("", "0", "$0.0000")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The arguments of the command."""

    by: str
    first: datetime | None
    last: datetime | None
    survey_id: str
    stage: str
    model: str
    labels: tuple[str, ...]
    tenant: str


async def run(wanted: Wanted, form: str, gateway: str) -> int:
    """Ask for the usage and print it as "table", "json" or "csv"; return the exit status."""
    names = [name.strip() for name in wanted.by.split(",") if name.strip()]
    async with reached(gateway) as client:
        try:
            answer = await client.query_usage(**query_of(wanted, names))
        except RequestFailed as failure:
            return report.refused(failure, _line_of)
    _print(answer, [name.partition(":")[0] for name in names], form)
    return EXIT_DONE


def query_of(wanted: Wanted, names: Sequence[str]) -> Mapping[str, Any]:
    """Return what the gateway is asked; what no message can carry is filled with a value that it refuses."""
    labels = [name.removeprefix(_LABEL) for name in names if name.startswith(_LABEL)]
    return {
        "group_by": [_dimension(name.partition(":")[0]) for name in names],
        "label_key": labels[0] if labels else "",
        "survey_id": wanted.survey_id,
        "stage": _stage(wanted.stage),
        "model": wanted.model,
        "tenant": wanted.tenant,
        "labels": {key: value for key, _, value in (label.partition("=") for label in wanted.labels)},
        "created_from": _moment(wanted.first),
        "created_before": _moment(wanted.last + timedelta(days=1)) if wanted.last else None,
    }


def _moment(day: datetime | None) -> Timestamp | None:
    return timestamp_of(day.replace(tzinfo=UTC)) if day else None


def _line_of(field: str, description: str) -> str:
    name = field.partition("[")[0]
    return f"{_OPTIONS.get(name, f'--{name}')}: {description}"


def _dimension(name: str) -> Any:
    return enum_value(usage_pb.UsageDimension, "USAGE_DIMENSION_", name)


def _stage(name: str) -> Any:
    if not name:
        return pb.STAGE_UNSPECIFIED
    return stage_of(name.lower()) or REFUSED


def _print(answer: usage_pb.QueryUsageResponse, groups: Sequence[str], form: str) -> None:
    if form == "json":
        click.echo(MessageToJson(answer, ensure_ascii=False, always_print_fields_with_no_presence=True))
    elif form == "csv":
        _print_csv(answer.rows, groups)
    else:
        _print_table(answer, groups)


def _print_csv(rows: Sequence[usage_pb.UsageRow], groups: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*groups, *_COUNTS, "cost_usd", "unpriced_call_count", "avoided_cost_usd", *_SERVED])
    for row in rows:
        names = [_defused(_group(row, name)) for name in groups]
        costs = [f"{usd_of(row.cost_nano_usd):f}", row.unpriced_call_count, f"{usd_of(row.avoided_cost_nano_usd):f}"]
        counts, served = ([getattr(row, name) for name in each] for each in (_COUNTS, _SERVED))
        writer.writerow([*names, *counts, *costs, *served])


def _print_table(answer: usage_pb.QueryUsageResponse, groups: Sequence[str]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=bool(groups))
    total = answer.total
    for place, name in enumerate(groups):
        table.add_column(name, footer="total" if place == 0 else "")
    names = ("surveys", "calls", "served", "tokens in", "cached", "out", "cost", "saved")
    sums = _figures(total)
    places = [place for place, name in enumerate(names) if not (name in _RARE and sums[place] in _NOTHING)]
    for place in places:
        table.add_column(names[place], footer=sums[place], justify="right", no_wrap=True)
    for row in answer.rows if groups else [total]:
        figures = _figures(row)
        table.add_row(*(plain(_group(row, name)) for name in groups), *(figures[place] for place in places))
    report.show_table(table)


def _figures(row: usage_pb.UsageRow) -> tuple[str, ...]:
    counts = (row.input_tokens, row.cached_input_tokens, row.output_tokens)
    calls = (f"{row.survey_count:,}", f"{row.call_count:,}", report.served_of(row.call_count, row.served_call_count))
    cost = f"${shown(row.cost_nano_usd)}"
    if row.unpriced_call_count:
        cost += f" + {row.unpriced_call_count:,} calls unpriced"
    return (*calls, *(f"{count:,}" for count in counts), cost, f"${shown(row.avoided_cost_nano_usd)}")


def _group(row: usage_pb.UsageRow, name: str) -> str:
    if name == "stage":
        return name_of(row.stage)
    return str(getattr(row, _FIELDS.get(name, name)))


def _defused(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: labels are their writers' own."""
    return f"'{text}" if text.startswith(_FORMULA) else text
