"""What SurveyService promises about models: which are asked, what they may cost, what is marked when one stands in."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import MODEL, Fakes, Gate, fails, papers
from gateways import SPEC, Gateway, gateway_with
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_pb2, writing_pb2

from gateway.document.export_markdown import markdown_of
from services.common.errors import BudgetReached, reason_in, violations_in

BUILTIN = "extractive:builtin"
LUNA, SONNET = "openai:gpt-6-luna", "anthropic:claude-sonnet-5-5"
PAID = pb.ModelChoice(plan=LUNA, summarize=LUNA, write=f"{SONNET},{LUNA}", frame=LUNA)


@pytest.fixture
async def gateway(tmp_path: Path):
    async with gateway_with(Fakes(), tmp_path) as made:
        yield made


def asked(gateway: Gateway, method: str) -> list[Any]:
    return gateway.fakes.requests[method]


def spec(**fields: Any) -> pb.SurveySpec:
    return pb.SurveySpec(question=SPEC.question, **fields)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def test_the_spec_names_the_models_that_no_request_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who reads a survey later sees what made it, whatever the settings are by then."""
    monkeypatch.setenv("PAPERROUTE_MODELS__WRITE", SONNET)
    async with gateway_with(Fakes(), tmp_path) as gateway:
        survey = await gateway.finished(spec(models=pb.ModelChoice(plan=LUNA)))

        assert survey.spec.models == pb.ModelChoice(plan=LUNA, summarize=BUILTIN, write=SONNET, frame=BUILTIN)
        assert {request.model for request in asked(gateway, "WriteSection")} == {SONNET}
        assert {request.model for request in asked(gateway, "SummarizePaper")} == {BUILTIN}


async def test_what_the_spec_says_of_models_reaches_the_services(gateway: Gateway):
    await gateway.finished(
        spec(models=PAID, plan_candidates=10, summary_style=writing_pb2.SUMMARY_STYLE_PLAIN, cache_off=True)
    )

    assert asked(gateway, "PlanSearch")[0].plan_candidates == 10
    assert {each.style for each in asked(gateway, "SummarizePaper")} == {writing_pb2.SUMMARY_STYLE_PLAIN}
    assert {each.model for each in asked(gateway, "WriteSection")} == {PAID.write}
    methods = ("PlanSearch", "SummarizePaper", "WriteSection", "WriteFrame")
    assert all(each.call.cache_off for method in methods for each in asked(gateway, method))


async def test_broken_and_forbidden_models_are_named_all_at_once(tmp_path: Path):
    models = pb.ModelChoice(plan="gpt", summarize="openai:x,bad", write=f"{LUNA},{SONNET}", embed="a:b,c:d")
    async with gateway_with(Fakes(), tmp_path, allowed_models="openai:*, extractive:builtin") as gateway:
        request = service_pb.CreateSurveyRequest(spec=spec(models=models, plan_candidates=21))
        failure = await refused(gateway.stub.CreateSurvey(request, timeout=5))

    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = {violation.field: violation.description for violation in violations_in(failure)}
    assert set(found) == {
        "spec.plan_candidates", "spec.models.embed", "spec.models.plan", "spec.models.summarize", "spec.models.write",
    }  # fmt: skip
    assert SONNET in found["spec.models.write"]


async def test_the_baseline_is_one_call_over_the_whole_route(gateway: Gateway):
    survey = await gateway.finished(spec(writer=pb.WRITER_SINGLE))

    (request,) = asked(gateway, "WriteSection")
    assert request.form == generation_pb.SECTION_FORM_SINGLE
    assert [paper.key for paper in request.papers] == [f"P{number}" for number in range(1, 21)]
    assert "WriteFrame" not in gateway.fakes.requests
    assert survey.state == pb.SURVEY_STATE_DONE
    assert survey.title == "Section 1.1"
    assert (len(survey.chapters), survey.coverage.cited_count) == (1, 20)
    assert "##" not in markdown_of(survey).split("## References")[0].replace("# Section", "", 1)


async def test_a_section_another_model_wrote_is_marked(tmp_path: Path):
    fakes = Fakes(section_fields={"fallback_reason": "openai:a declined to answer"})
    async with gateway_with(fakes, tmp_path) as gateway:
        survey = await gateway.finished()

    section = survey.chapters[0].sections[0]
    assert (section.model, section.fallback_reason) == (MODEL, "openai:a declined to answer")
    assert survey.coverage.fallback_section_count == 4
    assert "Written by fake:writer: openai:a declined to answer." in markdown_of(survey)
    assert "stood in for the one asked for: 4" in survey.footer


