"""Services that keep ledgers, played in memory: they spend within their grants, also after they have answered."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_pb2

from gateway.jobs.values import Job
from gateway.money.budget import Budgets, SurveyBudget
from services.common.paid.prices import PriceBook

IN_FLIGHT, OK = usage_pb2.CALL_OUTCOME_IN_FLIGHT, usage_pb2.CALL_OUTCOME_OK
PRICES = '{"own:*": {"input_mtok": 1, "output_mtok": 1}}'


def a_running_job(
    limit: int | None = None, *, survey_id: str = "survey-1", tenant: str = "tenant-a", attempt: int = 1
) -> Job:
    spec = pb.SurveySpec(question="q", max_cost_nano_usd=limit)
    return Job(
        number=1,
        survey_id=survey_id,
        tenant=tenant,
        request=service_pb.CreateSurveyRequest(spec=spec),
        spec=spec,
        state=pb.SURVEY_STATE_RUNNING,
        run=1,
        attempt=attempt,
        owner="me",
        created_at=0.0,
        deadline_at=None,
        finished_at=None,
        trace="",
    )


def rpc_error(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> grpc.aio.AioRpcError:
    """Return what grpc itself raises: without details of ours."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@dataclass
class Answer:
    """What a played service answers."""

    budget_reached: bool = False
    grants: list[int | None] = field(default_factory=list)


@dataclass
class PlayedLedgers:
    """The calls of surveys, as both ledgers would list them."""

    calls: list[usage_pb2.RecordedCall] = field(default_factory=list)
    reading_count: int = 0
    is_away: bool = False
    reading_s: float = 0.0

    def __post_init__(self) -> None:
        self.services: Any = SimpleNamespace(
            generation=SimpleNamespace(ListCalls=self._list_calls),
            embedding=SimpleNamespace(ListEncoderCalls=self._list_encoder_calls),
        )

    def total(self, survey_id: str = "survey-1") -> int:
        """Return what a survey has cost, calls in flight left aside."""
        return sum(call.usage.cost_nano_usd for call in self.calls if call.survey_id == survey_id)

    def begin(self, stage: str, item: str, worst: int, *, survey_id: str = "survey-1") -> usage_pb2.RecordedCall:
        """Record a call as sent."""
        call = usage_pb2.RecordedCall(
            call_id=str(len(self.calls)),
            survey_id=survey_id,
            stage=stage,
            item=item,
            outcome=IN_FLIGHT,
            worst_cost_nano_usd=worst,
        )
        self.calls.append(call)
        return call

    def finish(self, call: usage_pb2.RecordedCall, cost: int, outcome: Any = OK) -> None:
        """Record what a call cost."""
        call.outcome = outcome
        call.usage.cost_nano_usd = cost

    def spend(self, stage: str, item: str, cost: int, *, survey_id: str = "survey-1") -> None:
        """Record an answered call."""
        self.finish(self.begin(stage, item, cost, survey_id=survey_id), cost)

    def budgets(self, database: Any = None, prices: str = PRICES) -> Budgets:
        return Budgets(database, self.services, PriceBook(prices))

    async def budget(
        self, limit: int | None, *, month_limit: int | None = None, database: Any = None, **job: Any
    ) -> SurveyBudget:
        return await self.budgets(database).open(a_running_job(limit, **job), month_limit)

    async def _list_calls(self, request: Any, timeout: float) -> generation_pb.ListCallsResponse:
        self.reading_count += 1
        return generation_pb.ListCallsResponse(calls=await self._page(request))

    async def _list_encoder_calls(self, request: Any, timeout: float) -> embedding_pb.ListEncoderCallsResponse:
        return embedding_pb.ListEncoderCallsResponse()

    async def _page(self, request: Any) -> Sequence[usage_pb2.RecordedCall]:
        found = [call for call in self.calls if call.survey_id == request.survey_id]
        await asyncio.sleep(self.reading_s)
        if self.is_away:
            raise rpc_error()
        return found
