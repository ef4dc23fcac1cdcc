"""The servicers of both roles: read, call, write."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import generation_service_pb2_grpc as pb_grpc
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import summarization_service_pb2_grpc as summarization_pb_grpc

from services.common.deadlines import Deadline
from services.common.paid.call_messages import call_messages
from services.common.paid.caller import Priority, caller_of
from services.common.paid.calls import PaidCalls
from services.common.paid.settings import ModelSettings
from services.common.telemetry.spans import annotate
from services.generation import convert
from services.generation.capacity import Capacity
from services.generation.engines import Engines
from services.generation.noting import note

Context = grpc.aio.ServicerContext[Any, Any]

MOST_S = 600.0
"""Longest a task may take when its caller gives no deadline."""


class GenerationService(pb_grpc.GenerationServiceServicer):
    """Serves GenerationService."""

    def __init__(self, models: ModelSettings, engines: Engines, calls: PaidCalls) -> None:
        self._models = models
        self._engines = engines
        self._calls = calls

    async def PlanSearch(self, request: pb.PlanSearchRequest, context: Context) -> pb.PlanSearchResponse:
        """Return English search terms for a question."""
        task = convert.plan_task_of(request, self._engines)
        engine = self._engines.of(request.model or self._models.plan)
        caller = caller_of(request.call, Deadline.of_rpc(context, MOST_S), stage="plan")
        plan = await engine.plan_search(task, caller)
        note(plan)
        return convert.plan_response_of(plan)

    async def WriteSection(
        self, request: pb.WriteSectionRequest, context: Context
    ) -> AsyncIterator[pb.WriteSectionResponse]:
        """Write one section: its text in pieces, then the whole."""
        task = convert.section_task_of(request, self._engines)
        annotate(paper_count=len(task.papers))
        engine = self._engines.of(request.model or self._models.write)
        item = f"{task.chapter_number}.{task.section_number}"
        caller = caller_of(request.call, Deadline.of_rpc(context, MOST_S), stage="write", item=item)
        async for event in engine.write_section(task, caller):
            note(event)
            yield convert.section_response_of(event)

    async def WriteFrame(self, request: pb.WriteFrameRequest, context: Context) -> AsyncIterator[pb.WriteFrameResponse]:
        """Write title, introduction, chapter heads and closing: each part, then the whole."""
        task = convert.frame_task_of(request, self._engines)
        annotate(paper_count=len(task.papers))
        engine = self._engines.of(request.model or self._models.frame)
        caller = caller_of(request.call, Deadline.of_rpc(context, MOST_S), stage="frame")
        async for event in engine.write_frame(task, caller):
            note(event)
            yield convert.frame_response_of(event)

    async def ListCalls(self, request: pb.ListCallsRequest, context: Context) -> pb.ListCallsResponse:
        """Return the model calls a survey paid for."""
        convert.check_survey_calls(request)
        page = await self._calls.list_calls(
            request.tenant, request.survey_id, request.page_size or convert.DEFAULT_CALLS, request.page_token
        )
        return pb.ListCallsResponse(calls=call_messages(page.calls), next_page_token=page.next_page_token)

    async def DeleteCalls(self, request: pb.DeleteCallsRequest, context: Context) -> pb.DeleteCallsResponse:
        """Remove what a survey's recorded calls say of its question."""
        convert.check_survey_calls(request)
        return pb.DeleteCallsResponse(deleted_count=await self._calls.delete_calls(request.tenant, request.survey_id))


class SummarizationService(summarization_pb_grpc.SummarizationServiceServicer):
    """Serves SummarizationService."""

    def __init__(self, models: ModelSettings, engines: Engines, capacity: Capacity) -> None:
        self._models = models
        self._engines = engines
        self._capacity = capacity

    async def SummarizePaper(
        self, request: summarization_pb.SummarizePaperRequest, context: Context
    ) -> summarization_pb.SummarizePaperResponse:
        """Return what problem a paper takes up and how."""
        task = convert.summary_task_of(request, self._engines)
        engine = self._engines.of(request.model or self._models.summarize)
        async with self._capacity.place(f"{request.call.tenant}/{request.call.survey_id}"):
            caller = caller_of(
                request.call,
                Deadline.of_rpc(context, MOST_S),
                stage="summarize",
                item=task.paper.paper_id,
                priority=Priority.BULK,
            )
            summary = await engine.summarize_paper(task, caller)
            note(summary)
            return convert.summary_response_of(summary)
