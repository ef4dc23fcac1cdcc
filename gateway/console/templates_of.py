"""The templates of the console, beside those of documents, which its pages hold."""

import functools
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from paperroute.v1 import survey_pb2 as pb

from gateway.console.facts import cost_of
from gateway.document.export_markdown import remarks_of
from gateway.document.phrases import phrases_of
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
    made.filters["cost"] = cost_of
    return made


def section_html(chapter_number: int, section: pb.Section, language: str) -> str:
    """Return a finished section of a survey that is under way: heading, text, what a reader is warned of."""
    phrases = phrases_of(language)
    values = {"phrases": phrases, "remarks": lambda each: remarks_of(each, phrases)}
    return (
        templates()
        .get_template("section.html")
        .render(place=f"{chapter_number}.{section.number}", section=section, **values)
    )
