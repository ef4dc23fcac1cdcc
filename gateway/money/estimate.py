"""What a survey is likely to cost before it is asked for: calls and tokens by stage, and in which range.

It is fitted to what the tenant's recent surveys of the same models and form took, for each of their papers; where there
are too few of them it stands on general figures. Nothing counts as served from a provider's cache or from the ledger.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.money.worst import is_remote
from services.common.paid.settings import BUILTIN
from services.common.paid.usage import TokenUsage

if TYPE_CHECKING:
    from services.common.paid.prices import PriceBook

MIN_RECENT = 3
"""Surveys without which general figures are better."""
LOW_QUANTILE, HIGH_QUANTILE = 0.1, 0.9
GENERAL_LOW, GENERAL_HIGH = 0.6, 2.0
"""Range of general figures: abstracts differ in length, answers are asked for again, and some models reason."""
_FORM = (
    "models",
    "writer",
    "max_section_papers",
    "summary_seconds",
    "summary_style",
    "plan_candidates",
)
"""Fields of a spec that decide what a paper takes; not how many papers there are."""

_COUNTED = ("call_count", "input_tokens", "output_tokens")
"""Fields of a ModelUsage; those of what the ledger served begin with "served_"."""

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
    """What a stage takes."""

    stage: pb.Stage.ValueType
    models: str
    call_count: int
    input_tokens: int
    output_tokens: int

    @property
    def model(self) -> str:
        """The first of the models."""
        return self.models.partition(",")[0]


def estimate_of(
    spec: pb.SurveySpec, prices: "PriceBook", recent: Iterable[pb.Survey] = (), month_left_nano_usd: int | None = None
) -> service_pb.EstimateSurveyResponse:
    """Return the estimate for a spec with its defaults filled in.

    Args:
        spec: of the survey.
        prices: of today.
        recent: surveys of the same tenant that are done; those of another form are left aside.
        month_left_nano_usd: what is left of the tenant's month; None where it has no limit.
    """
    expected = list(_stages(spec))
    alike = [_scaled(survey, expected, spec.max_papers) for survey in recent if _is_alike(survey, spec)]
    response = service_pb.EstimateSurveyResponse(paper_count=spec.max_papers, month_left_nano_usd=month_left_nano_usd)
    if len(alike) >= MIN_RECENT:
        response.recent_survey_count = len(alike)
        expected = [_fitted(each, [taken[place] for taken in alike]) for place, each in enumerate(expected)]
    else:
        alike = []
    now = datetime.now(UTC)

    def cost_of(tokens: StageTokens) -> int | None:
        if tokens.model == BUILTIN:
            return 0
        used = TokenUsage(input_tokens=tokens.input_tokens, output_tokens=tokens.output_tokens, is_estimated=True)
        return prices.price(tokens.model, used, at=now).cost_nano_usd

    costs = [cost_of(each) for each in expected]
    # One list a survey of what its stages would cost.
    ranges = [[cost_of(each) or 0 for each in taken] for taken in alike]
    for place, (stage, cost) in enumerate(zip(expected, costs, strict=True)):
        response.stages.append(_estimate(stage, cost, [taken[place] for taken in ranges]))
    if None not in costs:
        response.cost_nano_usd = sum(cost or 0 for cost in costs)
        totals = [sum(taken) for taken in ranges]
        response.low_cost_nano_usd, response.high_cost_nano_usd = _range(response.cost_nano_usd, totals)
    return response


def _is_alike(survey: pb.Survey, spec: pb.SurveySpec) -> bool:
    """Return whether a survey tells what one of this spec will take: of its form, and not cut short by a budget."""
    has_form = all(getattr(survey.spec, name) == getattr(spec, name) for name in _FORM)
    has_language = spec.language in {"", survey.spec.language}
    return has_form and has_language and not survey.budget_reached and _paper_count(survey) > 0


def _paper_count(survey: pb.Survey) -> int:
    return max((report.paper_count for report in survey.stages), default=0)


def _scaled(survey: pb.Survey, expected: Sequence[StageTokens], paper_count: int) -> list[StageTokens]:
    """Return what the stages of a survey would have taken with so many papers; a plan takes the same for all."""
    reports = {report.stage: report for report in survey.stages}
    taken = []
    for each in expected:
        if each.model == BUILTIN or each.stage == pb.STAGE_EMBED:  # which vectors were there already says nothing
            taken.append(each)
            continue
        report = reports.get(each.stage, pb.StageReport())
        usages = [usage for usage in report.usage if usage.model != BUILTIN]
        share = 1.0 if each.stage == pb.STAGE_PLAN else paper_count / (report.paper_count or _paper_count(survey))
        sums = {
            name: round(share * sum(getattr(usage, name) + getattr(usage, f"served_{name}") for usage in usages))
            for name in _COUNTED
        }
        taken.append(replace(each, **sums))
    return taken


def _fitted(general: StageTokens, taken: Sequence[StageTokens]) -> StageTokens:
    """Return the medians of what a stage took."""
    medians = {name: round(statistics.median(getattr(each, name) for each in taken)) for name in _COUNTED}
    return replace(general, **medians)


def _estimate(tokens: StageTokens, cost: int | None, taken: Sequence[int]) -> service_pb.StageEstimate:
    is_paid = tokens.model != BUILTIN
    estimate = service_pb.StageEstimate(
        stage=tokens.stage,
        model=tokens.model,
        call_count=tokens.call_count,
        input_tokens=tokens.input_tokens if is_paid else 0,
        output_tokens=tokens.output_tokens if is_paid else 0,
    )
    if cost is not None:
        estimate.cost_nano_usd = cost
        estimate.low_cost_nano_usd, estimate.high_cost_nano_usd = _range(cost, taken)
    return estimate


def _range(cost: int, taken: Sequence[int]) -> tuple[int, int]:
    """Return the range of a cost: the deciles of what was taken, else the general one; the cost lies within."""
    if not taken:
        return round(GENERAL_LOW * cost), round(GENERAL_HIGH * cost)
    return min(cost, _quantile(taken, LOW_QUANTILE)), max(cost, _quantile(taken, HIGH_QUANTILE))


def _quantile(values: Sequence[int], share: float) -> int:
    """Return the value below which that share lies, between two values in proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return round(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


def _stages(spec: pb.SurveySpec) -> Iterator[StageTokens]:
    papers, models = spec.max_papers, spec.models
    summary = round(spec.summary_seconds * TOKENS_A_SECOND_READ)
    plans = spec.plan_candidates
    yield _tokens(pb.STAGE_PLAN, models.plan, plans, PLAN_TOKENS[0] * plans, PLAN_TOKENS[1] * plans)
    if is_remote(models.embed):
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
