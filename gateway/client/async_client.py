"""The client for programs with an event loop."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc, usage_service_pb2_grpc
from paperroute.v1 import usage_service_pb2 as usage_pb

from gateway.client.errors import RequestFailed
from gateway.client.explained import Caller, explained
from gateway.client.texts import SeenTexts
from services.common.channel import open_channel
from services.common.settings import ClientSettings, load

if TYPE_CHECKING:
    from paperroute.v1.admin_service_pb2_grpc import AdminServiceAsyncStub

ADDRESS = "127.0.0.1:50050"
TIMEOUT_S = 20.0
"""Of a call that returns at once."""
REWRITE_TIMEOUT_S = 300.0
WATCH_TIMEOUT_S = 600.0
"""After which a watch is asked for anew: a connection can be lost without anybody being told."""
TRIES = 20
CREATE_TRIES = 4
PAUSE_S = 1.0
"""Between two tries to reach a gateway that is away: one that is started again goes on with its surveys."""
MAX_PAUSE_S = 5.0
"""Longest wait that a gateway may ask for without the caller hearing of it."""


class AsyncPaperRouteClient:
    """A gateway, asked from an event loop. Used with `async with`, or closed with `close`.

    `surveys`, `usage` and `admin` are the stubs of the public services; what goes beyond one call has a method here.
    All of it fails with `RequestFailed`.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        settings: ClientSettings | None = None,
        *,
        channel: grpc.aio.Channel | None = None,
        token: str = "",
    ) -> None:
        """Name a gateway; it is reached with the first call.

        Args:
            address: "host:port".
            settings: token and certificates; None takes those of the environment, PAPERROUTE_TOKEN and so on.
            channel: one that is open, whose owner closes it; the settings are then of no use.
            token: shown over that channel, which several clients with tokens of their own may share.

        Raises:
            SettingsError: they cannot be used, or would send the token where others can read it.
        """
        self._is_owned = channel is None
        self._channel = channel or open_channel(address, client=settings or load(ClientSettings))
        self._caller = Caller(address=address, token=token, timeout_s=TIMEOUT_S)
        surveys = survey_service_pb2_grpc.SurveyServiceStub(self._channel)
        self.surveys: survey_service_pb2_grpc.SurveyServiceAsyncStub = explained(surveys, self._caller)
        usage = usage_service_pb2_grpc.UsageServiceStub(self._channel)
        self.usage: usage_service_pb2_grpc.UsageServiceAsyncStub = explained(usage, self._caller)

    @property
    def admin(self) -> "AdminServiceAsyncStub":
        """The stub of AdminService: tenants, tokens, the audit."""
        from paperroute.v1 import admin_service_pb2_grpc

        return explained(admin_service_pb2_grpc.AdminServiceStub(self._channel), self._caller)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        await self.close()

    async def close(self) -> None:
        """Close the channel, unless it is somebody else's."""
        if self._is_owned:
            await self._channel.close()

    async def estimate_survey(self, question: str | pb.SurveySpec, **options: Any) -> service_pb.EstimateSurveyResponse:
        """Return what a survey is expected to cost; arguments as those of `create_survey`."""
        return await self.surveys.EstimateSurvey(service_pb.EstimateSurveyRequest(spec=_spec(question, options)))

    async def create_survey(
        self,
        question: str | pb.SurveySpec,
        *,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
        **options: Any,
    ) -> pb.Survey:
        """Start a survey and return it at once.

        Args:
            question: in any language; or a whole spec.
            labels: for chargeback.
            request_id: makes it safe to repeat; without one the client makes one, and repeats the request itself where
                the gateway is away for a moment.
            options: fields of the message SurveySpec: `max_papers=80`, `models=ModelChoice(write=...)`.

        Raises:
            RequestFailed: a field breaks its rule, the queue is full, the budget is spent, nobody answers.
        """
        request = service_pb.CreateSurveyRequest(
            spec=_spec(question, options), labels=labels, request_id=request_id or uuid.uuid4().hex
        )
        for tries_left in reversed(range(CREATE_TRIES)):
            try:
                return (await self.surveys.CreateSurvey(request)).survey
            except RequestFailed as failure:
                if not _is_passing(failure) or not tries_left:
                    raise
                await asyncio.sleep(failure.retry_after_s or PAUSE_S)
        raise AssertionError("unreachable")

    async def get_survey(self, survey_id: str) -> pb.Survey:
        """Return a survey as it is now.

        Raises:
            RequestFailed: there is none of that id.
        """
        return (await self.surveys.GetSurvey(service_pb.GetSurveyRequest(survey_id=survey_id))).survey

    async def list_surveys(self, **filters: Any) -> AsyncIterator[pb.Survey]:
        """Yield surveys without their texts, newest first, page after page.

        Args:
            filters: fields of the message ListSurveysRequest: `states=[SURVEY_STATE_DONE]`, `labels={"team": "a"}`.
        """
        request = service_pb.ListSurveysRequest(**filters)
        while True:
            page = await self.surveys.ListSurveys(request)
            for survey in page.surveys:
                yield survey
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch_survey(
        self, survey_id: str, after_number: int = 0
    ) -> AsyncIterator[service_pb.WatchSurveyResponse]:
        """Yield a survey's events until it has ended, each once, also over connections that break.

        Args:
            survey_id: which.
            after_number: of the last event that is known; 0 for all.

        Raises:
            RequestFailed: there is no such survey, or the gateway stays away for about 20 seconds.
        """
        texts, tries = SeenTexts(), TRIES
        while True:
            request = service_pb.WatchSurveyRequest(survey_id=survey_id, after_number=after_number)
            try:
                async with aclosing(self._watched(request)) as events:
                    async for event in events:
                        after_number, tries = max(after_number, event.number), TRIES
                        if texts.is_new(event):
                            yield event
            except RequestFailed as failure:
                if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:  # of this watch, not of the survey
                    continue
                tries -= 1
                if not _is_passing(failure) or not tries:
                    raise
                await asyncio.sleep(failure.retry_after_s or PAUSE_S)
            else:
                return

    async def cancel_survey(self, survey_id: str) -> pb.Survey:
        """Stop a survey and return it with what was finished."""
        return (await self.surveys.CancelSurvey(service_pb.CancelSurveyRequest(survey_id=survey_id))).survey

    async def resume_survey(self, survey_id: str) -> pb.Survey:
        """Go on with a survey that failed, was cancelled or ran out of time."""
        return (await self.surveys.ResumeSurvey(service_pb.ResumeSurveyRequest(survey_id=survey_id))).survey

    async def rewrite_section(self, survey_id: str, chapter: int, section: int, model: str = "") -> pb.Survey:
        """Write one section again, with another model if one is named, and return the survey."""
        request = service_pb.RewriteSectionRequest(
            survey_id=survey_id, chapter_number=chapter, section_number=section, model=model
        )
        return (await self.surveys.RewriteSection(request, timeout=REWRITE_TIMEOUT_S)).survey

    async def delete_survey(self, survey_id: str) -> int:
        """Remove a survey; return how many recorded answers went with it."""
        request = service_pb.DeleteSurveyRequest(survey_id=survey_id)
        return (await self.surveys.DeleteSurvey(request)).deleted_answer_count

    async def query_usage(self, **query: Any) -> usage_pb.QueryUsageResponse:
        """Return what surveys took and cost, all pages together.

        Args:
            query: fields of the message QueryUsageRequest: `group_by=[USAGE_DIMENSION_MODEL]`.
        """
        request, whole = usage_pb.QueryUsageRequest(**query), usage_pb.QueryUsageResponse()
        while True:
            page = await self.usage.QueryUsage(request)
            whole.rows.extend(page.rows)
            whole.total.CopyFrom(page.total)
            if not page.next_page_token:
                return whole
            request.page_token = page.next_page_token

    def _watched(self, request: service_pb.WatchSurveyRequest) -> Any:  # Any: the stub's type is that of a gRPC call
        return self.surveys.WatchSurvey(request, timeout=WATCH_TIMEOUT_S)


def _is_passing(failure: RequestFailed) -> bool:
    """Return whether the same request may well be answered in a moment."""
    is_busy = failure.code is grpc.StatusCode.UNAVAILABLE or failure.reason == "RATE_LIMITED"
    return is_busy and (failure.retry_after_s or 0.0) <= MAX_PAUSE_S


def _spec(question: str | pb.SurveySpec, options: Mapping[str, Any]) -> pb.SurveySpec:
    spec = pb.SurveySpec(**options)
    spec.MergeFrom(pb.SurveySpec(question=question) if isinstance(question, str) else question)
    return spec
