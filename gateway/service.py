"""The servicer of SurveyService: it starts runs, answers for them, and ends them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
from opentelemetry import trace
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc

from gateway import convert
from gateway.assemble import survey_of, usage_of
from gateway.costs import may_cost, settle, settle_later
from gateway.estimate import estimate_of
from gateway.pipeline import Limits, Run, run_pipeline
from gateway.ports import MemoryPorts
from gateway.rewrite import rewrite_section
from gateway.services import Services, failure_of
from gateway.settings import GatewaySettings
from gateway.stage_run import StageFailed, name_of
from gateway.surveys import Record, SurveyBook, summary_of
from services.common import telemetry
from services.common.deadlines import Deadline
from services.common.errors import NotReady
from services.common.paid.prices import PriceBook
from services.common.paid.settings import ModelSettings

logger = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


class SurveyService(pb_grpc.SurveyServiceServicer):
    """Serves SurveyService; each survey runs in a task of its own."""

    def __init__(self, settings: GatewaySettings, services: Services, models: ModelSettings, prices: PriceBook) -> None:
        self._settings = settings
        self._services = services
        self._models = models
        self._prices = prices
        self._settling: set[asyncio.Task[None]] = set()
        self._book = SurveyBook(max_running=settings.max_running_surveys, max_kept=settings.max_kept_surveys)

    async def CreateSurvey(
        self, request: service_pb.CreateSurveyRequest, context: Context
    ) -> service_pb.CreateSurveyResponse:
        """Start a survey, or return the one that this request_id started."""
        now = datetime.now(UTC)
        convert.check_create(request, now, self._settings.allowed_models)
        spec = convert.resolved(request.spec, now, self._settings.survey_timeout_s, self._models)
        record, is_new = self._book.new(request, spec)
        trace.get_current_span().set_attribute(telemetry.SURVEY_ID, record.draft.survey_id)
        if is_new:
            record.task = asyncio.create_task(self._run(record))  # inherits the RPC's span as the trace's root
        return service_pb.CreateSurveyResponse(survey=survey_of(record.draft))

    async def GetSurvey(self, request: service_pb.GetSurveyRequest, context: Context) -> service_pb.GetSurveyResponse:
        """Return a survey as it is now."""
        return service_pb.GetSurveyResponse(survey=survey_of(self._book.get(request.survey_id).draft))

    async def ListSurveys(
        self, request: service_pb.ListSurveysRequest, context: Context
    ) -> service_pb.ListSurveysResponse:
        """Return a page of surveys, newest first."""
        convert.check_list(request)
        records, token = self._book.page(request.page_token, request.page_size or convert.DEFAULT_PAGE_SIZE)
        return service_pb.ListSurveysResponse(surveys=map(summary_of, records), next_page_token=token)

    async def WatchSurvey(
        self, request: service_pb.WatchSurveyRequest, context: Context
    ) -> AsyncIterator[service_pb.WatchSurveyResponse]:
        """Yield the survey's events, the last one last."""
        async for event in self._book.get(request.survey_id).events_after(request.after_number):
            yield event

    async def CancelSurvey(
        self, request: service_pb.CancelSurveyRequest, context: Context
    ) -> service_pb.CancelSurveyResponse:
        """Stop a survey and return what was finished of it."""
        record = self._book.get(request.survey_id)
        await _stop(record)
        return service_pb.CancelSurveyResponse(survey=survey_of(record.draft))

    async def EstimateSurvey(
        self, request: service_pb.EstimateSurveyRequest, context: Context
    ) -> service_pb.EstimateSurveyResponse:
        """Return what a survey would call and cost."""
        now = datetime.now(UTC)
        convert.check_estimate(request, now, self._settings.allowed_models)
        spec = convert.resolved(request.spec, now, self._settings.survey_timeout_s, self._models)
        return await asyncio.to_thread(estimate_of, spec, self._prices)

    async def RewriteSection(
        self, request: service_pb.RewriteSectionRequest, context: Context
    ) -> service_pb.RewriteSectionResponse:
        """Write one section of an ended survey again and return the survey."""
        convert.check_rewrite(request, self._settings.allowed_models)
        record = self._book.get(request.survey_id)
        if not record.has_ended:
            raise NotReady(f"survey {request.survey_id}", "it is under way; its sections can be written again later")
        deadline = Deadline.of_rpc(context, self._settings.survey_timeout_s)
        run = self._run_of(record, MemoryPorts(lambda _: None), deadline)
        await rewrite_section(run, (request.chapter_number, request.section_number), request.model)
        record.summary = None
        return service_pb.RewriteSectionResponse(survey=survey_of(record.draft))

    async def close(self) -> None:
        """Cancel the surveys under way and let go of the services."""
        await asyncio.gather(*(_stop(record) for record in self._book.running()))
        for task in self._settling:
            task.cancel()
        await self._services.close()

    async def _run(self, record: Record) -> None:
        """Run the pipeline and bring the survey into its last state, whatever happens."""
        draft = record.draft
        draft.state = pb.SURVEY_STATE_RUNNING
        run = self._run_of(record, MemoryPorts(record.emit), Deadline.after(draft.spec.timeout_ms / 1_000))
        attributes = {telemetry.SURVEY_ID: draft.survey_id, telemetry.TENANT: "default", telemetry.ATTEMPT: 1}
        try:
            with telemetry.span("survey.run", attributes=attributes) as span:
                await run_pipeline(run)
                span.set_attribute(telemetry.PAPER_COUNT, len(draft.search.papers) if draft.search else 0)
                telemetry.set_usage(span, usage_of(draft))
        except StageFailed as failed:
            draft.state, draft.failure = pb.SURVEY_STATE_FAILED, self._failure_of(failed)
        except asyncio.CancelledError:
            draft.state = pb.SURVEY_STATE_CANCELLED
        if may_cost(draft) and draft.state != pb.SURVEY_STATE_CANCELLED:
            await settle(draft, self._services)
        elif may_cost(draft):  # whoever cancels does not wait for calls that are under way
            task = asyncio.create_task(self._settle_later(record))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
        _finish(record)

    async def _settle_later(self, record: Record) -> None:
        await settle_later(record.draft, self._services)
        record.summary = None

    def _run_of(self, record: Record, ports: MemoryPorts, deadline: Deadline) -> Run:
        limits = Limits(
            summaries_in_flight=self._settings.max_summaries_in_flight,
            sections_in_flight=self._settings.max_sections_in_flight,
        )
        return Run(draft=record.draft, services=self._services, ports=ports, limits=limits, deadline=deadline)

    def _failure_of(self, failed: StageFailed) -> pb.Failure:
        failure = failure_of(failed.stage, failed.cause, self._services.targets)
        if failure.status == "INTERNAL":
            logger.error("stage %s failed by a bug", name_of(failed.stage), exc_info=failed.cause)
        return failure


def _finish(record: Record) -> None:
    draft = record.draft
    draft.finished_at = datetime.now(UTC)
    if draft.state == pb.SURVEY_STATE_FAILED:
        record.emit(service_pb.WatchSurveyResponse(failed=draft.failure))
    else:
        record.emit(service_pb.WatchSurveyResponse(finished=service_pb.SurveyFinished(state=draft.state)))


async def _stop(record: Record) -> None:
    if record.task and not record.has_ended:
        record.task.cancel()
        await asyncio.wait([record.task])
        if not record.has_ended:  # cancelled before its first step: the run never saw it
            record.draft.state = pb.SURVEY_STATE_CANCELLED
            _finish(record)
