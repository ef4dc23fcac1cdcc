"""The span of a model call: one for all its attempts, with what the conventions ask for and what it cost."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ledgers import COST, WORST_COST, Ledgers, a_call, a_caller, a_reply, file_ledgers  # noqa: F401  # a fixture
from ledgers import Provider as Scripted
from modelled import DIMENSION, PROMPT_ID, World, modelled
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from providing import KEY, MODELS
from pydantic import BaseModel
from standins.provider_server import (
    Fault,
    cut_stream,
    empty_length,
    overloaded,
    quota_spent,
    rate_limited,
    refusal,
    refused_key,
)
from telemetered import telemetered

from services.common.errors import BudgetReached
from services.common.paid.faults import FaultKind, ProviderFault
from services.common.paid.ledger_values import ListedCall
from services.common.telemetry import names
from services.common.telemetry.model_calls import trace_content
from services.common.telemetry.spans import NANO, span
from services.generation.llm.chat_model import Refused

SECRET = "What has nobody but me asked about LoRA?"
PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini", "ollama": "custom"}


class Form(BaseModel):
    """A form to answer in."""

    terms: list[str]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with modelled(tmp_path / "data") as made:
        yield made


def told(found: ReadableSpan, *attributes: str) -> tuple[Any, ...]:
    return tuple((found.attributes or {}).get(name) for name in attributes)


def events(found: ReadableSpan, name: str) -> list[dict[str, Any]]:
    return [dict(event.attributes or {}) for event in found.events if event.name == name]


def cost_of(calls: Sequence[ListedCall]) -> int:
    """Return what calls are billed with: those of unknown cost at their worst."""
    costs = (call.worst_nano_usd if call.usage.cost_nano_usd is None else call.usage.cost_nano_usd for call in calls)
    return sum(cost or 0 for cost in costs)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_span_says_what_was_asked_and_what_it_took(provider: str, world: World) -> None:
    with span("rpc") as rpc:
        await world.ask(provider, caller=a_caller(item="2.3 repair 1"), seed=7)

    (call,), found = await world.listed(), world.span()
    attributes = dict(found.attributes or {})
    cost = None if call.usage.cost_nano_usd is None else call.usage.cost_nano_usd / NANO
    assert (found.name, found.kind) == (f"chat {MODELS[provider]}", SpanKind.CLIENT)
    assert found.parent
    assert found.parent.span_id == rpc.get_span_context().span_id
    assert found.status.status_code is StatusCode.UNSET
    assert attributes.pop(names.RESPONSE_FIRST_CHUNK_S) >= 0
    assert attributes.pop(names.COST_USD, None) == cost
    assert attributes.pop(names.UNPRICED, None) == (None if cost else (f"{provider}:{MODELS[provider]}",))
    assert attributes == {
        names.OPERATION_NAME: "chat",
        names.PROVIDER_NAME: PROVIDERS[provider],
        names.REQUEST_MODEL: MODELS[provider],
        names.REQUEST_MAX_TOKENS: 500,
        names.REQUEST_SEED: 7,
        names.REQUEST_STREAM: True,
        names.OUTPUT_TYPE: "text",
        names.SERVER_ADDRESS: "127.0.0.1",
        names.SERVER_PORT: urlsplit(world.server.openai_url).port,
        names.RESPONSE_ID: call.response_id,
        names.RESPONSE_MODEL: MODELS[provider],
        names.FINISH_REASONS: ("stop",),
        names.CALL_COUNT: 1,
        names.INPUT_TOKENS: call.usage.input_tokens,
        names.OUTPUT_TOKENS: call.usage.output_tokens,
        names.CACHE_READ_TOKENS: 0,
        names.CACHE_WRITE_TOKENS: 0,
        names.REASONING_TOKENS: 0,
        names.IS_ESTIMATED: False,
        names.MODEL: f"{provider}:{MODELS[provider]}",
        names.STAGE: "write",
        names.SURVEY_ID: "survey-1",
        names.TENANT: "tenant-a",
        names.ITEM: "2.3 repair 1",
        names.PROMPT_ID: PROMPT_ID,
        names.OUTCOME: "ok",
    }


@pytest.mark.parametrize(
    ("endpoint", "address", "port"),
    [
        pytest.param("https://api.openai.com/v1", "api.openai.com", 443, id="the port of https"),
        pytest.param("http://ollama/v1", "ollama", 80, id="the port of http"),
        pytest.param("http://[::1]:8000", "::1", 8000, id="version 6"),
        pytest.param("http://host:99999", None, None, id="no port there is"),
    ],
)
async def test_the_server_is_told_as_it_is_addressed(
    endpoint: str,
    address: str | None,
    port: int | None,
    file_ledgers: Ledgers,  # noqa: F811
) -> None:
    with telemetered() as seen:
        await file_ledgers.calls().run(replace(a_call(), endpoint=endpoint), a_caller(), Scripted().send)

    assert told(seen.spans[0], names.SERVER_ADDRESS, names.SERVER_PORT) == (address, port)


async def test_json_in_one_piece_is_told_from_a_text_that_is_streamed(world: World) -> None:
    await world.ask("openai", is_stream=False, schema=Form)

    wanted = (names.OUTPUT_TYPE, names.REQUEST_STREAM, names.REQUEST_SEED, names.RESPONSE_FIRST_CHUNK_S)
    assert told(world.span(), *wanted) == ("json", False, None, None)


@pytest.mark.parametrize(
    ("provider", "model", "name", "is_estimated"),
    [
        pytest.param("openai", "text-embedding-3-large", "openai", False, id="openai"),
        pytest.param("gemini", "gemini-embedding-001", "gcp.gemini", True, id="gemini, which counts no tokens"),
        pytest.param("ollama", "nomic-embed-text", "custom", False, id="a server of the operator's"),
    ],
)
async def test_embeddings_are_told_like_chats(
    provider: str, model: str, name: str, is_estimated: bool, world: World
) -> None:
    await world.embed(provider, model, ["one text", "another text"])

    (call,), found = await world.listed(), world.span()
    assert (found.name, found.kind) == (f"embeddings {model}", SpanKind.CLIENT)
    wanted = (names.OPERATION_NAME, names.PROVIDER_NAME, names.EMBEDDING_DIMENSION, names.STAGE, names.ITEM)
    assert told(found, *wanted) == ("embeddings", name, DIMENSION, "embed", "texts 1")
    assert told(found, names.INPUT_TOKENS, names.IS_ESTIMATED) == (call.usage.input_tokens, is_estimated)
    assert told(found, names.OUTPUT_TYPE, names.REQUEST_STREAM, names.FINISH_REASONS) == (None, None, None)
    assert world.seen.sums("gen_ai.client.token.usage", "gen_ai.token.type") == {("input",): call.usage.input_tokens}


async def test_retries_are_events_of_the_one_span(world: World) -> None:
    world.server.script([overloaded(), rate_limited(retry_after=0.05, form="ms"), None])

    await world.ask("openai")

    found = world.span()
    retries = events(found, names.RETRY)
    assert [(each[names.ERROR_TYPE], each[names.ATTEMPT]) for each in retries] == [("overloaded", 2), ("rate_limit", 3)]
    assert retries[1][names.WAIT_S] >= 0.05
    assert told(found, names.OUTCOME, names.ERROR_TYPE, names.CALL_COUNT) == ("ok", None, 1)
    model = f"openai:{MODELS['openai']}"
    assert world.seen.sums("paperroute.retries", names.MODEL, "error.type") == {
        (model, "overloaded"): 1,
        (model, "rate_limit"): 1,
    }


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_that_broke_is_paid_for_with_the_answer_that_followed(provider: str, world: World) -> None:
    world.server.script([cut_stream(after=3)])

    await world.ask(provider)

    calls, found = await world.listed(), world.span()
    assert len(calls) == 2
    wanted = (names.CALL_COUNT, names.INPUT_TOKENS, names.OUTPUT_TOKENS, names.IS_ESTIMATED)
    assert told(found, *wanted) == (
        2,
        sum(call.usage.input_tokens for call in calls),
        sum(call.usage.output_tokens for call in calls),
        True,  # what broke was counted by us
    )
    assert round((told(found, names.COST_USD)[0] or 0) * NANO) == cost_of(calls)
    assert [each[names.ERROR_TYPE] for each in events(found, names.RETRY)] == ["truncated"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_that_is_no_use_is_told_by_its_outcome(provider: str, world: World) -> None:
    world.server.script([refusal(), empty_length(), None])
    with contextlib.suppress(Refused):
        await world.ask(provider)
    await world.ask(provider, prompt="Write of adapters.")

    outcomes = [told(each, names.OUTCOME, names.FINISH_REASONS, names.ERROR_TYPE) for each in world.spans()]
    assert outcomes == [
        ("refused", ("content_filter",), None),
        ("truncated", ("length",), None),
        ("ok", ("stop",), None),  # asked again with more room
    ]
    assert sum(round((told(each, names.COST_USD)[0] or 0) * NANO) for each in world.spans()) == cost_of(
        await world.listed()
    )


async def test_an_answer_in_no_form_is_malformed(world: World) -> None:
    world.server.writer = lambda asked: " "

    await world.ask("openai")

    assert told(world.span(), names.OUTCOME, names.CALL_COUNT) == ("malformed", 1)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [pytest.param(refused_key(), "key_refused", id="key"), pytest.param(quota_spent(), "quota", id="quota")],
)
async def test_a_call_that_failed_says_why_and_costs_nothing(fault: Fault, kind: str, world: World) -> None:
    world.server.script([fault])
    with pytest.raises(Exception, match="openai:"):
        await world.ask("openai")

    found = world.span()
    assert found.status.status_code is StatusCode.ERROR
    assert told(found, names.OUTCOME, names.ERROR_TYPE) == ("failed", kind)
    assert told(found, names.COST_USD, names.INPUT_TOKENS, names.CALL_COUNT) == (None, None, None)


async def test_an_answer_of_the_ledger_avoids_its_cost_and_takes_nothing(world: World) -> None:
    await world.ask("openai")
    await world.ask("openai", caller=a_caller("survey-2"))

    (call,), (paid, served) = await world.listed(), world.spans()
    assert told(served, names.OUTCOME, names.SURVEY_ID) == ("served", "survey-2")
    assert told(served, names.AVOIDED_COST_USD) == told(paid, names.COST_USD) == (call.usage.cost_nano_usd / NANO,)
    usage = (names.COST_USD, names.INPUT_TOKENS, names.OUTPUT_TOKENS, names.CALL_COUNT, names.RESPONSE_ID)
    assert told(served, *usage) == (None,) * len(usage)


async def test_who_paid_avoids_nothing_when_it_is_served_again(world: World) -> None:
    await world.ask("openai")
    await world.ask("openai")

    again = world.spans()[1]
    assert told(again, names.OUTCOME, names.AVOIDED_COST_USD, names.COST_USD) == ("served", 0.0, None)


async def test_who_asks_the_same_meanwhile_has_a_span_of_its_own(file_ledgers: Ledgers) -> None:  # noqa: F811
    calls, provider = file_ledgers.calls(), Scripted.shut()
    with telemetered() as seen:
        tasks = [asyncio.create_task(calls.run(a_call(), a_caller(f"survey-{n}"), provider.send)) for n in range(3)]
        await provider.asked.wait()
        provider.gate.set()
        await asyncio.gather(*tasks)

    found = {told(each, names.SURVEY_ID, names.OUTCOME, names.COST_USD, names.AVOIDED_COST_USD) for each in seen.spans}
    cost = COST / NANO
    assert found == {
        ("survey-0", "ok", cost, None),
        ("survey-1", "served", None, cost),
        ("survey-2", "served", None, cost),
    }


async def test_a_call_goes_on_when_its_caller_leaves_and_so_does_its_span(file_ledgers: Ledgers) -> None:  # noqa: F811
    calls, provider = file_ledgers.calls(), Scripted.shut()
    with telemetered() as seen:
        task = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
        await provider.asked.wait()
        task.cancel()
        await asyncio.wait([task])
        ended_with_its_caller = len(seen.spans)
        provider.gate.set()
        await calls.close()  # waits for it

    (found,) = seen.spans
    assert ended_with_its_caller == 0
    assert told(found, names.OUTCOME, names.COST_USD, names.ERROR_TYPE) == ("ok", COST / NANO, None)


async def test_a_call_that_nobody_waited_for_any_more_and_was_not_sent_is_no_call(
    file_ledgers: Ledgers,  # noqa: F811
) -> None:
    calls, provider = file_ledgers.calls(), Scripted()
    with telemetered() as seen:
        caller = a_caller(budget=WORST_COST - 1)
        with pytest.raises(BudgetReached):
            await calls.run(a_call(), caller, provider.send)

        assert seen.sums("paperroute.calls", names.OUTCOME) == {}
    (found,) = seen.spans
    assert told(found, names.OUTCOME, names.ERROR_TYPE, names.COST_USD) == (None, "BudgetReached", None)
    assert provider.count == 0


async def test_what_nobody_knows_the_cost_of_counts_at_its_worst(file_ledgers: Ledgers) -> None:  # noqa: F811
    silent = ProviderFault(FaultKind.TIMEOUT, "own:model", "no answer")
    calls = file_ledgers.calls()
    with telemetered() as seen:
        await calls.run(a_call(), a_caller(), Scripted([silent]).send)
        with pytest.raises(ProviderFault):
            await calls.run(a_call("another"), a_caller(), Scripted([silent, silent]).send)
        cost = seen.sums("paperroute.cost", names.MODEL)

    answered, failed = seen.spans
    wanted = (names.OUTCOME, names.COST_USD, names.IS_ESTIMATED, names.ERROR_TYPE)
    assert told(answered, *wanted) == ("ok", (COST + WORST_COST) / NANO, True, None)
    assert told(failed, *wanted) == ("failed", 2 * WORST_COST / NANO, True, "timeout")
    assert round(cost["own:model",] * NANO) == cost_of(await file_ledgers.listed())


async def test_a_call_that_goes_down_with_its_process_is_lost_at_its_worst(
    file_ledgers: Ledgers,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.common.paid.calls.DRAIN_S", 0.0)
    calls, provider = file_ledgers.calls(), Scripted.shut()
    with telemetered() as seen:
        task = asyncio.create_task(calls.run(a_call(), a_caller(), provider.send))
        await provider.asked.wait()
        await calls.close()
        await asyncio.wait([task])

    (found,) = seen.spans
    assert told(found, names.OUTCOME, names.COST_USD, names.IS_ESTIMATED) == ("lost", WORST_COST / NANO, True)


async def test_an_unpriced_call_is_marked_and_not_free(world: World) -> None:
    await world.ask("ollama")

    model = f"ollama:{MODELS['ollama']}"
    assert told(world.span(), names.UNPRICED, names.COST_USD) == ((model,), None)
    assert world.seen.sums("paperroute.calls.unpriced", names.MODEL) == {(model,): 1}
    assert world.seen.sums("paperroute.cost") == {}


def everything(world: World) -> str:
    """Return all that telemetry received, as text."""
    points = [
        point.attributes for name in vars(names).values() if isinstance(name, str) for point in world.seen.points(name)
    ]
    return "\n".join([*(span.to_json() for span in world.seen.spans), *map(str, points)])


async def test_prompts_answers_and_keys_are_in_no_span_and_no_metric(world: World) -> None:
    world.server.script([refused_key(), None])
    with pytest.raises(Exception, match="openai:"):
        await world.ask("openai", prompt=SECRET)
    answer = await world.ask("openai", prompt=SECRET)

    received = everything(world)
    assert "paperroute.survey_id" in received
    for private in (SECRET, answer, KEY, KEY[-8:], "You write."):
        assert private not in received


@pytest.fixture
def content() -> Any:
    trace_content(True)
    yield
    trace_content(False)


@pytest.mark.usefixtures("content")
async def test_prompts_and_answers_are_told_when_the_operator_wants_them(world: World) -> None:
    answer = await world.ask("openai", shared="Papers.", prompt=SECRET)
    await world.ask("openai", shared="Papers.", prompt=SECRET, caller=a_caller("survey-2"))

    sent, served = world.spans()
    asked, got = (json.loads(each) for each in told(sent, names.INPUT_MESSAGES, names.OUTPUT_MESSAGES))
    assert asked == [
        {"role": "system", "parts": [{"type": "text", "content": "You write."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Papers."}, {"type": "text", "content": SECRET}]},
    ]
    assert got == [{"role": "assistant", "parts": [{"type": "text", "content": answer}], "finish_reason": "stop"}]
    assert told(served, names.OUTPUT_MESSAGES) == told(sent, names.OUTPUT_MESSAGES)
    assert KEY not in everything(world)


@pytest.mark.usefixtures("content")
async def test_half_of_a_character_does_not_keep_spans_from_being_sent(file_ledgers: Ledgers) -> None:  # noqa: F811
    """What is no UTF-8 fails the export of all spans that go with it."""
    half = "half \ud83d of one"
    reply = a_reply(response_id=half, response_model=half)
    with telemetered() as seen:
        await file_ledgers.calls().run(
            replace(a_call(), messages=(("user", half),)), a_caller(), Scripted([reply]).send
        )

    (found,) = seen.spans
    assert told(found, names.RESPONSE_ID, names.RESPONSE_MODEL) == ("half ? of one",) * 2
    assert "half ? of one" in told(found, names.INPUT_MESSAGES)[0]


async def test_the_library_of_a_provider_adds_no_span_and_sends_no_trace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with trace.get_tracer("a test").start_as_current_span("rpc"):
        for name in PROVIDERS:
            await world.ask(name)

    assert [each.name for each in exporter.get_finished_spans()] == ["rpc"]
    assert len(world.spans()) == len(PROVIDERS)
    assert not any("traceparent" in each.headers for each in world.server.requests)
