from dataclasses import replace

from paperroute.v1 import usage_pb2 as pb

from services.common.paid.call_messages import call_messages
from services.common.paid.ledger_values import CallState, ListedCall
from services.common.paid.prices import PriceSource
from services.common.paid.usage import Usage

OUTCOMES = [value for value in pb.CallOutcome.values() if value]


def a_listed_call(state: CallState = CallState.OK, source: PriceSource = PriceSource.CATALOGUE) -> ListedCall:
    usage = Usage(model="openai:x", input_tokens=7, output_tokens=3, cost_nano_usd=None, is_estimated=True)
    return ListedCall(
        call_id="id",
        survey_id="survey",
        stage="write",
        item="2.3 repair 1",
        state=state,
        started_at=1_700_000_000.25,
        finished_at=None if state is CallState.IN_FLIGHT else 1_700_000_002.5,
        usage=usage,
        price_source=source,
        price_version="v",
        prompt_id="section.v1@0",
        response_id="r",
        worst_nano_usd=12,
    )


def test_every_field_of_a_call_is_told() -> None:
    (message,) = call_messages([a_listed_call()])

    assert (message.call_id, message.survey_id, message.stage, message.item) == (
        "id",
        "survey",
        "write",
        "2.3 repair 1",
    )
    assert (message.model, message.outcome) == ("openai:x", pb.CALL_OUTCOME_OK)
    assert message.started_at.ToMilliseconds() == 1_700_000_000_250
    assert message.finished_at.ToMilliseconds() == 1_700_000_002_500
    assert (message.price_source, message.price_version) == (pb.PRICE_SOURCE_CATALOGUE, "v")
    assert (message.prompt_id, message.response_id) == ("section.v1@0", "r")
    assert message.worst_cost_nano_usd == 12
    usage = message.usage
    assert (usage.call_count, usage.input_tokens, usage.output_tokens) == (1, 7, 3)
    assert usage.source == pb.USAGE_SOURCE_ESTIMATED
    assert not usage.HasField("cost_nano_usd")


def test_a_worst_case_that_nobody_knows_is_not_told_as_zero() -> None:
    (message,) = call_messages([replace(a_listed_call(), worst_nano_usd=None)])

    assert not message.HasField("worst_cost_nano_usd")


def test_a_call_under_way_has_no_end() -> None:
    (message,) = call_messages([a_listed_call(CallState.IN_FLIGHT)])

    assert not message.HasField("finished_at")


def test_there_is_a_state_for_every_outcome_of_the_contract() -> None:
    messages = call_messages([a_listed_call(state) for state in CallState])

    assert sorted(message.outcome for message in messages) == sorted(OUTCOMES)


def test_there_is_a_source_for_every_price_of_the_contract() -> None:
    messages = call_messages([a_listed_call(source=source) for source in PriceSource])

    assert sorted(message.price_source for message in messages) == sorted(pb.PriceSource.values())
