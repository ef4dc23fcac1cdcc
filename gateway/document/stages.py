"""The stages' names as spans, tables, ledgers and pages show them: "retrieve"."""

from paperroute.v1 import survey_pb2 as pb

_PREFIX = "STAGE_"
_STAGES = {
    name.removeprefix(_PREFIX).lower(): stage for name, stage in pb.Stage.items() if stage != pb.STAGE_UNSPECIFIED
}


def name_of(stage: pb.Stage.ValueType) -> str:
    """Return the name of a stage."""
    return pb.Stage.Name(stage).removeprefix(_PREFIX).lower()


def stage_of(name: str) -> pb.Stage.ValueType | None:
    """Return the stage of a name; None when there is none."""
    return _STAGES.get(name)
