"""What metrics say of model calls: the same as their spans and the ledger, with few attributes and no survey."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ledgers import a_caller
from modelled import World, modelled
from providing import MODELS
from standins.provider_server import (
    bad_body,
    cut_stream,
    drop_connection,
    empty_length,
    overloaded,
    refusal,
    refused_key,
    silent_end,
    stream_error,
)

from services.common.telemetry import metrics, names
from services.common.telemetry.spans import NANO

MESSY = [
    None,
    cut_stream(after=2),
    None,
    refusal(),
    overloaded(),
    stream_error(after=1),
    bad_body(),
    empty_length(),
    silent_end(after=1),
    drop_connection(),
    refused_key(),
]
LUNA = f"openai:{MODELS['openai']}"
CALL = {
    names.OPERATION_NAME: "chat",
    names.PROVIDER_NAME: "openai",
    names.REQUEST_MODEL: MODELS["openai"],
    names.STAGE: "write",
    names.MODEL: LUNA,
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with modelled(tmp_path / "data") as made:
        yield made


async def quietly(call: Any) -> None:
    with contextlib.suppress(Exception):  # what fails is what the test is about
        await call


async def test_spans_counters_and_ledger_say_the_same_of_messy_calls(world: World) -> None:
    for number, provider in enumerate(["openai", "ollama"] * 2):
        world.server.script(MESSY[3 * number :] + MESSY[: 3 * number])
        stages = (("write", f"1.{number}"), ("frame", f"{number}"))
        for stage, item in stages:
            caller = a_caller(stage=stage, item=item)
            await quietly(world.ask(provider, caller=caller, prompt=f"Write of {item}.", is_stream=stage == "write"))
        await quietly(world.embed(provider, "an-encoder", [f"text {number}"]))
        world.server.script([])
        await quietly(world.ask(provider, prompt=f"Write of 1.{number}.", caller=a_caller("survey-2")))

    ledger: Counter[tuple[Any, ...]] = Counter()
    for call in (*await world.listed(), *await world.listed("survey-2")):
        usage, place = call.usage, (call.stage, call.usage.model)
        cost = call.worst_nano_usd if usage.cost_nano_usd is None else usage.cost_nano_usd
        ledger[(*place, "input")] += usage.input_tokens
        ledger[(*place, "output")] += usage.output_tokens
        ledger[(*place, "nano")] += cost or 0
    spans: Counter[tuple[Any, ...]] = Counter()
    for span in world.spans():
        told = span.attributes or {}
        place = (told[names.STAGE], told[names.MODEL])
        spans[(*place, "input")] += told.get(names.INPUT_TOKENS, 0)
        spans[(*place, "output")] += told.get(names.OUTPUT_TOKENS, 0)
        spans[(*place, "nano")] += round(told.get(names.COST_USD, 0) * NANO)
    usd = world.seen.sums("paperroute.cost", names.STAGE, names.MODEL)
    tokens = world.seen.sums("gen_ai.client.token.usage", names.STAGE, names.MODEL, "gen_ai.token.type")
    counters = Counter(tokens) + Counter({(*place, "nano"): round(each * NANO) for place, each in usd.items()})
    assert +spans == +ledger
    assert counters == +ledger
    assert len({place[1] for place in +ledger}) == 4  # models that took something


async def test_each_call_is_counted_once_by_its_outcome(world: World) -> None:
    world.server.script([overloaded(), None, refusal(), empty_length(), None, refused_key()])
    for number in range(5):
        await quietly(world.ask("openai", prompt=f"Write of {number}."))
    await world.ask("openai", prompt="Write of 0.", caller=a_caller("survey-2"))
    world.server.writer = lambda asked: " "
    await world.ask("openai", prompt="Write of nothing.")

    assert world.seen.sums("paperroute.calls", names.STAGE, names.MODEL, names.OUTCOME) == {
        ("write", LUNA, outcome): count
        for outcome, count in {"ok": 3, "refused": 1, "truncated": 1, "failed": 1, "served": 1, "malformed": 1}.items()
    }


async def test_the_conventions_metrics_have_their_attributes_and_no_others(world: World) -> None:
    world.server.script([None, refused_key()])
    await world.ask("openai")
    await quietly(world.ask("openai", prompt="Write of adapters.", is_stream=False))

    (call,) = [each for each in await world.listed() if each.usage.output_tokens]
    durations = world.seen.points("gen_ai.client.operation.duration")
    tokens = world.seen.points("gen_ai.client.token.usage")
    (first,) = world.seen.points("gen_ai.client.operation.time_to_first_chunk")
    assert [dict(each.attributes) for each in durations] == [CALL, CALL | {"error.type": "key_refused"}]
    assert [tuple(each.explicit_bounds) for each in durations] == [names.DURATION_BOUNDS_S] * 2
    assert {each.attributes["gen_ai.token.type"]: (each.count, each.sum) for each in tokens} == {
        "input": (1, call.usage.input_tokens),
        "output": (1, call.usage.output_tokens),
    }
    assert [dict(each.attributes) for each in tokens] == [
        CALL | {"gen_ai.token.type": "input"},
        CALL | {"gen_ai.token.type": "output"},
    ]
    assert (dict(first.attributes), first.count) == (CALL, 1)
    (cost,) = world.seen.points("paperroute.cost")
    assert dict(cost.attributes) == {names.STAGE: "write", names.MODEL: LUNA}


async def test_what_the_ledger_answers_is_no_operation_but_an_avoided_cost(world: World) -> None:
    await world.ask("openai")
    cost = world.seen.sums("paperroute.cost")
    await asyncio.gather(*(world.ask("openai", caller=a_caller(f"survey-{n}")) for n in (2, 3)))

    assert world.seen.counts("gen_ai.client.operation.duration") == {(): 1}
    assert world.seen.sums("paperroute.cost") == cost
    assert world.seen.sums("paperroute.avoided_cost", names.STAGE, names.MODEL) == {
        ("write", LUNA): pytest.approx(2 * cost[()])
    }


async def test_models_that_are_too_many_are_told_as_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers name models; a scrape must not grow with what they make up."""
    monkeypatch.setattr(metrics, "models", metrics.Bounded(1))
    for name in ("gpt-6-luna", "gpt-6-sol", "gpt-6-terra"):
        await world.ask("openai", model=name)

    told = world.seen.counts("gen_ai.client.operation.duration", names.MODEL, "gen_ai.request.model")
    assert told == {("openai:gpt-6-luna", "gpt-6-luna"): 1, ("other", "other"): 2}
    assert len(world.seen.points("paperroute.calls")) == 2
