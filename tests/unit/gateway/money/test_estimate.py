"""What a survey is likely to cost: from general figures, or from what surveys like it took."""

from typing import Any

import pytest
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2

from gateway.money.estimate import GENERAL_HIGH, GENERAL_LOW, estimate_of
from services.common.paid.prices import PriceBook
from services.common.paid.settings import BUILTIN

QUICK, WRITER = "own:quick", "own:writer"
PRICES = PriceBook(
    '{"own:quick": {"input_mtok": 1, "output_mtok": 2}, "own:writer": {"input_mtok": 10, "output_mtok": 20},'
    ' "own:encoder": {"input_mtok": 1, "output_mtok": 0}}'
)


def spec(max_papers: int = 100, writer: Any = pb.WRITER_SECTIONS, **fields: Any) -> pb.SurveySpec:
    models = pb.ModelChoice(plan=QUICK, summarize=QUICK, write=f"{WRITER},{QUICK}", frame=QUICK)
    given = {
        "models": models,
        "max_section_papers": 8,
        "summary_seconds": 30,
        "plan_candidates": 1,
        "summary_style": 2,
        **fields,
    }
    return pb.SurveySpec(max_papers=max_papers, writer=writer, **given)


def took(model: str, tokens_in: int, tokens_out: int, calls: int = 1) -> list[usage_pb2.ModelUsage]:
    return [
        usage_pb2.ModelUsage(model=model, call_count=calls, input_tokens=tokens_in, output_tokens=tokens_out),
        usage_pb2.ModelUsage(model=BUILTIN, call_count=2),
    ]


def done(papers: int, factor: float = 1.0, **fields: Any) -> pb.Survey:
    """Return a survey of so many papers: 500 tokens in and 100 out for each summary, times a factor."""
    survey = pb.Survey(spec=spec(max_papers=500), state=pb.SURVEY_STATE_DONE, **fields)
    of_summaries = took(QUICK, round(500 * factor) * papers, round(100 * factor) * papers, papers)
    survey.stages.add(stage=pb.STAGE_PLAN, usage=took(QUICK, 300, 60))
    survey.stages.add(stage=pb.STAGE_SUMMARIZE, paper_count=papers, usage=of_summaries)
    survey.stages.add(stage=pb.STAGE_WRITE, paper_count=papers, usage=took(WRITER, 200 * papers, 70 * papers, 5))
    survey.stages.add(stage=pb.STAGE_FRAME, paper_count=papers, usage=took(QUICK, 50 * papers, 900))
    return survey


def by_stage(estimate: Any) -> dict[str, Any]:
    return {pb.Stage.Name(stage.stage).removeprefix("STAGE_").lower(): stage for stage in estimate.stages}


def test_without_surveys_to_go_by_general_figures_have_a_wide_range():
    estimate = estimate_of(spec(), PRICES)

    assert estimate.recent_survey_count == 0
    assert estimate.cost_nano_usd == sum(stage.cost_nano_usd for stage in estimate.stages) > 0
    assert estimate.low_cost_nano_usd == round(GENERAL_LOW * estimate.cost_nano_usd)
    assert estimate.high_cost_nano_usd == round(GENERAL_HIGH * estimate.cost_nano_usd)
    for stage in estimate.stages:
        assert 0 < stage.low_cost_nano_usd < stage.cost_nano_usd < stage.high_cost_nano_usd


def test_surveys_alike_tell_what_a_paper_takes():
    """Whatever number of papers they had; the plan takes the same for all."""
    estimate = estimate_of(spec(100), PRICES, [done(20), done(40), done(160)])
    stages = by_stage(estimate)

    assert estimate.recent_survey_count == 3
    assert (stages["plan"].input_tokens, stages["plan"].output_tokens) == (300, 60)
    assert (stages["summarize"].input_tokens, stages["summarize"].output_tokens) == (50_000, 10_000)
    assert stages["summarize"].call_count == 100
    assert stages["write"].input_tokens == 20_000
    assert stages["summarize"].cost_nano_usd == 50_000 * 1_000 + 10_000 * 2_000


def test_what_the_ledger_served_counts_as_if_it_had_been_paid_for():
    """The next survey may find nothing recorded."""
    surveys = [done(20), done(40), done(160)]
    paid = estimate_of(spec(100), PRICES, surveys)
    for usage in (usage for survey in surveys for stage in survey.stages for usage in stage.usage):
        for name in ("call_count", "input_tokens", "output_tokens"):
            part = getattr(usage, name) // 3
            setattr(usage, f"served_{name}", part)
            setattr(usage, name, getattr(usage, name) - part)

    assert estimate_of(spec(100), PRICES, surveys) == paid


