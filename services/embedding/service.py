"""The servicer: reads, calls, writes."""

from typing import Any

import grpc
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

from services.common.deadlines import Deadline
from services.common.paid.call_messages import call_messages
from services.common.paid.caller import caller_of
from services.common.paid.calls import PaidCalls
from services.common.telemetry.spans import annotate
from services.embedding import convert
from services.embedding.encoders import Encoders
from services.embedding.paper_vectors import PaperVectors

Context = grpc.aio.ServicerContext[Any, Any]

MOST_S = 120.0
"""Longest a remote encoder is waited for when a caller gives no deadline."""


class EmbeddingService(pb_grpc.EmbeddingServiceServicer):
    """Serves EmbeddingService."""

    def __init__(self, vectors: PaperVectors, encoders: Encoders, default: str, calls: PaidCalls) -> None:
        self._vectors = vectors
        self._encoders = encoders
        self._default = default
        self._calls = calls

    async def EmbedPapers(self, request: pb.EmbedPapersRequest, context: Context) -> pb.EmbedPapersResponse:
        """Return a vector for each paper, encoding those whose text is new."""
        encoder = await self._encoders.find(request.encoder or self._default)
        asked = convert.embedding_of(request, encoder, self._encoders.wanted)
        caller = caller_of(request.call, Deadline.of_rpc(context, MOST_S), stage="embed")
        embedded = await self._vectors.embed(asked.encoder, asked.papers, asked.query, caller)
        annotate(paper_count=len(asked.papers), cached_count=embedded.cached_count)
        return convert.embed_response_of(asked.encoder, embedded)

    async def FindPapers(self, request: pb.FindPapersRequest, context: Context) -> pb.FindPapersResponse:
        """Return the kept papers nearest to a text."""
        encoder = await self._encoders.find(request.encoder or self._default)
        asked = convert.finding_of(request, encoder, self._encoders.wanted)
        caller = caller_of(request.call, Deadline.of_rpc(context, MOST_S), stage="retrieve")
        found = await self._vectors.find(asked.encoder, asked.text, asked.selection, asked.max_papers, caller)
        annotate(paper_count=len(found.papers))
        return convert.find_response_of(asked.encoder, found)

    async def EmbedTexts(self, request: pb.EmbedTextsRequest, context: Context) -> pb.EmbedTextsResponse:
        """Return a vector for each text, and keep none."""
        encoder = await self._encoders.find(request.encoder or self._default)
        asked = convert.texts_of(request, encoder, self._encoders.wanted)
        caller = caller_of(request.call, Deadline.of_rpc(context, MOST_S), stage=asked.stage)
        return convert.texts_response_of(asked.encoder, await asked.encoder.encode([], asked.texts, caller))

    async def ListEncoderCalls(
        self, request: pb.ListEncoderCallsRequest, context: Context
    ) -> pb.ListEncoderCallsResponse:
        """Return the calls of remote encoders that a survey paid for."""
        convert.check_survey_calls(request)
        page = await self._calls.list_calls(
            request.tenant, request.survey_id, request.page_size or convert.DEFAULT_CALLS, request.page_token
        )
        return pb.ListEncoderCallsResponse(calls=call_messages(page.calls), next_page_token=page.next_page_token)

    async def DeleteEncoderCalls(
        self, request: pb.DeleteEncoderCallsRequest, context: Context
    ) -> pb.DeleteEncoderCallsResponse:
        """Remove what a survey's recorded calls say of its question."""
        convert.check_survey_calls(request)
        count = await self._calls.delete_calls(request.tenant, request.survey_id)
        return pb.DeleteEncoderCallsResponse(deleted_count=count)
