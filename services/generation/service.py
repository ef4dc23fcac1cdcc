"""The servicers of both roles: read, call, write."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import generation_service_pb2_grpc as pb_grpc
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import summarization_service_pb2_grpc as summarization_pb_grpc

from services.common.telemetry import annotate
from services.generation import convert
from services.generation.engines import Engines
from services.generation.settings import GenerationSettings, SummarizationSettings

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationService(pb_grpc.GenerationServiceServicer):
    """Serves GenerationService."""

    def __init__(self, settings: GenerationSettings, engines: Engines) -> None:
        self._settings = settings
        self._engines = engines

    async def PlanSearch(self, request: pb.PlanSearchRequest, _context: Context) -> pb.PlanSearchResponse:
        """Return English search terms for a question."""
        task = convert.plan_task_of(request, self._engines)
        engine = self._engines[request.model or self._settings.model_plan]
        return convert.plan_response_of(await engine.plan_search(task))

    async def WriteSection(
        self, request: pb.WriteSectionRequest, _context: Context
    ) -> AsyncIterator[pb.WriteSectionResponse]:
        """Write one section: its text in pieces, then the whole."""
        task = convert.section_task_of(request, self._engines)
        annotate(paper_count=len(task.papers))
        engine = self._engines[request.model or self._settings.model_write]
        async for event in engine.write_section(task):
            yield convert.section_response_of(event)

    async def WriteFrame(
        self, request: pb.WriteFrameRequest, _context: Context
    ) -> AsyncIterator[pb.WriteFrameResponse]:
        """Write title, introduction, chapter heads and closing: each part, then the whole."""
        task = convert.frame_task_of(request, self._engines)
        annotate(paper_count=len(task.papers))
        engine = self._engines[request.model or self._settings.model_frame]
        async for event in engine.write_frame(task):
            yield convert.frame_response_of(event)


class SummarizationService(summarization_pb_grpc.SummarizationServiceServicer):
    """Serves SummarizationService."""

    def __init__(self, settings: SummarizationSettings, engines: Engines) -> None:
        self._settings = settings
        self._engines = engines

    async def SummarizePaper(
        self, request: summarization_pb.SummarizePaperRequest, _context: Context
    ) -> summarization_pb.SummarizePaperResponse:
        """Return what problem a paper takes up and how."""
        task = convert.summary_task_of(request, self._engines)
        engine = self._engines[request.model or self._settings.model_summarize]
        return convert.summary_response_of(await engine.summarize_paper(task))
