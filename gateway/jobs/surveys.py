"""The surveys a gateway knows: their drafts, their events, and who watches them. In memory."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.document.assemble import Draft, survey_of
from services.common.errors import AlreadyExists, InvalidRequest, NotFound, QueueFull, Violation
from services.common.papers import timestamp_of

RETRY_AFTER_S = 5.0
"""What a caller is told to wait when too many surveys are under way; most take a few seconds."""


@dataclass(kw_only=True, slots=True, eq=False)
class Record:
    """One survey: what is known of it so far, and its events from number 1."""

    draft: Draft
    request: service_pb.CreateSurveyRequest
    events: list[service_pb.WatchSurveyResponse] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    summary: pb.Survey | None = None
    """As lists show it; kept once the survey has ended, so that a list does not render every text in it."""

    @property
    def has_ended(self) -> bool:
        """Whether the survey is in its last state and its last event is there."""
        return bool(self.events) and self.events[-1].WhichOneof("event") in {"finished", "failed"}

    def emit(self, event: service_pb.WatchSurveyResponse) -> None:
        """Number an event and wake whoever waits for it."""
        event.number = len(self.events) + 1
        event.happened_at.CopyFrom(timestamp_of(datetime.now(UTC)))
        self.events.append(event)
        self.changed.set()
        self.changed = asyncio.Event()

    async def events_after(self, number: int) -> AsyncIterator[service_pb.WatchSurveyResponse]:
        """Yield the events numbered higher, those to come as well, until the survey has ended."""
        while True:
            changed = self.changed
            for event in self.events[number:]:
                number = event.number
                yield event
            if number < len(self.events):
                continue  # more came while these were handed out
            if self.has_ended:
                return
            await changed.wait()


class SurveyBook:
    """All records, in the order they were made."""

    def __init__(self, *, max_running: int, max_kept: int) -> None:
        self._max_running = max_running
        self._max_kept = max_kept
        self._records: dict[str, Record] = {}
        self._by_request_id: dict[str, str] = {}

    def new(self, request: service_pb.CreateSurveyRequest, spec: pb.SurveySpec) -> tuple[Record, bool]:
        """Return the record for a checked request and whether it is new.

        Raises:
            AlreadyExists: the `request_id` belongs to a different request.
            QueueFull: as many surveys are under way as are allowed.
        """
        known = self._records.get(self._by_request_id.get(request.request_id, ""))
        if known:
            if known.request != request:
                raise AlreadyExists("request_id", request.request_id, _difference(known.request, request))
            return known, False
        if sum(not record.has_ended for record in self._records.values()) >= self._max_running:
            raise QueueFull(self._max_running, retry_after_s=RETRY_AFTER_S)
        draft = Draft(survey_id=secrets.token_hex(8), spec=spec, labels=dict(request.labels))
        record = Record(draft=draft, request=request)
        self._records[draft.survey_id] = record
        if request.request_id:
            self._by_request_id[request.request_id] = draft.survey_id
        self._forget_oldest()
        return record, True

    def get(self, survey_id: str) -> Record:
        """Return a record.

        Raises:
            NotFound: there is none of that id.
        """
        record = self._records.get(survey_id)
        if record is None:
            raise NotFound("survey", survey_id)
        return record

    def page(self, after: str, size: int) -> tuple[list[Record], str]:
        """Return the records that come after `after`, newest first, and the token of the next page.

        Raises:
            InvalidRequest: `after` is no token this book gave out, or its survey is no longer kept.
        """
        ids = list(reversed(self._records))
        if after and after not in self._records:
            raise InvalidRequest([Violation(field="page_token", description="unknown; begin at the first page again")])
        start = ids.index(after) + 1 if after else 0
        chosen = ids[start : start + size]
        has_more = start + size < len(ids)
        return [self._records[each] for each in chosen], chosen[-1] if has_more else ""

    def running(self) -> Iterable[Record]:
        """Return the records whose surveys have not ended."""
        return [record for record in self._records.values() if not record.has_ended]

    def _forget_oldest(self) -> None:
        ended = [survey_id for survey_id, record in self._records.items() if record.has_ended]
        for survey_id in ended[: max(0, len(ended) - self._max_kept)]:
            request_id = self._records.pop(survey_id).request.request_id
            self._by_request_id.pop(request_id, None)


def summary_of(record: Record) -> pb.Survey:
    """Return the survey without its texts and papers, as lists show it."""
    if record.summary:
        return record.summary
    survey = survey_of(record.draft)
    for name in ("papers", "chapters", "introduction", "closing", "search"):
        survey.ClearField(name)
    if record.has_ended:
        record.summary = survey
    return survey


def _difference(known: service_pb.CreateSurveyRequest, request: service_pb.CreateSurveyRequest) -> str:
    """Return the names of the fields in which two requests differ."""
    names = pb.SurveySpec.DESCRIPTOR.fields_by_name
    fields = [f"spec.{name}" for name in names if getattr(known.spec, name) != getattr(request.spec, name)]
    if dict(known.labels) != dict(request.labels):
        fields.append("labels")
    return ", ".join(fields)
