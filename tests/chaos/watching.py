"""A watcher that does not give up: after each loss it goes on from the last number it has seen."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
from paperroute.v1 import survey_service_pb2 as pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc

from services.common.channel import open_channel

LAST = frozenset({"finished", "failed"})
PAUSE_S = 0.05
"""Before a lost watch is begun again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenEvent:
    """A numbered event and when it came, in seconds of `time.monotonic()`."""

    at_s: float
    event: pb.WatchSurveyResponse

    @property
    def kind(self) -> str:
        return self.event.WhichOneof("event") or ""


@dataclass(kw_only=True)
class Watcher:
    """Watches one survey at one gateway after the other, and notes what a reader would trip over."""

    survey_id: str
    addresses: Sequence[str]
    """Where to watch: the next one is asked when one is lost."""
    seen: list[SeenEvent] = field(default_factory=list)
    losses: int = 0
    """How often a watch broke off."""
    text_gaps: int = 0
    """Pieces of a section's text that do not begin where the text before them ended."""
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last_number(self) -> int:
        return self.seen[-1].event.number if self.seen else 0

    @property
    def has_ended(self) -> bool:
        return bool(self.seen) and self.seen[-1].kind in LAST

    @property
    def misnumbered_count(self) -> int:
        """Return how many events came otherwise than 1, 2, 3, ..."""
        return sum(seen.event.number != number for number, seen in enumerate(self.seen, start=1))

    @property
    def repeated_section_count(self) -> int:
        """Return how often a section was finished that had been finished before."""
        finished = [seen.event.section_finished for seen in self.seen if seen.kind == "section_finished"]
        times = Counter((each.chapter_number, each.section.number) for each in finished)
        return sum(count - 1 for count in times.values())

    @property
    def fault_count(self) -> int:
        """Return how many things a reader would trip over."""
        return self.misnumbered_count + self.repeated_section_count + self.text_gaps

    async def run(self) -> None:
        """Watch to the end."""
        for address in itertools.cycle(self.addresses):
            async with open_channel(address) as channel:
                try:
                    await self._watch(pb_grpc.SurveyServiceStub(channel))
                except grpc.aio.AioRpcError as failure:
                    if failure.code() is grpc.StatusCode.NOT_FOUND:
                        raise
                    self.losses += 1
            if self.has_ended:
                return
            await asyncio.sleep(PAUSE_S)

    async def until(self, is_wanted: Callable[[SeenEvent], bool]) -> SeenEvent:
        """Return the first event of a kind, now or as soon as it comes."""
        looked_at = 0
        while True:
            for seen in self.seen[looked_at:]:
                if is_wanted(seen):
                    return seen
            looked_at = len(self.seen)
            self._came.clear()
            await self._came.wait()

    async def _watch(self, stub: "pb_grpc.SurveyServiceAsyncStub") -> None:
        texts = _Texts()
        request = pb.WatchSurveyRequest(survey_id=self.survey_id, after_number=self.last_number)
        with contextlib.closing(_Call(stub.WatchSurvey(request, timeout=600))) as call:
            async for event in call.events:
                if event.number:
                    self.seen.append(SeenEvent(at_s=time.monotonic(), event=event))
                    self._came.set()
                elif not texts.fits(event):
                    self.text_gaps += 1


class _Call:
    """A stream that is cancelled when it is left."""

    def __init__(self, events: "grpc.aio.UnaryStreamCall[pb.WatchSurveyRequest, pb.WatchSurveyResponse]") -> None:
        self.events = events

    def close(self) -> None:
        self.events.cancel()


class _Texts:
    """How far the texts of sections have come in one watch."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[int, int]] = {}

    def fits(self, event: pb.WatchSurveyResponse) -> bool:
        """Note an event and return whether its piece of text is the next one of its attempt."""
        if event.WhichOneof("event") != "section_text":
            return True
        piece = event.section_text
        place = (piece.chapter_number, piece.section_number)
        attempt, length = self._known.get(place, (0, 0))
        if piece.attempt > attempt:
            attempt, length = piece.attempt, 0
        self._known[place] = (attempt, piece.offset + len(piece.text))
        return (piece.attempt, piece.offset) == (attempt, length)
