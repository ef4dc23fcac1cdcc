"""What a call to a service can cost at worst: how much of a budget it is granted.

A service counts for itself and refuses what could pass its grant, so nothing depends on these figures but how often it
comes back for want of money: `least` is a little more than its first calls can cost, `most` has room for repairs,
corrections, retries and models that stand in.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING

from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import retrieval_service_pb2 as retrieval_pb
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import survey_pb2 as pb

from services.common.errors import Unpriced
from services.common.paid.sending import MAX_CALL_S
from services.common.paid.settings import BUILTIN
from services.common.paid.usage import TokenUsage

if TYPE_CHECKING:
    from services.common.paid.prices import PriceBook

LOCAL_ENCODERS = ("wordllama:", "fastembed:")
"""Begin the names of encoders that run on our own machines."""
WRITING_STAGES = ("plan", "summarize", "write", "frame")
"""Stages whose models write; that of `embed` is an encoder."""

Request = (
    generation_pb.PlanSearchRequest
    | summarization_pb.SummarizePaperRequest
    | generation_pb.WriteSectionRequest
    | generation_pb.WriteFrameRequest
    | embedding_pb.EmbedPapersRequest
    | retrieval_pb.SearchPapersRequest
)
"""Requests that may pay."""

# A token has at least one byte. Bytes of the prompts around what the request holds, and the limits on output that are
# sent with them; both a little more than they are.
ROOM_BYTES = 2_000
LINE_BYTES = 100
"""Key and JSON around a paper."""
OUTLINE_BYTES = 14_000
"""4,000 characters, and the JSON around them."""
MAX_TITLE_BYTES, MAX_TEXT_BYTES = 900, 18_000
MAX_SENTENCE_BYTES = 900
ESCAPED = 1.2
"""Quotes and line ends take two characters in JSON."""
PLAN_TOKENS = 400
SUMMARY_TOKENS = 320
SUMMARY_TOKENS_A_SECOND = 17
"""Four tokens a word of the reading time."""
SUMMARY_TOKENS_A_SECOND_IN = {"ja": 34, "zh": 24, "th": 61}
"""Four tokens a character."""
SECTION_TOKENS, SECTION_TOKENS_A_PAPER = 620, 350
SINGLE_TOKENS = 8_000
FRAME_TOKENS, FRAME_TOKENS_A_CHAPTER = 2_520, 300

TERM_NANO_USD = 500_000
"""For the vector of a search term, twice: 200 characters of 4 bytes, at up to 0.3 dollars a million tokens. Which
encoder it is, if any, only the source knows that answers."""

FURTHER = {"plan": 3, "summarize": 4, "write": 6, "frame": 5, "embed": 2}
"""How many times the first calls all calls of a stage together may cost, by one model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worst:
    """What a call to a service can cost, in nano-US-dollars."""

    item: str
    """What for, as the ledgers name it: a paper's id, "2.3" for a section; empty where a stage makes one call."""
    least: int
    """Without which it can do nothing."""
    most: int
    """With which it will hardly come back for more."""


def check_priced(spec: pb.SurveySpec, prices: "PriceBook", *, has_limit: bool) -> None:
    """Make sure that a budget can be kept.

    Args:
        spec: with its defaults filled in.
        prices: where they are looked up.
        has_limit: whether there is one, of the survey or of its tenant.

    Raises:
        Unpriced: there is a limit and the price of a model that may be called is not known.
    """
    if not has_limit:
        return
    stages = [stage for stage in WRITING_STAGES if stage != "frame" or spec.writer != pb.WRITER_SINGLE]
    for name in dict.fromkeys(name for stage in stages for name in _paid(getattr(spec.models, stage))):
        if _price(prices, name, 1, 1) is None:
            raise Unpriced(name)
    encoder = _encoder_model(spec.models.embed)
    if is_remote(encoder) and _price(prices, encoder, 1, 0) is None:
        raise Unpriced(encoder)


def is_remote(encoder: str) -> bool:
    """Return whether an encoder is a provider's; none at all is the embedding service's own choice."""
    return bool(encoder) and not encoder.startswith(LOCAL_ENCODERS)


