"""What is counted of surveys as jobs: each turn, each end and each cost once, by the replica that brought it about."""

from paperroute.v1 import survey_pb2 as pb

from gateway.document.draft import ENDED
from gateway.jobs.values import Job
from services.common.paid.money import usd_of
from services.common.telemetry import metrics, names

_PREFIX = "SURVEY_STATE_"


def state_name(state: pb.SurveyState.ValueType) -> str:
    """Return the name of a state as spans, metrics and views show it: "no_papers"."""
    return pb.SurveyState.Name(state).removeprefix(_PREFIX).lower()


def begin_counting() -> None:
    """Let the counter of ends tell 0 for each state that a survey can end in."""
    metrics.begin(metrics.surveys, names.STATE, map(state_name, sorted(ENDED)))


def count_turn(job: Job) -> None:
    """Count how long a survey waited for the turn that it has just been given."""
    if job.turn_at is not None:
        metrics.queue_wait.record(max(0.0, job.turn_at - job.queued_at))


def count_end(job: Job) -> None:
    """Count a survey that has just ended, and how long it took where it had a turn."""
    state = {names.STATE: state_name(job.state)}
    metrics.surveys.add(1, state)
    if job.turn_at is not None and job.finished_at is not None:
        metrics.survey_duration.record(max(0.0, job.finished_at - job.turn_at), state)


def count_cost(state: pb.SurveyState.ValueType, cost_nano_usd: int) -> None:
    """Count what an ended survey cost, when no call of it is under way any more."""
    metrics.survey_cost.record(float(usd_of(cost_nano_usd)), {names.STATE: state_name(state)})
