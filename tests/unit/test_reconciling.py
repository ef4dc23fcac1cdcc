"""The instrument of the reconciliation tells a difference of one token, one nano-dollar, one call."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from paid_platform import PRICES
from paperroute.v1 import usage_pb2
from reconciling import COUNTED, NANO, Counters, Took, counters_apart, provider_apart, rows_apart

from services.common.paid.prices import PriceBook
from services.common.paid.usage import TokenUsage

CALL = usage_pb2.RecordedCall(
    stage="write",
    model="openai:openai-write",
    outcome=usage_pb2.CALL_OUTCOME_OK,
    response_id="chatcmpl-00000007",
    usage=usage_pb2.ModelUsage(
        call_count=1, input_tokens=100, output_tokens=10, source=usage_pb2.USAGE_SOURCE_PROVIDER
    ),
    worst_cost_nano_usd=900_000,
)
ASKED = {"provider": "openai", "model": "openai-write", "status": 200, "answer_id": "00000007"}
TOOK = {"input": 100, "cached": 0, "cache_write": 0, "output": 10, "reasoning": 0}


@pytest.mark.parametrize(
    ("ledger", "log", "told"),
    [
        pytest.param({}, [TOOK], [], id="nothing"),
        pytest.param({"output_tokens": 11}, [TOOK], ["ledger"], id="a token"),
        pytest.param({"cost_nano_usd": 1}, [TOOK], ["ledger"], id="a nano-dollar"),
        pytest.param({}, [TOOK, TOOK], ["answered 1 calls that 0 rows"], id="a call that no ledger has"),
        pytest.param({"source": usage_pb2.USAGE_SOURCE_ESTIMATED}, [TOOK], [], id="an estimate within the worst case"),
        pytest.param(
            {"source": usage_pb2.USAGE_SOURCE_ESTIMATED}, [{**TOOK, "output": 10**6}], ["at worst"], id="more than that"
        ),
    ],
)
def test_what_the_provider_counted_otherwise_is_told(
    ledger: dict[str, int], log: list[dict[str, int]], told: list[str]
):
    prices = PriceBook(PRICES)
    tokens = TokenUsage(input_tokens=100, output_tokens=10)
    call = usage_pb2.RecordedCall()
    call.CopyFrom(CALL)
    call.usage.cost_nano_usd = prices.price(CALL.model, tokens, at=datetime.now(UTC)).cost_nano_usd or 0
    for name, value in ledger.items():
        setattr(call.usage, name, value)

    differences, _ = provider_apart([call], [{**ASKED, **each} for each in log], prices)

    assert len(differences) == len(told)
    assert all(part in line for part, line in zip(told, differences, strict=True))


@pytest.mark.parametrize("field", COUNTED)
def test_every_field_of_a_row_is_compared(field: str):
    rows = {("write", "openai:a"): Took(call_count=2, input_tokens=5, cost_nano_usd=None)}
    other = {place: replace(took, **{field: 7}) for place, took in rows.items()}

    assert rows_apart(rows, rows) == []
    assert field in rows_apart(rows, other)[0]
    assert len(rows_apart(rows, {})) == len(rows_apart({}, rows)) == 1


@pytest.mark.parametrize("seen", [(104, 10, 3), (105, 9, 3), (105, 10, 2)], ids=["tokens in", "tokens out", "cost"])
def test_what_counters_say_otherwise_is_told(seen: tuple[int, int, int]):
    place = ("write", "openai:a")
    rows = [{place: Took(input_tokens=100, output_tokens=10, cost_nano_usd=3)}, {place: Took(input_tokens=5)}]

    assert counters_apart(counters(place, 1, 1, 1), counters(place, 106, 11, 4), rows) == []
    assert len(counters_apart(counters(place, 0, 0, 0), counters(place, *seen), rows)) == 1


def counters(place: tuple[str, str], tokens_in: int, tokens_out: int, nano: int) -> Counters:
    return Counters(tokens={(*place, "input"): tokens_in, (*place, "output"): tokens_out}, usd={place: nano / NANO})