def worst_of(request: Request, prices: "PriceBook") -> Worst:
    """Return what a call with this request can cost; nothing where a price is not known: its service will say so."""
    match request:
        case generation_pb.PlanSearchRequest():
            size = ROOM_BYTES + _bytes([request.question])
            count = max(1, request.plan_candidates)
            return _of_models("plan", request.model, prices, byte_count=size, tokens_out=PLAN_TOKENS, call_count=count)
        case summarization_pb.SummarizePaperRequest():
            size = ROOM_BYTES + _bytes([request.paper.title, request.paper.abstract])
            a_second = SUMMARY_TOKENS_A_SECOND_IN.get(request.language, SUMMARY_TOKENS_A_SECOND)
            tokens = SUMMARY_TOKENS + a_second * (request.summary_seconds or 30)
            item = request.paper.paper_id
            return _of_models("summarize", request.model, prices, byte_count=size, tokens_out=tokens, item=item)
        case generation_pb.WriteSectionRequest():
            place = f"{request.chapter_number}.{request.section_number}"
            is_single = request.form == generation_pb.SECTION_FORM_SINGLE
            size = ROOM_BYTES + _bytes([request.question]) + _shown(request.papers)
            size += 0 if is_single else OUTLINE_BYTES
            tokens = SINGLE_TOKENS if is_single else SECTION_TOKENS + SECTION_TOKENS_A_PAPER * len(request.papers)
            return _of_models("write", request.model, prices, byte_count=size, tokens_out=tokens, item=place)
        case generation_pb.WriteFrameRequest():
            size = ROOM_BYTES + _bytes([request.question]) + _outlined(request.papers)
            tokens = FRAME_TOKENS + FRAME_TOKENS_A_CHAPTER * len(request.outline)
            return _of_models("frame", request.model, prices, byte_count=size, tokens_out=tokens)
        case embedding_pb.EmbedPapersRequest():
            return _of_encoder(request, prices)
        case retrieval_pb.SearchPapersRequest():
            return Worst(item="", least=0, most=TERM_NANO_USD * len(request.search_terms))


def _of_encoder(request: embedding_pb.EmbedPapersRequest, prices: "PriceBook") -> Worst:
    if not is_remote(request.encoder):
        return Worst(item="", least=0, most=0)
    texts = [f"{paper.title}\n{paper.abstract}" for paper in request.papers]
    size = _bytes([*texts, request.query]) + LINE_BYTES * (len(texts) + 1)
    least = _price(prices, _encoder_model(request.encoder), size, 0) or 0
    return Worst(item="", least=least, most=FURTHER["embed"] * least)


def _of_models(
    stage: str,
    models: str,
    prices: "PriceBook",
    *,
    byte_count: int,
    tokens_out: int,
    item: str = "",
    call_count: int = 1,
) -> Worst:
    """Return the worst case of the calls that a stage makes of one of its models, and of all that may stand in."""
    prices_of = [_price(prices, name, byte_count, tokens_out) or 0 for name in _paid(models)]
    first = call_count * prices_of[0] if prices_of else 0
    return Worst(item=item, least=first, most=max(first, FURTHER[stage] * call_count * sum(prices_of)))


def _price(prices: "PriceBook", model: str, byte_count: int, tokens_out: int) -> int | None:
    step = 256  # few different sizes: their prices are looked up once
    tokens = TokenUsage(input_tokens=-(-byte_count // step) * step, output_tokens=tokens_out)
    return prices.worst(model, tokens, at=datetime.now(UTC), seconds=MAX_CALL_S)


def _paid(models: str) -> list[str]:
    """Return which of several models may be called for money: those before the one that always answers."""
    return list(takewhile(lambda name: name != BUILTIN, filter(None, models.split(","))))


def _encoder_model(encoder: str) -> str:
    """Return the model of "provider:model@dimension"."""
    return encoder.partition("@")[0]


def _shown(papers: Iterable[generation_pb.KeyedPaper]) -> int:
    """Return the bytes of papers as a section is shown them: title and summary."""
    return sum(
        LINE_BYTES
        + _bytes([each.paper.title], MAX_TITLE_BYTES)
        + _bytes([each.summary or each.paper.abstract], MAX_TEXT_BYTES)
        for each in papers
    )


def _outlined(papers: Iterable[generation_pb.KeyedPaper]) -> int:
    """Return the bytes of papers as a frame is shown them: title and first sentence."""
    return sum(
        LINE_BYTES + _bytes([each.paper.title], MAX_TITLE_BYTES) + _bytes([_first_of(each.summary)], MAX_SENTENCE_BYTES)
        for each in papers
    )


def _first_of(summary: str) -> str:
    return summary.partition(". ")[0].partition("。")[0]


def _bytes(texts: Iterable[str], most: int | None = None) -> int:
    total = round(ESCAPED * sum(len(text.encode(errors="replace")) for text in texts))
    return total if most is None else min(most, total)
