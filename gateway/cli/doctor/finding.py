"""What a check found."""

from dataclasses import dataclass
from enum import Enum


class Health(Enum):
    """How a thing is."""

    OK = "ok"
    NOTE = "note"
    """Works as it is; there is more to be had."""
    WARNING = "warning"
    """Surveys are written, but not as they could be."""
    PROBLEM = "problem"
    """Something that was set up does not work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    """What was looked at: "local index"."""
    health: Health
    found: str
    """In a few words."""
    advice: str = ""
    """What to do; empty where nothing is."""


def ok(what: str, found: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(what=what, health=Health.OK, found=found)


def note(what: str, found: str, advice: str) -> Finding:
    """Return that something could be added."""
    return Finding(what=what, health=Health.NOTE, found=found, advice=advice)


def warning(what: str, found: str, advice: str) -> Finding:
    """Return that something is worse than it could be."""
    return Finding(what=what, health=Health.WARNING, found=found, advice=advice)


def problem(what: str, found: str, advice: str = "") -> Finding:
    """Return that something does not work."""
    return Finding(what=what, health=Health.PROBLEM, found=found, advice=advice)
