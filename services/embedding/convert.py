"""Messages of EmbeddingService to domain types and back, and every rule of the request's fields."""

from collections.abc import Mapping
from dataclasses import dataclass

from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import usage_pb2

from services.common.fields import FieldChecks
from services.common.papers import Paper, check_papers, paper_of
from services.common.vectors import bytes_of
from services.embedding.paper_vectors import EmbeddedPapers, Encoder

MAX_PAPERS = 500
MAX_QUERY_CHARACTERS = 4_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """What a request asks for."""

    encoder: Encoder
    papers: tuple[Paper, ...]
    query: str


def embedding_of(request: pb.EmbedPapersRequest, encoders: Mapping[str, Encoder], default: str) -> Embedding:
    """Return what the request asks for.

    Args:
        request: as it came.
        encoders: those that can be asked for, by name.
        default: name of the one that is used when none is asked for.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = FieldChecks()
    name = request.encoder or default
    checks.require(name in encoders, "encoder", f"one of {', '.join(sorted(encoders))}, not {name[:40]!r}")
    checks.count("papers", len(request.papers), 1, MAX_PAPERS)
    check_papers(checks, "papers", request.papers)
    checks.length("query", request.query, 0, MAX_QUERY_CHARACTERS)
    checks.finish()
    return Embedding(encoder=encoders[name], papers=tuple(map(paper_of, request.papers)), query=request.query)


def response_of(encoder: Encoder, embedded: EmbeddedPapers) -> pb.EmbedPapersResponse:
    """Return the response; a local encoder costs nothing and counts no tokens."""
    usage = usage_pb2.ModelUsage(
        model=encoder.name,
        call_count=embedded.call_count,
        cost_nano_usd=0,
        source=usage_pb2.USAGE_SOURCE_ESTIMATED,
    )
    return pb.EmbedPapersResponse(
        encoder=encoder.name,
        dimension=encoder.dimension,
        count=len(embedded.vectors),
        vectors=bytes_of(embedded.vectors),
        cached_count=embedded.cached_count,
        query_vector=b"" if embedded.query_vector is None else bytes_of(embedded.query_vector),
        usage=[usage],
    )
