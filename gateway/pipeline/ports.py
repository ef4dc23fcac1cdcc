"""What the pipeline needs from whoever runs it."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.document.draft import Part

EventOf = Callable[[], service_pb.WatchSurveyResponse]
"""Makes an event that tells how far something is; called when it is about to be sent."""


class Ports(Protocol):
    """The ports of the pipeline. What is handed to them is durable after `flush`."""

    async def run_step(self, stage: pb.Stage.ValueType, work: Callable[[], Awaitable[None]]) -> None:
        """Run a stage's work, unless this run of the survey has run it before."""
        ...

    def emit(self, event: service_pb.WatchSurveyResponse, *parts: Part) -> None:
        """Keep parts of the draft and number an event for the watchers, together or not at all."""
        ...

    def keep(self, *parts: Part) -> None:
        """Keep parts of the draft that no event tells of."""
        ...

    def show(self, place: str, event_of: EventOf) -> None:
        """Tell the watchers how far something is, now and then; only the newest event of a place is kept.

        Args:
            place: "stage 5" or "section 2.3".
            event_of: makes the event, a section's text whole.
        """
        ...

    async def flush(self) -> None:
        """Wait until everything handed over so far is durable."""
        ...

    def cancelled(self) -> bool:
        """Return whether no new call may be started."""
        ...


class SilentPorts:
    """Ports of work that nobody watches and whose parts its caller keeps: a section written again on demand."""

    async def run_step(self, stage: pb.Stage.ValueType, work: Callable[[], Awaitable[None]]) -> None:  # noqa: ARG002 - a journal would need it
        """Run the work."""
        await work()

    def emit(self, event: service_pb.WatchSurveyResponse, *parts: Part) -> None:
        """Tell nobody."""

    def keep(self, *parts: Part) -> None:
        """Keep nothing."""

    def show(self, place: str, event_of: EventOf) -> None:
        """Show nothing."""

    async def flush(self) -> None:
        """Wait for nothing."""

    def cancelled(self) -> bool:
        """Return False."""
        return False
