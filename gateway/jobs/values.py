"""What is known of a survey as a job."""

from dataclasses import dataclass

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.document.draft import ENDED


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A row of the table `survey`. Moments are seconds since 1970 by the database's clock."""

    number: int
    survey_id: str
    tenant: str
    request: service_pb.CreateSurveyRequest
    spec: pb.SurveySpec
    """With its defaults filled in."""
    state: pb.SurveyState.ValueType
    run: int
    """Turns it has had, from 1; 0 before the first. Resuming gives it a new one."""
    attempt: int
    """How often it was begun, takeovers included. What runs may write only as long as it is the last one."""
    owner: str
    """Replica that runs it; empty unless RUNNING."""
    created_at: float
    queued_at: float = 0.0
    """Since when it waits for its turn, or has waited for its last one."""
    deadline_at: float | None
    """When the run is to deliver what it has; None before its turn."""
    finished_at: float | None
    trace: str
    """traceparent of the request that made it."""
    run_trace: str = ""
    """traceparent of the last attempt whose span was recorded; of one that begins the attempt before."""

    @property
    def turn_at(self) -> float | None:
        """When it had its last turn; None before."""
        return None if self.deadline_at is None else self.deadline_at - self.spec.timeout_ms / 1_000

    @property
    def has_ended(self) -> bool:
        """Whether it is neither queued nor running."""
        return self.state in ENDED


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """A survey to be made: checked, with its defaults filled in."""

    survey_id: str
    tenant: str
    request: service_pb.CreateSurveyRequest
    spec: pb.SurveySpec
    trace: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLimits:
    """How much may wait and how much may be under way; a tenant's own limits, where it has some, are filled in."""

    max_running: int
    """Surveys of the tenant under way at one time, on all replicas."""
    max_queued: int
    """Surveys of the tenant that may wait."""
    max_queued_overall: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFilter:
    """Which surveys a list shows."""

    tenant: str
    states: frozenset[int] = frozenset()
    """None means all."""
    labels: tuple[tuple[str, str], ...] = ()
    created_from: float | None = None
    created_before: float | None = None


class StaleRun(Exception):
    """What runs may not write any more: the survey was cancelled, deleted, ended, or is run by another."""