async def test_sentences_the_papers_do_not_bear_out_are_counted_and_shown(tmp_path: Path):
    flags = [
        writing_pb2.TextFlag(kind=writing_pb2.TEXT_FLAG_KIND_UNSUPPORTED, sentence="99.9 % [P1].", terms=["99.9"]),
        writing_pb2.TextFlag(kind=writing_pb2.TEXT_FLAG_KIND_FROM_MEMORY, sentence="Like FooNet.", terms=["FooNet"]),
    ]
    async with gateway_with(Fakes(section_fields={"flags": flags}), tmp_path) as gateway:
        survey = await gateway.finished()

    assert (survey.coverage.unsupported_count, survey.coverage.from_memory_count) == (4, 4)
    assert list(survey.chapters[0].sections[0].flags) == flags
    assert "Not found in the papers cited: 99.9, FooNet." in markdown_of(survey)


async def test_each_summary_names_its_model(gateway: Gateway):
    survey = await gateway.finished()

    assert {paper.summary_model for paper in survey.papers} == {MODEL}


async def test_an_estimate_names_calls_tokens_and_cost_and_asks_nobody(gateway: Gateway):
    request = service_pb.EstimateSurveyRequest(spec=spec(models=PAID, max_papers=100))
    estimate = await gateway.stub.EstimateSurvey(request, timeout=5)

    by_stage = {pb.Stage.Name(each.stage).removeprefix("STAGE_").lower(): each for each in estimate.stages}
    assert list(by_stage) == ["plan", "summarize", "write", "frame"]
    assert (by_stage["summarize"].call_count, by_stage["write"].model) == (100, SONNET)
    assert estimate.cost_nano_usd == sum(each.cost_nano_usd for each in estimate.stages) > 0
    assert estimate.paper_count == 100
    assert not gateway.fakes.requests


async def test_a_remote_encoder_is_part_of_the_estimate_and_one_of_this_machine_is_not(gateway: Gateway):
    remote = spec(models=pb.ModelChoice(embed="openai:text-embedding-3-large"), max_papers=150)
    local = spec(models=pb.ModelChoice(embed="wordllama:l2_supercat_256"))
    found = [
        (await gateway.stub.EstimateSurvey(service_pb.EstimateSurveyRequest(spec=each), timeout=5)).stages
        for each in (remote, local)
    ]

    embed = next(stage for stage in found[0] if stage.stage == pb.STAGE_EMBED)
    assert (embed.model, embed.call_count) == ("openai:text-embedding-3-large", 2)
    assert embed.cost_nano_usd > 0
    assert pb.STAGE_EMBED not in [stage.stage for stage in found[1]]


async def test_an_unknown_price_makes_the_estimate_unknown(gateway: Gateway):
    request = service_pb.EstimateSurveyRequest(spec=spec(models=pb.ModelChoice(write="ollama:mine")))
    estimate = await gateway.stub.EstimateSurvey(request, timeout=5)

    assert not estimate.HasField("cost_nano_usd")
    assert [each.HasField("cost_nano_usd") for each in estimate.stages] == [True, True, False, True]


async def test_an_estimate_without_paid_models_is_zero(gateway: Gateway):
    estimate = await gateway.stub.EstimateSurvey(service_pb.EstimateSurveyRequest(spec=SPEC), timeout=5)

    assert estimate.cost_nano_usd == 0
    assert not any(stage.input_tokens for stage in estimate.stages)


async def test_a_section_is_written_again_by_another_model(gateway: Gateway):
    survey_id = (await gateway.finished()).survey_id
    gateway.fakes.text_of = lambda request: f"Better, and only [{request.papers[0].key}]."
    request = service_pb.RewriteSectionRequest(survey_id=survey_id, chapter_number=2, section_number=1, model=SONNET)

    survey = (await gateway.stub.RewriteSection(request, timeout=5)).survey

    assert asked(gateway, "WriteSection")[-1].model == SONNET
    assert survey.chapters[1].sections[0].text.startswith("Better, and only (")
    assert len(survey.chapters[1].sections[0].listed_keys) == 4
    assert survey.coverage.cited_count == 16
    stages = {stage.stage: stage for stage in survey.stages}
    assert stages[pb.STAGE_WRITE].usage[0].call_count == 5
    assert await gateway.get(survey_id) == survey


