"""The servicer of SurveyService: it checks requests, hands them to the jobs, and answers with surveys."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc

from gateway.access.limits import Limits, TenantLimits
from gateway.access.principal import Principal, principal
from gateway.api import convert
from gateway.jobs.desk import Desk
from gateway.jobs.values import JobFilter, NewJob, QueueLimits
from gateway.money.budget import Budgets
from gateway.money.estimate import estimate_of
from gateway.money.worst import check_priced
from gateway.settings import GatewaySettings
from services.common.deadlines import Deadline
from services.common.paid.prices import PriceBook
from services.common.paid.settings import ModelSettings
from services.common.telemetry.spans import annotate, traceparent

Context = grpc.aio.ServicerContext[Any, Any]
SURVEY_ID_BYTES = 8
"""Ids are not to be counted, nor to be guessed."""
RECENT_SURVEYS = 50
"""Of the tenant, to which an estimate is fitted."""


class SurveyService(pb_grpc.SurveyServiceServicer):
    """Serves SurveyService for whoever the guard let in."""

    def __init__(
        self,
        settings: GatewaySettings,
        desk: Desk,
        *,
        tenants: TenantLimits,
        budgets: Budgets,
        models: ModelSettings,
        prices: PriceBook,
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._tenants = tenants
        self._budgets = budgets
        self._models = models
        self._prices = prices

    async def CreateSurvey(
        self, request: service_pb.CreateSurveyRequest, context: Context
    ) -> service_pb.CreateSurveyResponse:
        """Start a survey, or return the one that this request_id started."""
        now, who = datetime.now(UTC), principal()
        limits = await self._tenants.of(who.tenant)
        convert.check_create(request, now, limits.allowed_models)
        spec = convert.resolved(request.spec, now, self._settings.survey_timeout_s, self._models)
        await self._check_money(who, spec, limits)
        new = NewJob(
            survey_id=secrets.token_hex(SURVEY_ID_BYTES),
            tenant=who.tenant,
            request=request,
            spec=spec,
            trace=traceparent(),
        )
        survey = await self._desk.create(who, new, self._queue_limits(limits))
        annotate(survey_id=survey.survey_id)
        return service_pb.CreateSurveyResponse(survey=survey)

    async def GetSurvey(self, request: service_pb.GetSurveyRequest, context: Context) -> service_pb.GetSurveyResponse:
        """Return a survey as it is now."""
        return service_pb.GetSurveyResponse(survey=await self._desk.get(principal(), request.survey_id))

    async def ListSurveys(
        self, request: service_pb.ListSurveysRequest, context: Context
    ) -> service_pb.ListSurveysResponse:
        """Return a page of surveys, newest first."""
        which = convert.filter_of(request, principal().tenant)
        size = request.page_size or convert.DEFAULT_PAGE_SIZE
        surveys, token = await self._desk.page(which, size, request.page_token)
        return service_pb.ListSurveysResponse(surveys=surveys, next_page_token=token)

    async def WatchSurvey(
        self, request: service_pb.WatchSurveyRequest, context: Context
    ) -> AsyncIterator[service_pb.WatchSurveyResponse]:
        """Yield the survey's events, the last one last."""
        async for event in self._desk.events(principal(), request.survey_id, request.after_number):
            yield event

    async def CancelSurvey(
        self, request: service_pb.CancelSurveyRequest, context: Context
    ) -> service_pb.CancelSurveyResponse:
        """Stop a survey and return what was finished of it."""
        survey = await self._desk.cancel(principal(), request.survey_id)
        annotate(survey_id=survey.survey_id)
        return service_pb.CancelSurveyResponse(survey=survey)

    async def ResumeSurvey(
        self, request: service_pb.ResumeSurveyRequest, context: Context
    ) -> service_pb.ResumeSurveyResponse:
        """Give an ended survey another turn."""
        who = principal()
        limits = self._queue_limits(await self._tenants.of(who.tenant))
        survey = await self._desk.resume(who, request.survey_id, limits)
        annotate(survey_id=survey.survey_id)
        return service_pb.ResumeSurveyResponse(survey=survey)

    async def RewriteSection(
        self, request: service_pb.RewriteSectionRequest, context: Context
    ) -> service_pb.RewriteSectionResponse:
        """Write one section of an ended survey again and return the survey."""
        who = principal()
        limits = await self._tenants.of(who.tenant)
        convert.check_rewrite(request, limits.allowed_models)
        place = (request.chapter_number, request.section_number)
        deadline = Deadline.of_rpc(context, self._settings.survey_timeout_s)
        survey = await self._desk.rewrite(who, request.survey_id, place, request.model, deadline)
        annotate(survey_id=survey.survey_id)
        return service_pb.RewriteSectionResponse(survey=survey)

    async def DeleteSurvey(
        self, request: service_pb.DeleteSurveyRequest, context: Context
    ) -> service_pb.DeleteSurveyResponse:
        """Remove a survey with its texts."""
        deleted = await self._desk.delete(principal(), request.survey_id)
        annotate(survey_id=request.survey_id)
        return service_pb.DeleteSurveyResponse(deleted_answer_count=deleted)

    async def EstimateSurvey(
        self, request: service_pb.EstimateSurveyRequest, context: Context
    ) -> service_pb.EstimateSurveyResponse:
        """Return what a survey would call and cost."""
        now, who = datetime.now(UTC), principal()
        limits = await self._tenants.of(who.tenant)
        convert.check_estimate(request, now, limits.allowed_models)
        spec = convert.resolved(request.spec, now, self._settings.survey_timeout_s, self._models)
        done = JobFilter(tenant=who.tenant, states=frozenset({pb.SURVEY_STATE_DONE}))
        recent, _ = await self._desk.page(done, RECENT_SURVEYS, "")
        month_left = await self._budgets.month_left(who.tenant, limits.max_month_cost_nano_usd)
        return await asyncio.to_thread(estimate_of, spec, self._prices, recent, month_left)

    async def _check_money(self, who: Principal, spec: pb.SurveySpec, limits: Limits) -> None:
        """Make sure that a survey's budget can be kept and that its tenant's is not spent.

        Raises:
            Unpriced: there is a budget, and the price of a model is not known.
            BudgetReached: the tenant's budget of this month is spent.
        """
        month_limit = limits.max_month_cost_nano_usd
        if spec.HasField("max_cost_nano_usd") or month_limit is not None:
            await asyncio.to_thread(check_priced, spec, self._prices, has_limit=True)
        await self._budgets.check_month(who.tenant, month_limit)

    def _queue_limits(self, limits: Limits) -> QueueLimits:
        return QueueLimits(
            max_running=limits.max_running,
            max_queued=limits.max_queued,
            max_queued_overall=self._settings.max_queued_surveys,
        )
