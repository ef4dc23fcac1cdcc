"""What shows a survey's events while they come: bars, JSON lines, or nothing."""

from types import TracebackType
from typing import Protocol, Self

from paperroute.v1 import survey_service_pb2 as service_pb


class Display(Protocol):
    """A context manager that is shown events in their order."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind that is not meant to stay."""

    def show(self, event: service_pb.WatchSurveyResponse) -> None:
        """Bring the display up to date with one event."""

    def say(self, line: str) -> None:
        """Print a line of information that stays."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, event: service_pb.WatchSurveyResponse) -> None:
        """Let it pass."""

    def say(self, line: str) -> None:
        """Let it pass."""