async def test_each_rewriting_is_another_draw(gateway: Gateway):
    """The same model asked again must not be served the text that is there already."""
    survey_id = (await gateway.finished()).survey_id
    request = service_pb.RewriteSectionRequest(survey_id=survey_id, chapter_number=1, section_number=1)

    for _ in range(2):
        await gateway.stub.RewriteSection(request, timeout=5)

    assert [each.sample_seed for each in asked(gateway, "WriteSection")[-2:]] == [1, 2]


async def test_a_rewriting_that_fails_leaves_the_section_and_tells_why(gateway: Gateway):
    before = await gateway.finished()
    gateway.fakes.before["WriteSection"] = fails(grpc.StatusCode.RESOURCE_EXHAUSTED)
    request = service_pb.RewriteSectionRequest(survey_id=before.survey_id, chapter_number=1, section_number=1)

    failure = await refused(gateway.stub.RewriteSection(request, timeout=5))

    assert failure.code() is not grpc.StatusCode.INVALID_ARGUMENT
    assert await gateway.get(before.survey_id) == before


async def test_a_survey_under_way_is_not_rewritten(tmp_path: Path):
    gate = Gate()
    async with gateway_with(Fakes(before={"SearchPapers": gate}), tmp_path) as gateway:
        survey_id = await gateway.create()
        request = service_pb.RewriteSectionRequest(survey_id=survey_id, chapter_number=1, section_number=1)
        failure = await refused(gateway.stub.RewriteSection(request, timeout=5))
        gate.opened.set()

    assert (failure.code(), reason_in(failure)) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param({"chapter_number": 9, "section_number": 1}, grpc.StatusCode.NOT_FOUND, id="no such chapter"),
        pytest.param({"chapter_number": 1}, grpc.StatusCode.INVALID_ARGUMENT, id="no section"),
        pytest.param(
            {"chapter_number": 1, "section_number": 1, "model": "x"}, grpc.StatusCode.INVALID_ARGUMENT, id="no model"
        ),
    ],
)
async def test_what_cannot_be_rewritten_is_told(gateway: Gateway, fields: dict[str, Any], code: grpc.StatusCode):
    survey = await gateway.finished()
    request = service_pb.RewriteSectionRequest(survey_id=survey.survey_id, **fields)

    assert (await refused(gateway.stub.RewriteSection(request, timeout=5))).code() is code


async def test_costs_the_pipeline_did_not_see_are_added_from_the_ledger(tmp_path: Path):
    """An answer that was paid for and lost on its way back is part of the bill."""
    lost = usage_pb2.ModelUsage(model=MODEL, call_count=1, input_tokens=1_000, cost_nano_usd=9_000)
    fakes = Fakes(recorded=[usage_pb2.RecordedCall(stage="plan", outcome=usage_pb2.CALL_OUTCOME_OK, usage=lost)])
    async with gateway_with(fakes, tmp_path) as gateway:
        survey = await gateway.finished(spec(models=PAID))

    plan = survey.stages[0].usage[0]
    assert (plan.cost_nano_usd, plan.input_tokens) == (9_000, 1_000)


async def test_a_call_that_brought_nothing_is_no_part_of_the_bill(tmp_path: Path):
    """One whose process died may have cost something: it stays, and its price is unknown."""
    nothing = usage_pb2.ModelUsage(model="ollama:mine", call_count=1)
    recorded = [
        usage_pb2.RecordedCall(stage=stage, outcome=outcome, usage=nothing)
        for stage, outcome in (("plan", usage_pb2.CALL_OUTCOME_FAILED), ("write", usage_pb2.CALL_OUTCOME_LOST))
    ]
    async with gateway_with(Fakes(recorded=recorded), tmp_path) as gateway:
        survey = await gateway.finished(spec(models=PAID))

    models = {pb.Stage.Name(stage.stage): [usage.model for usage in stage.usage] for stage in survey.stages}
    assert models["STAGE_PLAN"] == [MODEL]
    assert models["STAGE_WRITE"] == [MODEL, "ollama:mine"]
    assert not next(usage for usage in survey.usage if usage.model == "ollama:mine").HasField("cost_nano_usd")


