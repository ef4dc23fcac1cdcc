"""A survey's events for a page: server-sent events, from the last one that the page has seen."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.client import AsyncPaperRouteClient, RequestFailed
from gateway.document.rendering import markdown_html
from gateway.document.stages import name_of
from services.common.markdown import plain, visible

HEARTBEAT_S = 15.0
"""Longest silence: proxies end a connection on which nothing comes."""


async def sse(client: AsyncPaperRouteClient, survey_id: str, after_number: int) -> AsyncIterator[str]:
    """Yield the events of a survey as a page reads them; a page that reconnects says which number it saw last."""
    yield "retry: 1000\n\n"
    events = client.watch_survey(survey_id, after_number)
    coming: asyncio.Task[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events, None))
            done, _ = await asyncio.wait([coming], timeout=HEARTBEAT_S)
            if not done:
                yield ": still here\n\n"
                continue
            event = coming.result()
            coming = None
            if event is None:
                return
            yield _message(event)
    except RequestFailed as failure:
        yield _written("problem", {"text": str(failure)})
    finally:
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, RequestFailed):
                await coming
        await events.aclose()  # type: ignore[attr-defined] # an async generator, which its type does not say


def _message(event: service_pb.WatchSurveyResponse) -> str:
    kind = event.WhichOneof("event") or ""
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
    counts = {"done": progress.done_count, "total": progress.total_count}
    return "stage", {"stage": name_of(progress.stage), "state": "running", "note": plain(progress.note), **counts}


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


def _section(finished: service_pb.SectionFinished) -> tuple[str, dict[str, Any]]:
    section = finished.section
    place = f"{finished.chapter_number}.{section.number}"
    return "section", {"place": place, "title": plain(section.title), "html": markdown_html(section.text)}


def _end(_: object) -> tuple[str, dict[str, Any]]:
    return "end", {}


def _moved(moved: service_pb.QueueMoved) -> tuple[str, dict[str, Any]]:
    return "queue", {"position": moved.queue_position}


_READERS: Mapping[str, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    "state_changed": _state,
    "stage_started": _started,
    "stage_progress": _progress,
    "stage_finished": _finished_stage,
    "section_text": _text,
    "section_restarted": _restarted,
    "section_finished": _section,
    "finished": _end,
    "failed": _end,
    "queue_moved": _moved,
}
