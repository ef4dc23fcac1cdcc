"""Surveys as lists show them."""

from collections.abc import Sequence
from typing import Literal

from paperroute.v1 import survey_pb2 as pb

from gateway.document.assemble import survey_of
from gateway.document.draft import Draft

_Field = Literal["papers", "chapters", "introduction", "closing", "search"]
NOT_IN_HEADS: Sequence[_Field] = ("papers", "chapters", "introduction", "closing", "search")
"""Fields of a Survey that lists leave out."""


def head_of(draft: Draft) -> pb.Survey:
    """Return a survey without its texts and papers."""
    survey = survey_of(draft)
    for name in NOT_IN_HEADS:
        survey.ClearField(name)
    return survey
