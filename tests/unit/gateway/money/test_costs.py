"""The last word on what a survey cost is the ledgers'."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2
from played_ledgers import PlayedLedgers

from gateway.document.assemble import SERVED_COUNTS
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


async def test_what_the_ledger_served_stays_as_it_was_told_and_is_no_part_of_what_was_paid():
    """No row of the ledger's is of this survey: only who was served can tell."""
    told = usage(cost=70, served_call_count=2, served_input_tokens=200, avoided_cost_nano_usd=140)
    found, _ = await settled(draft_with(told), call(usage()))

    assert found == [told]


async def test_a_row_that_holds_more_than_the_ledger_comes_down():
    """A worst case that was counted while the call was under way, which then failed and took nothing."""
    draft = draft_with(usage())
    unknown = usage_pb2.ModelUsage(model=MODEL, call_count=1)
    other = usage_pb2.ModelUsage(model=OTHER, call_count=1)
    await settled(draft, call(usage()), call(unknown, IN_FLIGHT, worst=500), call(other, IN_FLIGHT, worst=900))
    before = {each.model: each.cost_nano_usd for each in draft.reports[pb.STAGE_WRITE].usage}
    other.cost_nano_usd = unknown.cost_nano_usd = 0
    found, is_last = await settled(draft, call(usage()), call(unknown, FAILED), call(other, FAILED))

    assert before == {MODEL: 570, OTHER: 900}
    assert (found, is_last) == ([usage()], True)


async def test_models_that_no_ledger_knows_stay_as_they_were_told():
    built_in = usage(BUILTIN, 0, call_count=9)
    found, _ = await settled(draft_with(built_in, usage(cost=1)), call(usage()))

    assert found == [built_in, usage()]


STAGES = {"plan": pb.STAGE_PLAN, "summarize": pb.STAGE_SUMMARIZE, "write": pb.STAGE_WRITE}
models = st.sampled_from([MODEL, OTHER, BUILTIN])
costs = st.none() | st.integers(0, 10**12)
counts = st.integers(0, 10**6)
rows = st.builds(
    usage_pb2.ModelUsage,
    model=models,
    cost_nano_usd=costs,
    **dict.fromkeys(("call_count", "input_tokens", "output_tokens", "reasoning_tokens"), counts),
    **dict.fromkeys(SERVED_COUNTS, counts),
)
calls = st.builds(
    lambda outcome, stage, worst, model, cost, tokens_in, tokens_out: call(
        usage(model, cost, input_tokens=tokens_in, output_tokens=tokens_out), outcome, worst=worst, stage=stage
    ),
    st.sampled_from([OK, IN_FLIGHT, TRUNCATED, FAILED, LOST]),
    st.sampled_from(list(STAGES)),
    costs,
    st.sampled_from([MODEL, OTHER]),
    costs,
    counts,
    counts,
)


def billed(made: list[usage_pb2.RecordedCall]) -> dict[Any, Any]:
    """Return by stage and model what the ledgers hold, worked out by hand: calls, tokens in and out, cost."""
    found: dict[Any, Any] = {}
    for each in made:
        used = each.usage
        worst = each.worst_cost_nano_usd if each.HasField("worst_cost_nano_usd") else None
        cost = used.cost_nano_usd if used.HasField("cost_nano_usd") else worst
        if each.outcome == FAILED and not (used.input_tokens or used.output_tokens or cost):
            continue
        key = (STAGES[each.stage], used.model)
        sums = found.get(key, (0, 0, 0, 0))
        total = None if sums[3] is None or cost is None else sums[3] + cost
        found[key] = (sums[0] + 1, sums[1] + used.input_tokens, sums[2] + used.output_tokens, total)
    return found


@settings(deadline=None)
@given(
    told=st.dictionaries(
        st.sampled_from(list(STAGES.values())), st.lists(rows, max_size=3, unique_by=lambda r: r.model)
    ),
    made=st.lists(calls, max_size=12),
)
def test_settling_makes_the_rows_those_of_the_ledgers_and_doing_it_again_changes_nothing(told: Any, made: Any):
    draft = draft_with()
    draft.reports = {stage: pb.StageReport(stage=stage, usage=usages) for stage, usages in told.items()}
    ledgers = PlayedLedgers(calls=made)
    for _ in range(2):
        is_last = asyncio.run(settle(draft, ledgers.services, "tenant-a"))
        shown = {(stage, each.model): each for stage, report in draft.reports.items() for each in report.usage}
        wanted = billed(made)
        known = {(STAGES[each.stage], each.model) for each in made}

        assert {key: paid_of(each) for key, each in shown.items() if key in known and holds_paid(each)} == wanted
        for stage, usages in told.items():
            for row in usages:
                if (stage, row.model) not in known:
                    assert shown[stage, row.model] == row
                elif any(served_of(row)):
                    assert served_of(shown[stage, row.model]) == served_of(row)
        assert is_last is all(each.outcome != IN_FLIGHT for each in made)


def paid_of(row: usage_pb2.ModelUsage) -> tuple[Any, ...]:
    cost = row.cost_nano_usd if row.HasField("cost_nano_usd") else None
    return row.call_count, row.input_tokens, row.output_tokens, cost


def holds_paid(row: usage_pb2.ModelUsage) -> bool:
    return paid_of(row) != (0, 0, 0, 0)


def served_of(row: usage_pb2.ModelUsage) -> list[int]:
    return [getattr(row, name) for name in SERVED_COUNTS]


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
