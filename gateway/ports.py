"""What the pipeline needs from whoever runs it; in memory for now."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

Result = TypeVar("Result")


class Ports(Protocol):
    """The three ports of the pipeline."""

    async def run_step(self, stage: pb.Stage.ValueType, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return what `work` returns, or what it returned when this survey ran the stage before."""
        ...

    def emit(self, event: service_pb.WatchSurveyResponse) -> None:
        """Number an event and hand it to the watchers."""
        ...

    def cancelled(self) -> bool:
        """Return whether no new call may be started."""
        ...


class MemoryPorts:
    """Runs each step once and forgets; a survey ends with its process."""

    def __init__(self, emit: Callable[[service_pb.WatchSurveyResponse], None]) -> None:
        self._emit = emit
        self._is_cancelled = False

    async def run_step(self, stage: pb.Stage.ValueType, work: Callable[[], Awaitable[Result]]) -> Result:  # noqa: ARG002 - a journal would need it
        """Return what `work` returns."""
        return await work()

    def emit(self, event: service_pb.WatchSurveyResponse) -> None:
        """Hand an event on."""
        self._emit(event)

    def cancel(self) -> None:
        """Let no new call start."""
        self._is_cancelled = True

    def cancelled(self) -> bool:
        """Return whether `cancel` was called."""
        return self._is_cancelled