def test_the_range_is_that_of_the_surveys():
    factors = [0.5, 0.9, 1.0, 1.1, 4.0]
    estimate = estimate_of(spec(100), PRICES, [done(50, factor) for factor in factors])
    stage = by_stage(estimate)["summarize"]
    one = 70_000_000

    assert stage.cost_nano_usd == one
    assert stage.low_cost_nano_usd == round(one * (0.5 + 0.4 * 0.4))  # the first decile lies between 0.5 and 0.9
    assert stage.high_cost_nano_usd == round(one * (1.1 + 0.6 * 2.9))
    assert estimate.low_cost_nano_usd < estimate.cost_nano_usd < estimate.high_cost_nano_usd


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param({"models": pb.ModelChoice(plan=QUICK)}, id="other models"),
        pytest.param({"writer": pb.WRITER_SINGLE}, id="another form"),
        pytest.param({"summary_seconds": 60}, id="longer summaries"),
        pytest.param({"max_section_papers": 4}, id="smaller sections"),
        pytest.param({"language": "ja"}, id="another language"),
    ],
)
def test_surveys_of_another_form_tell_nothing(strange: dict[str, Any]):
    surveys = [done(20), done(40), done(160)]
    for survey in surveys:
        survey.spec.language = "en"
    wanted = spec(language="en")
    for name, value in strange.items():
        if isinstance(value, pb.ModelChoice):
            wanted.models.CopyFrom(value)
        else:
            setattr(wanted, name, value)

    assert estimate_of(wanted, PRICES, surveys).recent_survey_count == 0


def test_two_surveys_are_too_few_and_one_cut_by_its_budget_tells_nothing():
    assert estimate_of(spec(), PRICES, [done(20), done(40)]).recent_survey_count == 0
    assert estimate_of(spec(), PRICES, [done(20), done(40), done(40, budget_reached=True)]).recent_survey_count == 0
    assert estimate_of(spec(), PRICES, [done(20), done(40), pb.Survey(spec=spec())]).recent_survey_count == 0


def test_a_language_that_is_left_open_is_like_any():
    surveys = [done(20), done(40), done(160)]
    for survey in surveys:
        survey.spec.language = "ja"

    assert estimate_of(spec(), PRICES, surveys).recent_survey_count == 3


def test_the_built_in_engine_costs_nothing():
    free = spec()
    free.models.CopyFrom(pb.ModelChoice(plan=BUILTIN, summarize=BUILTIN, write=BUILTIN, frame=BUILTIN))
    estimate = estimate_of(free, PRICES)

    assert (estimate.cost_nano_usd, estimate.low_cost_nano_usd, estimate.high_cost_nano_usd) == (0, 0, 0)
    assert by_stage(estimate)["summarize"].call_count == 100
    assert not any(stage.input_tokens for stage in estimate.stages)


def test_one_unpriced_model_leaves_the_sum_open_and_the_other_stages_priced():
    wanted = spec()
    wanted.models.plan = "ollama:mine"
    estimate = estimate_of(wanted, PRICES, [])
    stages = by_stage(estimate)

    for name in ("cost_nano_usd", "low_cost_nano_usd", "high_cost_nano_usd"):
        assert not estimate.HasField(name)
        assert not stages["plan"].HasField(name)
        assert stages["summarize"].HasField(name)


def test_vectors_are_estimated_by_their_texts_however_many_were_there_already():
    wanted = spec()
    wanted.models.embed = "own:encoder@16"
    surveys = [done(50) for _ in range(3)]
    for survey in surveys:
        survey.spec.models.embed = "own:encoder@16"
        survey.stages.add(stage=pb.STAGE_EMBED, paper_count=50, cached_count=50)
    estimate = estimate_of(wanted, PRICES, surveys)

    assert estimate.recent_survey_count == 3
    assert by_stage(estimate)["embed"].input_tokens == 35_000


def test_the_month_is_told_where_there_is_a_limit():
    assert estimate_of(spec(), PRICES, (), 5_000).month_left_nano_usd == 5_000
    assert not estimate_of(spec(), PRICES).HasField("month_left_nano_usd")
