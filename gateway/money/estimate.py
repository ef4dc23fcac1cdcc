"""What a survey is likely to cost before it is asked for: calls and tokens by stage, from its papers alone.

Nothing counts as served from a provider's cache or from the ledger, and no answer as asked for again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.money.costs import LOCAL_ENCODERS
from services.common.paid.settings import BUILTIN
from services.common.paid.usage import TokenUsage

if TYPE_CHECKING:
    from services.common.paid.prices import PriceBook

# Tokens as measured over surveys of 160 real papers; a text's own length is what its prompt asks for.
PLAN_TOKENS = (280, 60)
ENCODED_TOKENS, ENCODED_A_CALL = 350, 100
"""A title and an abstract, and the least number of papers that go into one request of a remote encoder."""
SUMMARY_TOKENS_IN = 510
"""The prompt, a title and an abstract of about 1,300 characters."""
TOKENS_A_SECOND_READ = 5.5
"""Tokens in a summary for each second it may take to read: about four words."""
SECTION_TOKENS_IN = 340
OUTLINE_TOKENS_A_PAPER, MAX_OUTLINE_TOKENS = 13, 1_000
SHOWN_TOKENS_A_PAPER = 60
"""Key and title beside the summary."""
WRITTEN_TOKENS_A_PAPER = 60
SECTION_TOKENS_OUT = 60
SINGLE_TOKENS_OUT = 1_800
FRAME_TOKENS = (800, 900)
FRAME_TOKENS_A_PAPER = 60
SECTION_FILL = 0.8
"""How full a section is on average: the route is cut where neighbours differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTokens:
    """What a stage is likely to take."""

    stage: pb.Stage.ValueType
    models: str
    call_count: int
    input_tokens: int
    output_tokens: int


def estimate_of(spec: pb.SurveySpec, prices: "PriceBook") -> service_pb.EstimateSurveyResponse:
    """Return the estimate for a spec with its defaults filled in."""
    response = service_pb.EstimateSurveyResponse(paper_count=spec.max_papers, cost_nano_usd=0)
    now = datetime.now(UTC)
    for expected in _stages(spec):
        model = expected.models.split(",")[0]
        estimate = response.stages.add(stage=expected.stage, model=model, call_count=expected.call_count)
        if model == BUILTIN:
            estimate.cost_nano_usd = 0
            continue
        estimate.input_tokens, estimate.output_tokens = expected.input_tokens, expected.output_tokens
        tokens = TokenUsage(input_tokens=expected.input_tokens, output_tokens=expected.output_tokens, is_estimated=True)
        cost = prices.price(model, tokens, at=now).cost_nano_usd
        if cost is None:
            response.ClearField("cost_nano_usd")
            continue
        estimate.cost_nano_usd = cost
        if response.HasField("cost_nano_usd"):
            response.cost_nano_usd += cost
    return response


def _stages(spec: pb.SurveySpec) -> Iterator[StageTokens]:
    papers, models = spec.max_papers, spec.models
    summary = round(spec.summary_seconds * TOKENS_A_SECOND_READ)
    plans = spec.plan_candidates
    yield _tokens(pb.STAGE_PLAN, models.plan, plans, PLAN_TOKENS[0] * plans, PLAN_TOKENS[1] * plans)
    if models.embed and not models.embed.startswith(LOCAL_ENCODERS):
        encoder, calls = models.embed.partition("@")[0], ceil(papers / ENCODED_A_CALL)
        yield _tokens(pb.STAGE_EMBED, encoder, calls, ENCODED_TOKENS * papers, 0)
    yield _tokens(pb.STAGE_SUMMARIZE, models.summarize, papers, SUMMARY_TOKENS_IN * papers, summary * papers)
    shown = papers * (summary + SHOWN_TOKENS_A_PAPER)
    if spec.writer == pb.WRITER_SINGLE:
        yield _tokens(pb.STAGE_WRITE, models.write, 1, SECTION_TOKENS_IN + shown, SINGLE_TOKENS_OUT)
        return
    sections = ceil(papers / max(1, spec.max_section_papers * SECTION_FILL))
    tokens_in = sections * (SECTION_TOKENS_IN + min(MAX_OUTLINE_TOKENS, papers * OUTLINE_TOKENS_A_PAPER)) + shown
    tokens_out = papers * WRITTEN_TOKENS_A_PAPER + sections * SECTION_TOKENS_OUT
    yield _tokens(pb.STAGE_WRITE, models.write, sections, tokens_in, tokens_out)
    frame_in = FRAME_TOKENS[0] + papers * FRAME_TOKENS_A_PAPER
    yield _tokens(pb.STAGE_FRAME, models.frame, 1, frame_in, FRAME_TOKENS[1])


def _tokens(stage: pb.Stage.ValueType, models: str, calls: int, tokens_in: int, tokens_out: int) -> StageTokens:
    return StageTokens(stage=stage, models=models, call_count=calls, input_tokens=tokens_in, output_tokens=tokens_out)
