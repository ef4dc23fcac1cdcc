"""The services behind the gateway, played by small servicers that do as they are told and note what they were asked."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import generation_service_pb2_grpc as generation_grpc
from paperroute.v1 import ordering_pb2, search_pb2, usage_pb2
from paperroute.v1 import ordering_service_pb2 as ordering_pb
from paperroute.v1 import ordering_service_pb2_grpc as ordering_grpc
from paperroute.v1 import retrieval_service_pb2 as retrieval_pb
from paperroute.v1 import retrieval_service_pb2_grpc as retrieval_grpc
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import summarization_service_pb2_grpc as summarization_grpc

from services.common.papers import Paper, message_of, timestamp_of
from services.common.server import RoleServer

MODEL = "fake:writer"


def papers(count: int) -> list[Paper]:
    """Return papers 2501.00001, 2501.00002, ...; every second one knows its version."""
    return [
        Paper(
            paper_id=f"2501.{number:05d}",
            version=2 if number % 2 else None,
            title=f"Name{number}: a paper",
            abstract=f"We propose Name{number}.",
            published_at=datetime(2025, 1, 1 + number % 28, tzinfo=UTC),
        )
        for number in range(1, count + 1)
    ]


def usage(tokens: int = 10, cost: int | None = 7) -> usage_pb2.ModelUsage:
    return usage_pb2.ModelUsage(
        model=MODEL, call_count=1, input_tokens=tokens, output_tokens=1, cost_nano_usd=cost, source=1
    )


def prose(request: generation_pb.WriteSectionRequest) -> str:
    """Return a text that names every paper of a section."""
    return " ".join(f"A claim about {paper.paper.title[:5]} [{paper.key}]." for paper in request.papers)


Hook = Callable[[Any], Any]


@dataclass
class Fakes(
    retrieval_grpc.RetrievalServiceServicer,
    embedding_grpc.EmbeddingServiceServicer,
    ordering_grpc.OrderingServiceServicer,
    generation_grpc.GenerationServiceServicer,
    summarization_grpc.SummarizationServiceServicer,
):
    """All five. `before[method]` is awaited with the request before the method answers; it may wait or raise.

    `before["WriteSection midway"]` is awaited when half of the text is out, and `before["WriteSection end"]` before the
    section is finished; the first may return an event to be sent.
    """

    found: list[Paper] = field(default_factory=lambda: papers(20))
    section_size: int = 5
    text_of: Callable[[generation_pb.WriteSectionRequest], str] = prose
    before: dict[str, Hook] = field(default_factory=dict)
    requests: dict[str, list[Any]] = field(default_factory=dict)
    section_fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of every section."""
    section_usage: usage_pb2.ModelUsage = field(default_factory=usage)
    recorded: list[usage_pb2.RecordedCall] = field(default_factory=list)
    """What the ledger of generation holds."""

    async def _begin(self, method: str, request: Any) -> None:
        self.requests.setdefault(method, []).append(request)
        if method in self.before:
            await self.before[method](request)

    async def PlanSearch(self, request, context):
        await self._begin("PlanSearch", request)
        return generation_pb.PlanSearchResponse(
            search_terms=["name paper"], language=request.language or "en", model=MODEL, usage=[usage()]
        )

    async def SearchPapers(self, request, context):
        await self._begin("SearchPapers", request)
        yield retrieval_pb.SearchPapersResponse(
            progress=retrieval_pb.TermProgress(search_term="name paper", found_count=len(self.found), is_final=True)
        )
        report = search_pb2.SearchReport(
            source=search_pb2.SOURCE_SAMPLE,
            terms=[
                search_pb2.TermReport(
                    search_term="name paper",
                    found_count=len(self.found),
                    source=search_pb2.SOURCE_SAMPLE,
                    answered_at=timestamp_of(datetime.now(UTC)),
                )
            ],
            filters=[search_pb2.FilterReport(name="all_words", input_count=9, dropped_count=4)],
            answered_at=timestamp_of(datetime.now(UTC)),
            as_of=request.as_of,
        )
        yield retrieval_pb.SearchPapersResponse(
            result=retrieval_pb.SearchResult(papers=map(message_of, self.found), report=report)
        )

    async def EmbedPapers(self, request, context):
        await self._begin("EmbedPapers", request)
        vectors = np.eye(len(request.papers), 8, dtype="<f4")
        return embedding_pb.EmbedPapersResponse(
            encoder="fake:encoder", dimension=8, count=len(request.papers), vectors=vectors.tobytes(), cached_count=3
        )

    async def OrderPapers(self, request, context):
        await self._begin("OrderPapers", request)
        ids = sorted(request.paper_ids, reverse=True)
        sections = [
            ordering_pb.RouteSection(paper_ids=ids[at : at + self.section_size])
            for at in range(0, len(ids), self.section_size)
        ]
        half = (len(sections) + 1) // 2
        chapters = [ordering_pb.RouteChapter(sections=part) for part in (sections[:half], sections[half:]) if part]
        points = [ordering_pb2.MapPoint(x=0.5, y=-0.5)] * len(ids)
        return ordering_pb.OrderPapersResponse(paper_ids=ids, chapters=chapters, points=points, method=request.method)

    async def SummarizePaper(self, request, context):
        await self._begin("SummarizePaper", request)
        return summarization_pb.SummarizePaperResponse(
            summary=f"Summary of {request.paper.paper_id}.", model=MODEL, usage=[usage()]
        )

    async def WriteSection(self, request, context):
        await self._begin("WriteSection", request)
        text = self.text_of(request)
        pieces = [text[at : at + 11] for at in range(0, len(text), 11)]
        for piece in pieces[: len(pieces) // 2]:
            yield generation_pb.WriteSectionResponse(text_delta=piece)
        if "WriteSection midway" in self.before:
            event = await self.before["WriteSection midway"](request)
            if event:
                yield event
        for piece in pieces[len(pieces) // 2 :]:
            yield generation_pb.WriteSectionResponse(text_delta=piece)
        if "WriteSection end" in self.before:
            await self.before["WriteSection end"](request)
        title = f"Section {request.chapter_number}.{request.section_number}"
        yield generation_pb.WriteSectionResponse(
            finished=generation_pb.SectionText(
                title=title, text=text, model=MODEL, usage=[self.section_usage], **self.section_fields
            )
        )

    async def ListCalls(self, request, context):
        await self._begin("ListCalls", request)
        return generation_pb.ListCallsResponse(calls=self.recorded)

    async def ListEncoderCalls(self, request, context):
        await self._begin("ListEncoderCalls", request)
        return embedding_pb.ListEncoderCallsResponse()

    async def DeleteCalls(self, request, context):
        await self._begin("DeleteCalls", request)
        return generation_pb.DeleteCallsResponse(deleted_count=3)

    async def DeleteEncoderCalls(self, request, context):
        await self._begin("DeleteEncoderCalls", request)
        return embedding_pb.DeleteEncoderCallsResponse(deleted_count=1)

    async def WriteFrame(self, request, context):
        await self._begin("WriteFrame", request)
        heads = [
            generation_pb.ChapterHead(title=f"Chapter {number}", text="Two sentences.")
            for number, _ in enumerate(request.outline, start=1)
        ]
        yield generation_pb.WriteFrameResponse(
            finished=generation_pb.FrameText(
                title="A title",
                introduction="Begins with [P1].",
                chapters=heads,
                closing="Ends.",
                model=MODEL,
                usage=[usage(cost=None)],
            )
        )

    def add_to(self, host: RoleServer) -> None:
        """Serve all five from one server."""
        retrieval_grpc.add_RetrievalServiceServicer_to_server(self, host.server)
        embedding_grpc.add_EmbeddingServiceServicer_to_server(self, host.server)
        ordering_grpc.add_OrderingServiceServicer_to_server(self, host.server)
        generation_grpc.add_GenerationServiceServicer_to_server(self, host.server)
        summarization_grpc.add_SummarizationServiceServicer_to_server(self, host.server)


def fails(code: grpc.StatusCode, when: Callable[[Any], bool] = lambda request: True) -> Hook:
    """Return a hook that ends the call with a status of grpc's own."""

    async def hook(request: Any) -> None:
        if when(request):
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "as told")

    return hook


class Gate:
    """A hook that holds calls until it is opened, and says when one has come."""

    def __init__(self, when: Callable[[Any], bool] = lambda request: True) -> None:
        self.entered, self.opened, self._when = asyncio.Event(), asyncio.Event(), when

    async def __call__(self, request: Any) -> None:
        if self._when(request):
            self.entered.set()
            await self.opened.wait()
