"""A survey's events for a page: server-sent events, from the last one that the page has seen."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.client import AsyncPaperRouteClient, RequestFailed
from gateway.console.facts import facts_of
from gateway.console.templates_of import section_html
from gateway.document.stages import name_of
from services.common.markdown import plain, visible

HEARTBEAT_S = 15.0
"""Longest silence: proxies end a connection on which nothing comes."""


async def sse(
    client: AsyncPaperRouteClient, survey: pb.Survey, after_number: int, closing: asyncio.Event
) -> AsyncIterator[str]:
    """Yield the events of a survey as a page reads them, and "end" when it has ended.

    A stream that breaks off says nothing of it: the page asks again, from the number it saw last.

    Args:
        client: whom to ask.
        survey: as it was a moment ago.
        after_number: of the last event that the page has seen.
        closing: breaks off when it is set.
    """
    yield "retry: 1000\n\n"
    reports = {report.stage: report for report in survey.stages}
    events = client.watch_survey(survey.survey_id, after_number)
    ending = asyncio.ensure_future(closing.wait())
    coming: asyncio.Task[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events, None))
            done, _ = await asyncio.wait([coming, ending], timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if ending in done:
                return
            if not done:
                yield ": still here\n\n"
                continue
            event = coming.result()
            coming = None
            if event is None:
                yield _written("end", {})
                return
            yield _message(event, survey.spec.language)
            if event.WhichOneof("event") == "stage_finished":
                reports[event.stage_finished.report.stage] = event.stage_finished.report
                yield _written("facts", {"text": facts_of(reports.values())})
    except RequestFailed:
        return
    finally:
        ending.cancel()
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, RequestFailed):
                await coming
        await events.aclose()  # type: ignore[attr-defined] # an async generator, which its type does not say


def _message(event: service_pb.WatchSurveyResponse, language: str) -> str:
    kind = event.WhichOneof("event") or ""
    if kind == "section_finished":
        name, data = _section(event.section_finished, language)
    else:
        name, data = _READERS[kind](getattr(event, kind)) if kind in _READERS else ("other", {})
    return _written(name, data, event.number)


def _written(name: str, data: Mapping[str, Any], number: int = 0) -> str:
    lines = [f"id: {number}"] if number else []
    lines += [f"event: {name}", f"data: {json.dumps(data, ensure_ascii=False)}"]
    return "\n".join(lines) + "\n\n"


def _state(moved: service_pb.StateChanged) -> tuple[str, dict[str, Any]]:
    state = pb.SurveyState.Name(moved.state).removeprefix("SURVEY_STATE_").lower()
    return "state", {"state": state, "attempt": moved.attempt}


def _started(started: service_pb.StageStarted) -> tuple[str, dict[str, Any]]:
    return "stage", {"stage": name_of(started.stage), "state": "running", "done": 0, "total": 0, "note": ""}


def _progress(progress: service_pb.StageProgress) -> tuple[str, dict[str, Any]]:
    done, total = progress.done_count, progress.total_count
    note = plain(progress.note) or (f"{done} of {total}" if total else "")
    return "stage", {"stage": name_of(progress.stage), "state": "running", "note": note, "done": done, "total": total}


def _finished_stage(finished: service_pb.StageFinished) -> tuple[str, dict[str, Any]]:
    report = finished.report
    state = pb.StageState.Name(report.state).removeprefix("STAGE_STATE_").lower()
    counts = {"done": report.done_count, "total": report.total_count}
    took = f"{report.duration_ms / 1_000:.1f} s"
    return "stage", {"stage": name_of(report.stage), "state": state, "note": took, **counts}


def _text(piece: service_pb.SectionProgress) -> tuple[str, dict[str, Any]]:
    place = f"{piece.chapter_number}.{piece.section_number}"
    return "text", {"place": place, "offset": piece.offset, "text": visible(piece.text)}


def _restarted(restarted: service_pb.SectionRestart) -> tuple[str, dict[str, Any]]:
    return "text", {"place": f"{restarted.chapter_number}.{restarted.section_number}", "offset": 0, "text": ""}


def _section(finished: service_pb.SectionFinished, language: str) -> tuple[str, dict[str, Any]]:
    place = f"{finished.chapter_number}.{finished.section.number}"
    return "section", {"place": place, "html": section_html(finished.chapter_number, finished.section, language)}


def _moved(moved: service_pb.QueueMoved) -> tuple[str, dict[str, Any]]:
    return "queue", {"position": moved.queue_position}


_READERS: Mapping[str, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    "state_changed": _state,
    "stage_started": _started,
    "stage_progress": _progress,
    "stage_finished": _finished_stage,
    "section_text": _text,
    "section_restarted": _restarted,
    "queue_moved": _moved,
}
