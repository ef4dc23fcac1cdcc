"""Every call is counted the same by all who count it: rows of usage, ledgers, provider, spans, counters; difference 0.

Each case is a survey, or a few, with something special about it, which its name says and `shows` makes sure of.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from paid_platform import HASTY, PROVIDERS, Platform, paid_platform
from paperroute.v1 import usage_pb2
from reconciling import (
    Counters,
    counters_apart,
    ledger_rows,
    outcomes,
    provider_apart,
    query_apart,
    rows_apart,
    spans_apart,
    survey_apart,
    unknown_stages,
    view_rows,
)
from standins import provider_server as played
from standins.provider_writers import EnglishWriter, KeylessWriter, UnknownKeyWriter
from survey_cases import (
    CITING,
    TERMS,
    Case,
    Evidence,
    Survey,
    alone,
    asked_twice,
    cancelled,
    each,
    first,
    name_of,
    of,
    out_of_time,
    resumed,
    rewritten,
    side_by_side,
)

SETTLED_S = 20


def mixed(seed: int) -> Case:
    """Return a survey about which several things are special."""
    chance = random.Random(seed)
    provider, other = chance.choice(PROVIDERS), chance.choice(PROVIDERS)
    faults = [None, None, None, *FAULTS]
    budget = chance.choice([None, None, 2_000_000, 8_000_000])
    fields: dict[str, Any] = {
        "cache_off": chance.random() < 0.5,
        "plan_candidates": chance.choice([1, 2]),
        "max_papers": chance.choice([2, 5, 7]),
        "language": chance.choice(["en", "ja"]),
    }
    return Case(
        models=of(provider, write=f"{provider}:{provider}-write,{other}:{other}-spare", embed=chance.choice(ENCODERS)),
        fields=fields if budget is None else {**fields, "max_cost_nano_usd": str(budget)},
        script=[chance.choice(faults) for _ in range(chance.randint(3, 12))],
        writer=chance.choice(WRITERS),
        reasoning_tokens=chance.choice([0, 0, 30]),
        story=chance.choice([alone, side_by_side]),
        shows=lambda seen: seen.calls,
    )


FAULTS = (
    played.rate_limited(0),
    played.server_error(),
    played.overloaded(),
    played.html_502(),
    played.length(),
    played.empty_length(),
    played.cut_stream(),
    played.silent_end(),
    played.stream_error(),
    played.bad_stream_line(),
    played.bad_body(),
    played.refusal(),
    played.drop_connection(),
)
WRITERS = (CITING, CITING, KeylessWriter(search_terms=TERMS), UnknownKeyWriter(search_terms=TERMS))
ENCODERS = ("", "openai:text-embedding-3-small@40", f"{HASTY}:small-too@1536")
EMBED_16 = "openai:text-embedding-3-small@16"
CASES: dict[str, Case] = {
    **{f"undisturbed, {name}": Case(models=of(name)) for name in PROVIDERS},
    "models of the catalogue": Case(
        models={
            "plan": "gemini:gemini-3.1-flash-lite",
            "summarize": "openai:gpt-6-luna",
            "write": "anthropic:claude-sonnet-5-5",
            "frame": "gemini:gemini-3.8-flash",
            "embed": "openai:text-embedding-3-small@24",
        },
        shows=lambda seen: {call.price_source for call in seen.calls} == {usage_pb2.PRICE_SOURCE_CATALOGUE},
    ),
    "one long answer": Case(fields={"writer": "WRITER_SINGLE"}),
    "three plans": Case(fields={"plan_candidates": 3}, shows=lambda seen: seen.stages["plan"] == 3),
    "no model but that of the text": Case(
        models={"write": "gemini:gemini-write"}, shows=lambda seen: seen.models == {"gemini:gemini-write"}
    ),
    **{
        f"reasoning, {name}": Case(
            models=of(name),
            reasoning_tokens=40,
            shows=lambda seen: sum(call.usage.reasoning_tokens for call in seen.calls) > 0,
        )
        for name in ("openai", "gemini")
    },
    # Encoders of providers.
    "an encoder of openai": Case(models=of("anthropic", embed=EMBED_16), shows=lambda seen: seen.stages["embed"] > 0),
    "an encoder of gemini, which does not count": Case(
        models=of("openai", embed="gemini:gemini-embedding-001@16"),
        shows=lambda seen: seen.stages["embed"] > 0 and seen.apart_count > 0,
    ),
    "an encoder of a server": Case(
        models=of("openai", embed=f"{HASTY}:small@1536"), shows=lambda seen: f"{HASTY}:small" in seen.models
    ),
    "an encoder that breaks now and then": Case(
        models=of("openai", embed="openai:text-embedding-3-small@20"),
        faults={"embed": first(2, played.server_error())},
        shows=lambda seen: seen.statuses[500] == 2 and seen.states == {"done"},
    ),
    "an encoder whose vectors are of another length than it says": Case(
        models=of("openai", embed=f"{HASTY}:small-and-wrong@16"),
        shows=lambda seen: seen.states == {"failed"} and seen.statuses[200] > seen.stages["summarize"],
    ),
    # Attempts that bring no answer.
    **{
        f"rate limits, {name}": Case(
            models=of(name),
            script=[played.rate_limited(0), None, played.rate_limited(0), played.rate_limited(0)],
            shows=lambda seen: seen.statuses[429] >= 3 and seen.states == {"done"},
        )
        for name in PROVIDERS
    },
    **{
        f"servers in trouble, {name}": Case(
            models=of(name),
            script=[played.server_error(), None, played.overloaded(), played.html_502(), None, played.server_error()],
            shows=lambda seen: sum(seen.statuses[each] for each in (500, 502, 503, 529)) >= 4,
        )
        for name in PROVIDERS
    },
    **{
        f"streams cut off, {name}": Case(
            models=of(name),
            faults={"write": first(2, played.cut_stream(4))},
            shows=lambda seen: seen.apart_count > 0 and seen.outcomes["truncated"] > 0,
        )
        for name in PROVIDERS
    },
    **{
        f"streams that end without a reason, {name}": Case(
            models=of(name),
            faults={"write": first(1, played.silent_end(4)), "frame": first(1, played.stream_error(4))},
            shows=lambda seen: seen.apart_count > 0,
        )
        for name in PROVIDERS
    },
    "streams that cannot be read": Case(
        faults={"write": first(1, played.bad_stream_line(3)), "summarize": first(2, played.bad_body())},
        shows=lambda seen: seen.outcomes["malformed"] > 0,
    ),
    "connections dropped": Case(
        models=of("anthropic"),
        faults={"summarize": first(2, played.drop_connection())},
        shows=lambda seen: seen.statuses[0] >= 2 and seen.states == {"done"},
    ),
    "a stream that falls silent": Case(
        models=of("openai", write=f"{HASTY}:hasty-write"),
        faults={"write": first(1, played.stall(3))},
        shows=lambda seen: seen.apart_count > 0 and seen.states == {"done"},
    ),
    "an answer that never begins": Case(
        models=of("openai", embed=f"{HASTY}:small-and-slow@1536"),
        faults={"embed": first(1, played.stall())},
        shows=lambda seen: seen.outcomes["failed"] == 1 and seen.apart_count == 1,
    ),
    "a parameter that is not taken": Case(
        models=of("openai", summarize="openai:openai-spare"),
        faults={"summarize": first(1, played.bad_parameter("temperature"))},
        shows=lambda seen: seen.statuses[400] == 1 and seen.states == {"done"},
    ),
    # Answers that are paid for and no good.
    **{
        f"refusals, then another model, {name}": Case(
            models=of(name, write=f"{name}:{name}-write,openai:openai-spare"),
            faults={"write": played.refusal()},
            shows=lambda seen: seen.outcomes["refused"] > 0 and "openai:openai-spare" in seen.models,
        )
        for name in PROVIDERS
    },
    "refusals of every model": Case(
        faults={"write": played.refusal(), "frame": played.refusal(), "summarize": each(2, played.refusal())},
        shows=lambda seen: seen.outcomes["refused"] > 3 and seen.states == {"done"},
    ),
    **{
        f"answers longer than they may be, {name}": Case(
            models=of(name),
            faults={"write": first(2, played.length()), "summarize": each(3, played.empty_length())},
            shows=lambda seen: seen.outcomes["truncated"] > 1,
        )
        for name in PROVIDERS
    },
    "answers in no form": Case(
        writer=lambda _asked: "Neither a form nor a key.", shows=lambda seen: seen.outcomes["malformed"] > 0
    ),
    "sections that name no paper": Case(
        models=of("gemini"), writer=KeylessWriter(search_terms=TERMS), shows=lambda seen: seen.stages["write"] > 2
    ),
    "sections that name papers nobody showed": Case(
        models=of("anthropic"), writer=UnknownKeyWriter(search_terms=TERMS)
    ),
    "answers in another language": Case(
        fields={"language": "ja"}, writer=EnglishWriter(search_terms=TERMS), shows=lambda seen: seen.stages["write"] > 2
    ),
    # Providers that refuse to work.
    **{
        f"{name}, then another model": Case(
            models=of("openai", write="openai:openai-write,anthropic:anthropic-spare"),
            faults={"write": fault},
            shows=lambda seen: "anthropic:anthropic-spare" in seen.models and seen.states == {"done"},
        )
        for name, fault in {
            "a quota that is spent": played.quota_spent(),
            "a prompt that is too long": played.too_long(),
        }.items()
    },
    **{
        name: Case(faults={"write": fault}, shows=lambda seen: seen.states == {"failed"} and seen.stages["summarize"])
        for name, fault in {
            "a key that is refused": played.refused_key(),
            "a model that is not there": played.unknown_model(),
        }.items()
    },
    # Answers of the ledger.
    "the same question again": Case(
        fields={"cache_off": False},
        story=asked_twice("vision", "vision"),
        shows=lambda seen: seen.served_count > 5,
    ),
    "the same question again, nothing served": Case(
        story=asked_twice("vision", "vision", cache_off=True), shows=lambda seen: seen.served_count == 0
    ),
    "the same question of another tenant": Case(
        models=of("anthropic"),
        fields={"cache_off": False},
        story=asked_twice("audio", "text"),
        shows=lambda seen: seen.served_count > 0 and seen.stages["write"] > 0,
    ),
    "the same question of all at once": Case(
        models=of("gemini", embed="openai:text-embedding-3-small@28"),
        fields={"cache_off": False},
        story=side_by_side,
        shows=lambda seen: seen.served_count > 0,
    ),
    "the same question at once, with faults": Case(
        fields={"cache_off": False, "summary_seconds": 40},
        faults={"summarize": each(3, played.server_error()), "write": each(4, played.cut_stream(2))},
        story=side_by_side,
        shows=lambda seen: seen.served_count > 0 and seen.statuses[500] > 0,
    ),
    # Money.
    **{
        f"a budget of {nano:,} nano-dollars": Case(
            models=of(name),
            fields={"max_cost_nano_usd": str(nano)},
            faults={"write": each(3, played.length())},
            shows=lambda seen, nano=nano: seen.cost <= nano and (nano == 0) == (not seen.calls),
        )
        for name, nano in {"openai": 0, "anthropic": 3_000_000, "gemini": 20_000_000}.items()
    },
    "a model without a price": Case(
        models=of("openai", write="openai:openai-nobody-knows"), shows=lambda seen: seen.unpriced == {"write"}
    ),
    "a model without a price that breaks": Case(
        models=of("openai", summarize="anthropic:anthropic-nobody-knows"),
        faults={"summarize": each(2, played.server_error())},
        shows=lambda seen: seen.unpriced == {"summarize"} and seen.statuses[500] > 0,
    ),
    # Surveys that do not go through in one go.
    **{
        f"cancelled while {stage} waits": Case(
            models=of(name), story=cancelled(stage, after), shows=lambda seen: seen.states == {"cancelled"}
        )
        for stage, name, after in (
            ("plan", "openai", 0),
            ("summarize", "anthropic", 1),
            ("write", "gemini", 1),
            ("frame", "openai", 0),
        )
    },
    "cancelled and resumed": Case(models=of("anthropic"), story=cancelled("write", 1, is_resumed=True)),
    "failed and resumed": Case(
        models=of("openai", embed="openai:text-embedding-3-small@36"),
        faults={"embed": played.refused_key()},
        story=resumed,
    ),
    "out of time": Case(
        fields={"timeout_ms": 3_000}, story=out_of_time, shows=lambda seen: seen.states <= {"done", "partial"}
    ),
    "a section written again": Case(story=rewritten, shows=lambda seen: "gemini:gemini-spare" in seen.models),
    **{f"many things at once, {seed}": mixed(seed) for seed in range(8)},
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with paid_platform(tmp_path_factory.mktemp("data"), monkeypatch) as made:
            yield made


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_all_who_count_count_the_same(platform: Platform, case: Case):
    provider = platform.provider
    provider.requests.clear()
    platform.seen.forget()
    provider.writer, provider.reasoning_tokens = case.writer, case.reasoning_tokens
    provider.faults = {name_of(case.models[stage]): fault for stage, fault in case.faults.items()}
    provider.script(case.script)
    before = Counters.read(platform.seen)

    surveys = await case.story(platform, case)
    provider.script([])
    differences, evidence = await agreed(platform, surveys, before)

    assert differences == []
    assert case.shows(evidence), evidence


async def agreed(platform: Platform, surveys: Sequence[Survey], before: Counters) -> tuple[Sequence[str], Evidence]:
    """Compare until nothing is different: a call that was cancelled ends later. Return what still is after a while."""
    give_up_at = asyncio.get_running_loop().time() + SETTLED_S
    while True:
        found, evidence = await compared(platform, surveys, before)
        if not found or asyncio.get_running_loop().time() > give_up_at:
            return found, evidence
        await asyncio.sleep(0.05)


async def compared(platform: Platform, surveys: Sequence[Survey], before: Counters) -> tuple[list[str], Evidence]:
    """Compare all accounts of some surveys, which alone asked the provider since its log was begun."""
    found: list[str] = []
    calls: list[usage_pb2.RecordedCall] = []
    rows = []
    read = [await platform.read(survey_id, tenant) for survey_id, tenant in surveys]
    for (survey_id, tenant), survey in zip(surveys, read, strict=True):
        mine = await platform.calls(survey_id, tenant)
        rows.append(view_rows(platform.database, survey_id))
        found += rows_apart(rows[-1], ledger_rows(mine))
        found += query_apart(await platform.usage(survey_id, tenant), rows[-1])
        found += survey_apart(survey, rows[-1])
        found += spans_apart(platform.seen.spans, survey_id, rows[-1])
        found += unknown_stages(mine)
        calls += mine
    found += [f"{count} calls in flight" for count in [outcomes(calls)["in_flight"]] if count]
    found += counters_apart(before, Counters.read(platform.seen), rows)
    log = [request.summary() for request in platform.provider.requests]
    differences, apart = provider_apart(calls, log, platform.prices)
    evidence = Evidence(
        surveys=read,
        calls=calls,
        statuses=Counter(request["status"] for request in log),
        apart_count=len(apart.calls),
        served_count=sum(usage.served_call_count for survey in read for usage in survey.usage),
    )
    return found + differences, evidence
