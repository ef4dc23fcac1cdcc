"""The servicer: reads, calls, writes."""

from collections.abc import Mapping
from typing import Any

import grpc
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

from services.common.telemetry import annotate
from services.embedding import convert
from services.embedding.paper_vectors import Encoder, PaperVectors


class EmbeddingService(pb_grpc.EmbeddingServiceServicer):
    """Serves EmbeddingService."""

    def __init__(self, vectors: PaperVectors, encoders: Mapping[str, Encoder], default: str) -> None:
        self._vectors = vectors
        self._encoders = encoders
        self._default = default

    async def EmbedPapers(
        self, request: pb.EmbedPapersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EmbedPapersResponse:
        """Return a vector for each paper, encoding those whose text is new."""
        asked = convert.embedding_of(request, self._encoders, self._default)
        embedded = await self._vectors.embed(asked.encoder, asked.papers, asked.query)
        annotate(paper_count=len(asked.papers), cached_count=embedded.cached_count)
        return convert.response_of(asked.encoder, embedded)
