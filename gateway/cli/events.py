"""A survey's events as JSON lines on standard output: one object each, for scripts.

`event` is the event's name in the contract (`WatchSurveyResponse`), its fields stand beside it under their names there;
`created` comes first and `ended` last. See docs/client.md.
"""

import json
from collections.abc import Mapping, Sequence

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_pb2

from gateway.cli.arguments import enum_name
from gateway.cli.display import Silent
from gateway.document.stages import name_of
from services.common.paid.money import usd_of


class JsonLines(Silent):
    """Prints each event as it comes."""

    def show(self, event: service_pb.WatchSurveyResponse) -> None:
        """Print one event."""
        name = event.WhichOneof("event")
        if name is None:
            return  # of a gateway that is newer than we are
        happened = {"number": event.number, "happened_at": event.happened_at.ToJsonString()}
        _print(name, happened | _fields(getattr(event, name)))


def print_created(survey: pb.Survey, estimate: service_pb.EstimateSurveyResponse) -> None:
    """Print that a survey was made, and what it is expected to cost."""
    is_priced = estimate.HasField("cost_nano_usd")
    cost = f"{usd_of(estimate.cost_nano_usd):f}" if is_priced else None
    _print("created", {"survey_id": survey.survey_id, "question": survey.spec.question, "estimated_cost_usd": cost})


def print_end(survey: pb.Survey, status: int) -> None:
    """Print what became of a survey: the last line."""
    coverage = survey.coverage
    fields = {
        "survey_id": survey.survey_id,
        "state": enum_name(pb.SurveyState, "SURVEY_STATE_", survey.state),
        "title": survey.title,
        "kept_count": coverage.kept_count,
        "cited_count": coverage.cited_count,
        "listed_count": coverage.listed_count,
        "dropped_count": coverage.dropped_count,
        **_spent(survey.usage),
        "failure": _fields(survey.failure) if survey.HasField("failure") else None,
        "exit_status": status,
    }
    _print("ended", fields)


def _fields(message: Message) -> dict[str, object]:
    """Return an event's fields; stages and states go by the names that the rest of the command line has for them."""
    if isinstance(message, service_pb.StageFinished):
        report = message.report
        state = enum_name(pb.StageState, "STAGE_STATE_", report.state)
        counts = {each: getattr(report, each) for each in ("paper_count", "cached_count", "lost_count", "duration_ms")}
        return {"stage": name_of(report.stage), "state": state, **counts, **_spent(report.usage)}
    found: dict[str, object] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if isinstance(message, service_pb.StageStarted | service_pb.StageProgress | pb.Failure):
        found["stage"] = name_of(message.stage)
    if isinstance(message, service_pb.StateChanged | service_pb.SurveyFinished):
        found["state"] = enum_name(pb.SurveyState, "SURVEY_STATE_", message.state)
    return found


def _spent(usages: Sequence[usage_pb2.ModelUsage]) -> dict[str, object]:
    return {
        "call_count": sum(usage.call_count for usage in usages),
        "input_tokens": sum(usage.input_tokens for usage in usages),
        "output_tokens": sum(usage.output_tokens for usage in usages),
        "cost_usd": f"{usd_of(sum(usage.cost_nano_usd for usage in usages)):f}",
        "is_priced": all(usage.HasField("cost_nano_usd") for usage in usages),
    }


def _print(event: str, fields: Mapping[str, object]) -> None:
    click.echo(json.dumps({"event": event, **fields}, ensure_ascii=False))
