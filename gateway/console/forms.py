"""The form of a question, as a request for a survey."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import ordering_pb2, search_pb2
from paperroute.v1 import survey_pb2 as pb

from gateway.cli.arguments import REFUSED, REFUSED_COST, enum_name, enum_value, nano_usd
from services.common.errors import Violation
from services.common.papers import timestamp_of

ENUMS: Mapping[str, tuple[Any, str]] = {
    "source": (search_pb2.Source, "SOURCE_"),
    "ordering": (ordering_pb2.OrderingMethod, "ORDERING_METHOD_"),
    "writer": (pb.Writer, "WRITER_"),
}
"""Fields that are chosen from a list."""
MODEL_STAGES = ("plan", "summarize", "frame")
"""Stages that share a model unless a program says otherwise."""
_NO_MOMENT = Timestamp(seconds=253402300800)  # the year 10000 is no moment: the gateway refuses it
DEFAULTS = {
    "question": "",
    "max_papers": "160",
    "language": "",
    "source": "auto",
    "ordering": "route",
    "writer": "sections",
    "categories": "",
    "published_from": "",
    "model": "",
    "write_model": "",
    "max_cost": "",
    "labels": "",
}
"""What the fields hold at first, in the order of the page."""
LABELS_WANTED = "name=value, several separated by commas"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionForm:
    """What a visitor filled in, and what is wrong with it."""

    values: Mapping[str, str]
    faults: Mapping[str, str] = field(default_factory=dict)
    """By name of the form's field."""
    once: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    """Of this page as it was shown: the same form sent twice asks once."""

    @property
    def first_fault(self) -> str:
        """The first field of the page that has one; empty without."""
        return next((name for name in DEFAULTS if name in self.faults), "")

    @property
    def choices(self) -> Mapping[str, list[str]]:
        """What the lists offer."""
        return {
            name: [enum_name(kind, prefix, value) for value in kind.values()[1:]]
            for name, (kind, prefix) in ENUMS.items()
        }


def form_of(sent: Mapping[str, Any]) -> QuestionForm:
    """Return the form as it was sent, with what it leaves out as it was offered."""
    values = {name: str(sent.get(name, value)) for name, value in DEFAULTS.items()}
    return QuestionForm(values=values, once=str(sent["once"])) if "once" in sent else QuestionForm(values=values)


def spec_of(form: QuestionForm) -> pb.SurveySpec:
    """Return the request; what a field cannot hold becomes what the gateway refuses, together with all else."""
    values = form.values
    spec = pb.SurveySpec(question=values["question"].strip(), language=values["language"].strip())
    spec.max_papers = _count(values["max_papers"])
    for name, (kind, prefix) in ENUMS.items():
        setattr(spec, name, enum_value(kind, prefix, values[name]))
    model = values["model"].strip()
    if model:
        for stage in MODEL_STAGES:
            setattr(spec.models, stage, model)
    if write_model := values["write_model"].strip() or model:
        spec.models.write = write_model
    if values["max_cost"].strip():
        spec.max_cost_nano_usd = nano_usd(values["max_cost"].strip())
    if values["published_from"].strip():
        spec.published_from.CopyFrom(_day(values["published_from"].strip()))
    spec.categories.extend(values["categories"].replace(",", " ").split())
    return spec


def labels_of(text: str) -> dict[str, str]:
    """Return labels written as "team=vision, project=a"; one without a name is what the gateway refuses."""
    pieces = [each.partition("=") for each in text.split(",") if each.strip()]
    return {(name.strip() if equals else ""): value.strip() for name, equals, value in pieces}


def request_id_of(form: QuestionForm, spec: pb.SurveySpec) -> str:
    """Return what makes sending a form twice ask once; a form that was changed in between asks anew."""
    content = spec.SerializeToString(deterministic=True) + form.values["labels"].encode()
    return hashlib.sha256(form.once.encode() + b"\0" + content).hexdigest()


def with_faults(form: QuestionForm, violations: tuple[Violation, ...]) -> QuestionForm:
    """Return the form with what the gateway said of it beside the fields."""
    faults: dict[str, str] = {}
    for violation in violations:
        name = violation.field.removeprefix("spec.").partition("[")[0]
        faults.setdefault(_FIELDS.get(name, name), violation.description)
    if form.values["max_cost"].strip() and nano_usd(form.values["max_cost"].strip()) == REFUSED_COST:
        faults["max_cost"] = "US dollars, such as 0.05"
    if "" in labels_of(form.values["labels"]):
        faults["labels"] = LABELS_WANTED
    return QuestionForm(values=form.values, faults=faults)


_FIELDS = {
    "models.plan": "model",
    "models.summarize": "model",
    "models.frame": "model",
    "models.write": "write_model",
    "max_cost_nano_usd": "max_cost",
}
"""By field of the message: that of the form."""


def _count(text: str) -> int:
    digits = text.strip()
    is_number = digits.isascii() and digits.isdigit() and len(digits) < 10  # noqa: PLR2004 - what the field can hold
    return int(digits) or 1 if is_number else REFUSED


def _day(text: str) -> Timestamp:
    try:
        return timestamp_of(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC))
    except ValueError:
        return _NO_MOMENT
