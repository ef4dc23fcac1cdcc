"""The last word on what a survey cost is the ledgers'."""

from typing import Any

import pytest
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2
from played_ledgers import PlayedLedgers

from gateway.document.draft import Draft
from gateway.money.costs import may_cost, settle
from services.common.paid.settings import BUILTIN

MODEL, OTHER = "openai:a", "openai:b"
ESTIMATED, TOLD = usage_pb2.USAGE_SOURCE_ESTIMATED, usage_pb2.USAGE_SOURCE_PROVIDER
OK, IN_FLIGHT, TRUNCATED, FAILED, LOST = 2, 1, 3, 6, 7


def usage(model: str = MODEL, cost: int | None = 70, **fields: Any) -> usage_pb2.ModelUsage:
    given = {"call_count": 1, "input_tokens": 100, "output_tokens": 20, "source": TOLD, **fields}
    return usage_pb2.ModelUsage(model=model, cost_nano_usd=cost, **given)


def draft_with(*usages: usage_pb2.ModelUsage, stage: Any = pb.STAGE_WRITE, **models: str) -> Draft:
    chosen = {"plan": BUILTIN, "summarize": BUILTIN, "write": MODEL, "frame": BUILTIN, **models}
    draft = Draft(survey_id="survey-1", spec=pb.SurveySpec(models=pb.ModelChoice(**chosen)), labels={})
    draft.reports[stage] = pb.StageReport(stage=stage, usage=usages)
    return draft


async def settled(draft: Draft, *calls: usage_pb2.RecordedCall) -> tuple[list[usage_pb2.ModelUsage], bool]:
    ledgers = PlayedLedgers(calls=list(calls))
    is_last = await settle(draft, ledgers.services, "tenant-a")
    return list(draft.reports[pb.STAGE_WRITE].usage), is_last


def call(
    used: usage_pb2.ModelUsage, outcome: Any = OK, *, worst: int | None = None, stage: str = "write"
) -> usage_pb2.RecordedCall:
    return usage_pb2.RecordedCall(
        survey_id="survey-1",
        stage=stage,
        model=used.model,
        outcome=outcome,
        usage=used,
        worst_cost_nano_usd=worst,
    )


async def test_what_never_came_back_is_added():
    found, is_last = await settled(draft_with(usage()), call(usage()), call(usage(cost=30)), call(usage(OTHER, 5)))

    assert [(each.model, each.cost_nano_usd, each.call_count) for each in found] == [(MODEL, 100, 2), (OTHER, 5, 1)]
    assert is_last


async def test_answers_that_others_paid_for_stay_counted():
    """They are in no row of this survey's, but their tokens were used and their cost avoided."""
    replayed = usage(cost=70, call_count=3, input_tokens=300, avoided_cost_nano_usd=140)
    found, _ = await settled(draft_with(replayed), call(usage()))

    assert (found[0].call_count, found[0].input_tokens, found[0].avoided_cost_nano_usd) == (3, 300, 140)
    assert found[0].cost_nano_usd == 70


@pytest.mark.parametrize(
    ("outcome", "cost"),
    [
        pytest.param(IN_FLIGHT, 570, id="under way"),
        pytest.param(LOST, 570, id="lost with its process"),
        pytest.param(FAILED, 570, id="timed out"),
        pytest.param(TRUNCATED, 570, id="broke off without a count"),
    ],
)
async def test_what_nobody_knows_counts_at_its_worst_and_is_an_estimate(outcome: Any, cost: int):
    unknown = usage_pb2.ModelUsage(model=MODEL, call_count=1)
    found, is_last = await settled(draft_with(usage()), call(usage()), call(unknown, outcome, worst=500))

    assert (found[0].cost_nano_usd, found[0].source) == (cost, ESTIMATED)
    assert is_last is (outcome != IN_FLIGHT)


async def test_a_worst_case_gives_way_to_what_it_came_to():
    draft = draft_with(usage())
    unknown = usage_pb2.ModelUsage(model=MODEL, call_count=1)
    await settled(draft, call(usage()), call(unknown, IN_FLIGHT, worst=500))
    found, is_last = await settled(draft, call(usage()), call(usage(cost=30)))

    assert (found[0].cost_nano_usd, found[0].source, is_last) == (100, TOLD, True)


async def test_a_call_that_took_nothing_is_no_part_of_the_bill():
    nothing = usage_pb2.ModelUsage(model=OTHER, call_count=1, cost_nano_usd=0)
    found, _ = await settled(draft_with(usage()), call(usage()), call(nothing, FAILED, worst=500))

    assert [each.model for each in found] == [MODEL]


async def test_a_model_without_a_price_stays_unpriced():
    found, _ = await settled(draft_with(usage(cost=None)), call(usage(cost=None)))

    assert not found[0].HasField("cost_nano_usd")


async def test_calls_of_other_stages_are_theirs():
    found, _ = await settled(draft_with(usage()), call(usage()), call(usage(cost=9), stage="plan"))

    assert found[0].cost_nano_usd == 70


async def test_a_stage_whose_report_was_never_kept_is_billed_too():
    """A cancelled run may have begun a call before its report of the stage was durable."""
    draft = draft_with(usage())
    found, is_last = await settled(draft, call(usage()), call(usage(OTHER, 9), stage="summarize"))

    assert [each.cost_nano_usd for each in found] == [70]
    report = draft.reports[pb.STAGE_SUMMARIZE]
    assert [(each.model, each.cost_nano_usd) for each in report.usage] == [(OTHER, 9)]
    assert (report.stage, is_last) == (pb.STAGE_SUMMARIZE, True)


async def test_ledgers_that_do_not_answer_change_nothing():
    draft = draft_with(usage())
    assert not await settle(draft, PlayedLedgers(is_away=True).services, "tenant-a")

    assert draft.reports[pb.STAGE_WRITE].usage[0].cost_nano_usd == 70


def test_vectors_of_search_terms_may_cost():
    """Which encoder makes them is known only from what it took."""
    draft = draft_with(usage("openai:text-embedding-3-large"), stage=pb.STAGE_RETRIEVE, write=BUILTIN)

    assert may_cost(draft)


@pytest.mark.parametrize(
    ("models", "encoder", "is_so"),
    [
        ({}, None, True),
        ({"write": BUILTIN}, None, False),
        ({"write": BUILTIN, "embed": "openai:text-embedding-3-large"}, None, True),
        ({"write": BUILTIN, "embed": "openai:text-embedding-3-large"}, "wordllama:l2_supercat_256", False),
        ({"write": BUILTIN}, "gemini:gemini-embedding-001", True),
    ],
)
def test_only_a_survey_that_calls_providers_may_cost(models: dict[str, str], encoder: str | None, is_so: bool):
    draft = draft_with(**models)
    draft.vectors = embedding_pb.EmbedPapersResponse(encoder=encoder) if encoder else None

    assert may_cost(draft) is is_so
