"""What `paperroute usage` asks and prints."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToJson
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_service_pb2 as usage_pb
from paperroute.v1 import usage_service_pb2_grpc as usage_grpc
from rich.table import Table

from gateway.cli import report
from gateway.cli.arguments import REFUSED, enum_value
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED
from gateway.document.stages import name_of, stage_of
from services.common.errors import violations_in
from services.common.markdown import plain
from services.common.paid.money import shown, usd_of
from services.common.papers import timestamp_of

TIMEOUT_S = 30
_LABEL = "label:"
_FIELDS = {"survey": "survey_id", "label": "label_value"}
_COUNTS = ("survey_count", "call_count", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
_SERVED = ("served_call_count", "served_input_tokens", "served_output_tokens")
_OPTIONS = {"group_by": "--by", "label_key": "--by", "created_from": "--from", "created_before": "--to"}
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
    async with reached(gateway) as channel:
        try:
            answer = await _asked(usage_grpc.UsageServiceStub(channel), request_of(wanted, names))
        except grpc.aio.AioRpcError as failure:
            for violation in violations_in(failure):
                name = violation.field.partition("[")[0]
                report.complain(f"{_OPTIONS.get(name, f'--{name}')}: {violation.description}")
            if failure.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return EXIT_BAD_ARGUMENTS
            report.complain(report.explained(failure, gateway))
            return EXIT_FAILED
    _print(answer, [name.partition(":")[0] for name in names], form)
    return EXIT_DONE


def request_of(wanted: Wanted, names: Sequence[str]) -> usage_pb.QueryUsageRequest:
    """Return what the gateway is asked; what no message can carry is filled with a value that it refuses."""
    labels = [name.removeprefix(_LABEL) for name in names if name.startswith(_LABEL)]
    request = usage_pb.QueryUsageRequest(
        group_by=[_dimension(name.partition(":")[0]) for name in names],
        label_key=labels[0] if labels else "",
        survey_id=wanted.survey_id,
        stage=_stage(wanted.stage),
        model=wanted.model,
        tenant=wanted.tenant,
    )
    for label in wanted.labels:
        key, _, value = label.partition("=")
        request.labels[key] = value
    if wanted.first:
        request.created_from.CopyFrom(timestamp_of(wanted.first.replace(tzinfo=UTC)))
    if wanted.last:
        request.created_before.CopyFrom(timestamp_of(wanted.last.replace(tzinfo=UTC) + timedelta(days=1)))
    return request


async def _asked(stub: Any, request: usage_pb.QueryUsageRequest) -> usage_pb.QueryUsageResponse:
    """Return the groups of all pages, and the sum over all."""
    whole = usage_pb.QueryUsageResponse()
    while True:
        page = await stub.QueryUsage(request, timeout=TIMEOUT_S)
        whole.rows.extend(page.rows)
        whole.total.CopyFrom(page.total)
        if not page.next_page_token:
            return whole
        request.page_token = page.next_page_token


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
    figures = ("surveys", "calls", "served", "tokens in", "cached", "out", "cost", "saved")
    for name, footer in zip(figures, _figures(total), strict=True):
        table.add_column(name, footer=footer, justify="right")
    for row in answer.rows if groups else [total]:
        table.add_row(*(plain(_group(row, name)) for name in groups), *_figures(row))
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
