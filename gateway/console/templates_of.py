"""The templates of the console, beside those of documents, which its pages hold."""

import functools
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from paperroute.v1 import survey_pb2 as pb

from gateway.document.rendering import environment
from gateway.document.stages import name_of
from services.common.paid.money import shown
from services.common.papers import moment_of

FOLDER = Path(__file__).with_name("templates")


@functools.cache
def templates() -> Environment:
    """Return the templates; what is put into them is escaped."""
    documents = environment()
    made = documents.overlay(loader=ChoiceLoader([FileSystemLoader(FOLDER), documents.loader or FileSystemLoader([])]))
    made.filters["state"] = lambda state: pb.SurveyState.Name(state).removeprefix("SURVEY_STATE_").lower()
    made.filters["stage_state"] = lambda state: pb.StageState.Name(state).removeprefix("STAGE_STATE_").lower()
    made.filters["stage_name"] = name_of
    made.filters["usd"] = lambda nano: f"${shown(nano)}"
    made.filters["moment"] = lambda timestamp: f"{moment_of(timestamp):%Y-%m-%d %H:%M}"
    made.filters["cost"] = _cost
    return made


def _cost(usages: object) -> str:
    """Return what calls cost; what is missing for want of a price is said."""
    rows = list(usages)  # type: ignore[call-overload] # a repeated field
    known = f"${shown(sum(row.cost_nano_usd for row in rows))}"
    return known if all(row.HasField("cost_nano_usd") for row in rows) else f"≥ {known}"
