"""What the chaos tests measure with: it has to see what it is there to see."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from chaos.payments import payments_of
from chaos.watching import Watcher
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from paperroute.v1 import usage_pb2

from services.common.server import RoleServer

Event = service_pb.WatchSurveyResponse
LAST = service_pb.SurveyFinished(state=pb.SURVEY_STATE_DONE)


class Scripted(pb_grpc.SurveyServiceServicer):
    """Answers each watch with the events of its turn; all but the last break off behind them."""

    def __init__(self, watches: Sequence[Sequence[Event]]) -> None:
        self._watches = list(watches)
        self.after: list[int] = []

    async def WatchSurvey(self, request: service_pb.WatchSurveyRequest, context: Any) -> AsyncIterator[Event]:
        self.after.append(request.after_number)
        for event in self._watches.pop(0):
            yield event
        if self._watches:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


def numbered(*numbers: int) -> list[Event]:
    started = service_pb.StageStarted(stage=pb.STAGE_PLAN)
    return [Event(number=number, stage_started=started) for number in numbers]


def section(number: int) -> Event:
    finished = service_pb.SectionFinished(chapter_number=1, section=pb.Section(number=2))
    return Event(number=number, section_finished=finished)


def piece(offset: int, text: str, attempt: int = 1) -> Event:
    place = {"chapter_number": 1, "section_number": 2}
    return Event(section_text=service_pb.SectionProgress(**place, attempt=attempt, offset=offset, text=text))


@contextlib.asynccontextmanager
async def watched(*watches: Sequence[Event]) -> AsyncIterator[tuple[Watcher, Scripted]]:
    host, scripted = RoleServer("127.0.0.1:0"), Scripted(watches)
    pb_grpc.add_SurveyServiceServicer_to_server(scripted, host.server)
    host.mounted("paperroute.v1.SurveyService")
    await host.start()
    watcher = Watcher(survey_id="s", addresses=[host.address])
    await watcher.run()
    yield watcher, scripted
    await host.stop(0)


async def test_a_lost_watch_goes_on_behind_the_last_number():
    async with watched(numbered(1, 2), [*numbered(3), Event(number=4, finished=LAST)]) as (watcher, scripted):
        assert scripted.after == [0, 2]
        assert (watcher.losses, watcher.misnumbered_count, watcher.last_number) == (1, 0, 4)


@pytest.mark.parametrize(
    ("numbers", "count"),
    [
        pytest.param((1, 2, 4, 5), 3, id="a gap: all behind it are wrong"),
        pytest.param((1, 2, 2, 3), 3, id="a repeat: the last one is wrong as well"),
    ],
)
async def test_gaps_and_repeats_are_seen(numbers: Sequence[int], count: int):
    last = Event(number=numbers[-1] + 1, finished=LAST)
    async with watched([*numbered(*numbers), last]) as (watcher, _):
        assert watcher.misnumbered_count == count


async def test_a_section_that_is_finished_twice_is_seen():
    async with watched([section(1), section(2), Event(number=3, finished=LAST)]) as (watcher, _):
        assert watcher.repeated_section_count == 1


@pytest.mark.parametrize(
    ("pieces", "gaps"),
    [
        pytest.param([piece(0, "ab"), piece(2, "c"), piece(0, "x", 2), piece(1, "y", 2)], 0, id="a new attempt"),
        pytest.param([piece(0, "ab"), piece(3, "c")], 1, id="a gap"),
        pytest.param([piece(0, "ab"), piece(1, "b")], 1, id="a repeat"),
        pytest.param([piece(2, "c")], 1, id="not from the beginning"),
        pytest.param([piece(0, "x", 2), piece(2, "c")], 1, id="an attempt that was void"),
    ],
)
async def test_texts_that_do_not_fit_together_are_seen(pieces: list[Event], gaps: int):
    async with watched([*pieces, Event(number=1, finished=LAST)]) as (watcher, _):
        assert watcher.text_gaps == gaps


def request(digest: str, answer_id: str = "", status: int = 200) -> dict[str, Any]:
    return {"digest": digest, "answer_id": answer_id, "status": status}


def row(response_id: str, outcome: usage_pb2.CallOutcome.ValueType = usage_pb2.CALL_OUTCOME_OK) -> Any:
    return usage_pb2.RecordedCall(response_id=response_id, outcome=outcome)


def test_a_call_that_was_recorded_and_is_sent_again_is_paid_twice():
    requests = [request("a", "1"), request("b", "2"), request("a", "3")]

    found = payments_of(requests, [row("chatcmpl-1"), row("chatcmpl-2")])

    assert (found.recorded_count, found.unrecorded_count, found.paid_twice_count) == (2, 1, 1)


def test_a_call_whose_answer_was_lost_may_be_sent_again():
    """Its process died before it could record the answer, or while it waited for it."""
    requests = [request("a", "1"), request("b", status=0), request("a", "2"), request("b", "3")]
    lost = row("", usage_pb2.CALL_OUTCOME_LOST)

    found = payments_of(requests, [row("chatcmpl-2"), lost, row("chatcmpl-3"), lost])

    assert (found.recorded_count, found.unrecorded_count, found.paid_twice_count) == (2, 2, 0)
    assert found.lost_row_count == 2