async def test_a_cancelled_survey_is_billed_for_calls_that_were_under_way(tmp_path: Path):
    """They are paid for whether or not anybody waits for them."""
    gate = Gate()
    fakes = Fakes(before={"SummarizePaper": gate}, found=papers(2))
    async with gateway_with(fakes, tmp_path) as gateway:
        survey_id = await gateway.create(spec(models=PAID))
        await gate.entered.wait()
        paid = usage_pb2.ModelUsage(model=LUNA, call_count=1, input_tokens=5, cost_nano_usd=500)
        fakes.recorded = [usage_pb2.RecordedCall(stage="summarize", outcome=usage_pb2.CALL_OUTCOME_OK, usage=paid)]
        await gateway.stub.CancelSurvey(service_pb.CancelSurveyRequest(survey_id=survey_id), timeout=5)
        async with asyncio.timeout(20):
            while not (usage := summarize_usage(await gateway.get(survey_id))):
                await asyncio.sleep(0.02)

    assert usage[0].cost_nano_usd == 500


def summarize_usage(survey: pb.Survey) -> list[usage_pb2.ModelUsage]:
    return [usage for stage in survey.stages if stage.stage == pb.STAGE_SUMMARIZE for usage in stage.usage]


async def test_a_budget_with_a_model_without_a_price_is_refused_at_once(gateway: Gateway):
    """It could not be kept."""
    request = service_pb.CreateSurveyRequest(spec=spec(models=pb.ModelChoice(write="ollama:mine"), max_cost_nano_usd=9))
    failure = await refused(gateway.stub.CreateSurvey(request, timeout=5))

    assert (failure.code(), reason_in(failure)) == (grpc.StatusCode.FAILED_PRECONDITION, "UNPRICED")
    assert not gateway.fakes.requests


async def test_each_call_is_granted_its_part_of_the_budget(gateway: Gateway):
    """Handed the whole to each, two side by side could spend it twice."""
    limit = 10**9
    await gateway.finished(spec(models=PAID, max_cost_nano_usd=limit))

    granted = [each.call.max_cost_nano_usd for each in asked(gateway, "SummarizePaper")]
    assert len(granted) == 20
    assert all(each.call.HasField("max_cost_nano_usd") for each in asked(gateway, "SummarizePaper"))
    assert 0 < sum(granted) <= limit


async def test_a_stage_that_was_short_of_money_says_so_and_the_survey_is_done(tmp_path: Path):
    fakes = Fakes(section_fields={"budget_reached": True, "fallback_reason": "the budget does not allow it"})
    async with gateway_with(fakes, tmp_path) as gateway:
        survey = await gateway.finished(spec(models=PAID, max_cost_nano_usd=10**7))

    reached = {pb.Stage.Name(stage.stage) for stage in survey.stages if stage.budget_reached}
    assert (survey.state, survey.budget_reached, reached) == (pb.SURVEY_STATE_DONE, True, {"STAGE_WRITE"})
    assert survey.coverage.fallback_section_count == 4


async def test_a_budget_that_does_not_allow_the_encoder_leaves_it_to_the_local_one(tmp_path: Path):
    async def too_dear(request: Any) -> None:
        if request.encoder.startswith("openai:"):
            raise BudgetReached(1)

    fakes = Fakes(before={"EmbedPapers": too_dear})
    models = pb.ModelChoice(embed="openai:text-embedding-3-large")
    async with gateway_with(fakes, tmp_path) as gateway:
        survey = await gateway.finished(spec(models=models, max_cost_nano_usd=10))

    assert asked(gateway, "EmbedPapers")[-1].encoder == "wordllama:l2_supercat_256"
    assert (survey.state, survey.budget_reached) == (pb.SURVEY_STATE_DONE, True)


async def test_an_estimate_is_fitted_to_the_tenants_own_surveys(tmp_path: Path):
    async with gateway_with(Fakes(found=papers(8)), tmp_path) as gateway:
        request = service_pb.EstimateSurveyRequest(spec=spec(models=PAID, max_papers=8))
        general = await gateway.stub.EstimateSurvey(request, timeout=5)
        for _ in range(3):
            await gateway.finished(spec(models=PAID, max_papers=8))
        fitted = await gateway.stub.EstimateSurvey(request, timeout=5)

    assert (general.recent_survey_count, fitted.recent_survey_count) == (0, 3)
    for each in (general, fitted):
        assert 0 < each.low_cost_nano_usd <= each.cost_nano_usd <= each.high_cost_nano_usd
    assert fitted.cost_nano_usd < general.cost_nano_usd  # the fakes take ten tokens a call
    assert not fitted.HasField("month_left_nano_usd")
