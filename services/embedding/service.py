"""The servicer: reads, calls, writes."""

from typing import Any

import grpc
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

from services.common.telemetry import annotate
from services.embedding import convert
from services.embedding.encoders import Encoders
from services.embedding.paper_vectors import PaperVectors


class EmbeddingService(pb_grpc.EmbeddingServiceServicer):
    """Serves EmbeddingService."""

    def __init__(self, vectors: PaperVectors, encoders: Encoders, default: str) -> None:
        self._vectors = vectors
        self._encoders = encoders
        self._default = default

    async def EmbedPapers(
        self, request: pb.EmbedPapersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EmbedPapersResponse:
        """Return a vector for each paper, encoding those whose text is new."""
        encoder = await self._encoders.find(request.encoder or self._default)
        asked = convert.embedding_of(request, encoder, self._encoders.wanted)
        embedded = await self._vectors.embed(asked.encoder, asked.papers, asked.query)
        annotate(paper_count=len(asked.papers), cached_count=embedded.cached_count)
        return convert.embed_response_of(asked.encoder, embedded)

    async def FindPapers(
        self, request: pb.FindPapersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindPapersResponse:
        """Return the kept papers nearest to a text."""
        encoder = await self._encoders.find(request.encoder or self._default)
        asked = convert.finding_of(request, encoder, self._encoders.wanted)
        found = await self._vectors.find(asked.encoder, asked.text, asked.selection, asked.max_papers)
        annotate(paper_count=len(found))
        return convert.find_response_of(asked.encoder, found)
