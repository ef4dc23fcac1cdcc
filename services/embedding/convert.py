"""Messages of EmbeddingService to domain types and back, and every rule of the requests' fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import usage_pb2

from services.common.fields import FieldChecks
from services.common.paid.caller import MAX_NAME_CHARACTERS, check_call
from services.common.paid.usage import Usage, usage_message
from services.common.papers import Paper, check_moment, check_papers, message_of, moment_of, paper_of
from services.common.vectors import bytes_of
from services.embedding.paper_vectors import EmbeddedPapers, Encoded, Encoder, FoundPapers, Selection

MAX_PAPERS = 500
MAX_TEXTS = 500
MAX_CALLS, DEFAULT_CALLS = 1_000, 500
DEFAULT_FOUND_PAPERS = 50
MAX_TEXT_CHARACTERS = 4_000
MAX_CATEGORIES = 50
MAX_CATEGORY_CHARACTERS = 40
STAGES_OF_TEXTS = ("plan", "retrieve")
"""Stages that compare texts; the first one is meant where none is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """What a request for vectors asks for."""

    encoder: Encoder
    papers: tuple[Paper, ...]
    query: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEmbedding:
    """What a request for vectors of texts asks for."""

    encoder: Encoder
    texts: tuple[str, ...]
    stage: str
    """Whose texts, as recorded calls name it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a request for near papers asks for."""

    encoder: Encoder
    text: str
    selection: Selection
    max_papers: int


def embedding_of(request: pb.EmbedPapersRequest, encoder: Encoder | None, wanted: str) -> Embedding:
    """Return what the request asks for.

    Args:
        request: as it came.
        encoder: the one it names; None when there is none of that name.
        wanted: what a name must be, in words.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = _checks_of_call(request, encoder, wanted)
    checks.count("papers", len(request.papers), 1, MAX_PAPERS)
    check_papers(checks, "papers", request.papers)
    checks.length("query", request.query, 0, MAX_TEXT_CHARACTERS)
    checks.finish()
    return Embedding(
        encoder=cast("Encoder", encoder),  # checked above
        papers=tuple(map(paper_of, request.papers)),
        query=request.query,
    )


def finding_of(request: pb.FindPapersRequest, encoder: Encoder | None, wanted: str) -> Finding:
    """Return what the request asks for.

    Args:
        request: as it came.
        encoder: the one it names; None when there is none of that name.
        wanted: what a name must be, in words.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = _checks_of_call(request, encoder, wanted)
    checks.length("text", request.text, 1, MAX_TEXT_CHARACTERS)
    checks.number("max_papers", request.max_papers, 1, MAX_PAPERS)
    _check_span(checks, request)
    checks.count("categories", len(request.categories), 0, MAX_CATEGORIES)
    for position, category in enumerate(request.categories):
        checks.length(f"categories[{position}]", category, 1, MAX_CATEGORY_CHARACTERS)
    checks.finish()
    selection = Selection(
        published_from=moment_of(request.published_from) if request.HasField("published_from") else None,
        published_before=moment_of(request.published_before) if request.HasField("published_before") else None,
        categories=tuple(request.categories),
    )
    return Finding(
        encoder=cast("Encoder", encoder),  # checked above
        text=request.text,
        selection=selection,
        max_papers=request.max_papers or DEFAULT_FOUND_PAPERS,
    )


def texts_of(request: pb.EmbedTextsRequest, encoder: Encoder | None, wanted: str) -> TextEmbedding:
    """Return what the request asks for.

    Args:
        request: as it came.
        encoder: the one it names; None when there is none of that name.
        wanted: what a name must be, in words.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = _checks_of_call(request, encoder, wanted)
    checks.count("texts", len(request.texts), 1, MAX_TEXTS)
    for place, text in enumerate(request.texts):
        checks.length(f"texts[{place}]", text, 1, MAX_TEXT_CHARACTERS)
    stage = request.stage or STAGES_OF_TEXTS[0]
    checks.require(stage in STAGES_OF_TEXTS, "stage", f"{' or '.join(STAGES_OF_TEXTS)}, not {stage!r}")
    checks.finish()
    return TextEmbedding(encoder=cast("Encoder", encoder), texts=tuple(request.texts), stage=stage)  # checked above


def check_survey_calls(request: pb.ListEncoderCallsRequest | pb.DeleteEncoderCallsRequest) -> None:
    """Check a request for the calls of a survey.

    Raises:
        InvalidRequest: fields break their rules; all of them are named.
    """
    checks = FieldChecks()
    checks.length("tenant", request.tenant, 1, MAX_NAME_CHARACTERS)
    checks.length("survey_id", request.survey_id, 1, MAX_NAME_CHARACTERS)
    if isinstance(request, pb.ListEncoderCallsRequest):
        checks.number("page_size", request.page_size, 1, MAX_CALLS)
    checks.finish()


def embed_response_of(encoder: Encoder, embedded: EmbeddedPapers) -> pb.EmbedPapersResponse:
    """Return the response to a request for vectors."""
    return pb.EmbedPapersResponse(
        encoder=encoder.name,
        dimension=encoder.dimension,
        count=len(embedded.vectors),
        vectors=bytes_of(embedded.vectors),
        cached_count=embedded.cached_count,
        query_vector=b"" if embedded.query_vector is None else bytes_of(embedded.query_vector),
        usage=_usage_messages(encoder, embedded.usage),
    )


def find_response_of(encoder: Encoder, found: FoundPapers) -> pb.FindPapersResponse:
    """Return the response to a request for near papers."""
    return pb.FindPapersResponse(
        papers=[pb.FoundPaper(paper=message_of(each.paper), similarity=each.similarity) for each in found.papers],
        encoder=encoder.name,
        usage=_usage_messages(encoder, found.usage),
    )


def texts_response_of(encoder: Encoder, encoded: Encoded) -> pb.EmbedTextsResponse:
    """Return the response to a request for vectors of texts."""
    return pb.EmbedTextsResponse(
        encoder=encoder.name,
        dimension=encoder.dimension,
        count=len(encoded.rows),
        vectors=bytes_of(encoded.rows),
        usage=_usage_messages(encoder, encoded.usage),
    )


def _checks_of_call(request: Any, encoder: Encoder | None, wanted: str) -> FieldChecks:  # Any: messages share no base
    """Return the checks of a request, with those that every request has already made."""
    checks = FieldChecks()
    check_call(checks, request.call)
    checks.require(encoder is not None, "encoder", f"{wanted}, not {request.encoder[:40]!r}")
    return checks


def _check_span(checks: FieldChecks, request: pb.FindPapersRequest) -> None:
    """Record a limit that is no moment, or else an end that is not later than the beginning."""
    is_first = check_moment(checks, "published_from", request.published_from)
    is_end = check_moment(checks, "published_before", request.published_before)
    is_span = request.HasField("published_from") and request.HasField("published_before")
    if is_first and is_end and is_span:
        is_kept = moment_of(request.published_from) < moment_of(request.published_before)
        checks.require(is_kept, "published_before", "later than published_from")


def _usage_messages(encoder: Encoder, usage: Sequence[Usage]) -> list[usage_pb2.ModelUsage]:
    """Return what was taken; where nothing had to be asked, that the encoder was not called and cost nothing."""
    nothing = Usage(model=encoder.name, call_count=0, cost_nano_usd=0, is_estimated=True)
    return [usage_message(each) for each in usage or [nothing]]
