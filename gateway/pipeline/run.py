"""What the stages of one run share: the draft, the services, the ports, the time that is left."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from opentelemetry.trace import Span
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2

from gateway.document.draft import Draft, Part, PartKind, SectionPlace
from gateway.document.stages import name_of
from gateway.money.budget import SurveyBudget, within_budget
from gateway.money.worst import Request
from gateway.pipeline.absence import despite_absence
from gateway.pipeline.patience import Patience
from gateway.pipeline.ports import Ports
from gateway.pipeline.stage_run import StageBroke, StageFailed, StageRun, stage_run
from gateway.pipeline.stage_span import measured
from gateway.services import Services, failure_of
from services.common.deadlines import Deadline
from services.common.errors import PaperRouteError
from services.common.telemetry.spans import mark_failed

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
PaidRequest = TypeVar("PaidRequest", bound=Request)
MOST_S: Mapping[int, float] = {
    pb.STAGE_PLAN: 60,
    pb.STAGE_RETRIEVE: 300,
    pb.STAGE_EMBED: 120,
    pb.STAGE_ORDER: 60,
    pb.STAGE_SUMMARIZE: 90,
    pb.STAGE_WRITE: 180,
    pb.STAGE_FRAME: 180,
}
"""Longest one call of a stage may take, in seconds, however much of the survey's time is left."""

OUT_OF_TIME = "the survey's time was over"
"""Why something was left out of a PARTIAL survey."""
Failed = (grpc.aio.AioRpcError, TimeoutError, PaperRouteError)
"""What a call to a service fails with."""


@dataclass(kw_only=True, slots=True)
class Run:
    """What the stages of one run share."""

    draft: Draft
    tenant: str
    services: Services
    patience: Patience
    """Of all surveys of this gateway."""
    budget: SurveyBudget
    ports: Ports
    deadline: Deadline
    sections_in_flight: int
    """Sections that are written at one time."""
    absence_s: float
    """Longest it waits for a service that is away."""
    attempts: dict[SectionPlace, int] = field(default_factory=dict)
    """How often the text of a section was begun, by this run and those before."""
    vectors: embedding_pb.EmbedPapersResponse | None = None
    """With the vectors, which the draft does not keep."""

    def timeout_s(self, stage: pb.Stage.ValueType) -> float:
        """Return how long the next call may take.

        Raises:
            TimeoutError: nothing is left of the survey's time.
        """
        timeout = self.deadline.timeout_s(MOST_S[stage])
        if timeout <= 0:
            raise TimeoutError
        return timeout

    def call(self, max_cost_nano_usd: int | None = None) -> usage_pb2.CallContext:
        """Return for whom the services work and what they may spend."""
        return usage_pb2.CallContext(
            tenant=self.tenant,
            survey_id=self.draft.survey_id,
            max_cost_nano_usd=max_cost_nano_usd,
            cache_off=self.draft.spec.cache_off,
        )

    async def paid(
        self, stage: pb.Stage.ValueType, request: PaidRequest, ask: Callable[[PaidRequest], Awaitable[Answer]]
    ) -> Answer:
        """Return the answer to a request that may pay, asked with what the budget grants.

        Args:
            stage: whose request it is.
            request: without its `call`, which is filled in.
            ask: sends it; called again with a larger grant where the first was too small.

        Raises:
            grpc.aio.AioRpcError, TimeoutError: as `ask` does.
            UpstreamFailed: the database that keeps the tenant's month does not answer.
        """

        async def granted(max_cost_nano_usd: int | None) -> Answer:
            request.call.CopyFrom(self.call(max_cost_nano_usd))
            return await self.answered(lambda: ask(request))

        return await within_budget(self.budget, stage, self.budget.worst_of(request), granted)

    async def answered(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what a call to a service brings, made again while the service is away for a moment.

        Raises:
            grpc.aio.AioRpcError, TimeoutError: as `ask` does.
        """
        return await despite_absence(ask, self.absence_s)

    def keep(self, kind: PartKind, payload: Message | str, place: str = "") -> None:
        """Add a part to the draft, durably."""
        self.ports.keep(self.part(kind, payload, place))

    def part(self, kind: PartKind, payload: Message | str, place: str = "") -> Part:
        """Add a part to the draft and return it, to be kept together with an event."""
        data = payload.encode() if isinstance(payload, str) else payload.SerializeToString()
        part = Part(kind=kind, place=place, payload=data)
        self.draft.add(part)
        return part

    def why_lost(self, error: BaseException) -> str:
        """Return why a paper or a section had to be left out, in English."""
        if self.deadline.is_over:
            return OUT_OF_TIME
        return error.code().name if isinstance(error, grpc.aio.AioRpcError) else "out of time"

    async def stage(self, stage: pb.Stage.ValueType, work: Callable[[StageRun], Awaitable[None]]) -> None:
        """Run a stage, unless it has finished before.

        Raises:
            StageFailed: the work raised, now or before; the draft says why.
        """

        async def step() -> None:
            if self.draft.is_done(stage):
                return
            with measured(stage, self.draft) as span:
                try:
                    async with stage_run(stage, self.draft, self.ports) as run:
                        await work(run)
                except StageBroke as broke:
                    self._fail(stage, broke.__cause__ or broke, span)
                await self.ports.flush()  # it is in the journal, and told of as done, only when it cannot be lost

        if self.ports.cancelled():
            raise asyncio.CancelledError
        await self.ports.run_step(stage, step)
        if self.draft.failure and self.draft.failure.stage == stage:
            raise StageFailed

    def _fail(self, stage: pb.Stage.ValueType, cause: BaseException, span: Span) -> None:
        failure = failure_of(stage, cause, self.services.targets)
        if failure.status == "INTERNAL":
            logger.error("survey %s: stage %s failed by a bug", self.draft.survey_id, name_of(stage), exc_info=cause)
        mark_failed(span, type(cause).__name__, failure.reason)
        self.keep(PartKind.FAILURE, failure)
