"""Whether all who count a survey's model calls count the same, to the token and the nano-dollar.

The rows of its usage, the ledgers, the provider's own log, the spans of the calls and the counters. Each `..._apart`
function compares two of them and returns what is different, a line each; nothing when they agree.
"""

import contextlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2
from paperroute.v1 import usage_service_pb2 as usage_pb
from telemetered import Telemetry

from gateway.document.stages import name_of, stage_of
from services.common.paid.prices import PriceBook
from services.common.paid.usage import TokenUsage
from services.common.telemetry import names

NANO = 1_000_000_000
FREE = ("extractive:", "wordllama:", "fastembed:")
"""Models of this machine: no ledger knows them."""
ANSWERED = 200
Request = Mapping[str, Any]
"""As `Received.summary` returns it."""
Place = tuple[str, str]
"""Stage and model."""


@dataclass(kw_only=True, slots=True)
class Took:
    """What calls took and cost."""

    call_count: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int | None = 0
    """None where a price is not known."""

    def add(self, other: "Took") -> None:
        for field in fields(Took):
            mine, more = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, None if mine is None or more is None else mine + more)

    def of(self, *field_names: str) -> tuple[int | None, ...]:
        return tuple(getattr(self, name) for name in field_names)


COUNTED = tuple(field.name for field in fields(Took))
QUERIED = tuple(name for name in COUNTED if name not in {"cache_write_tokens", "cost_nano_usd"})
"""Of these QueryUsage tells."""
Amounts = dict[Place, Took]


@dataclass(frozen=True, kw_only=True, slots=True)
class Apart:
    """Calls that have ended without anybody knowing what they took."""

    calls: Sequence[usage_pb2.RecordedCall]
    requests: Sequence[Request]
    """What the provider says it did for them."""


# What each of them says.


def view_rows(database: Path, survey_id: str) -> Amounts:
    """Return what the view for dashboards says of a survey's paid models."""
    columns = ", ".join(name for name in COUNTED if name != "cost_nano_usd")
    query = f"SELECT stage, model, {columns}, cost_usd FROM paperroute_usage WHERE survey_id = ?"  # noqa: S608
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(query, (survey_id,)).fetchall()
    return {
        (stage, model): Took(
            **dict(zip(COUNTED, counts, strict=False)), cost_nano_usd=None if usd is None else round(usd * NANO)
        )
        for stage, model, *counts, usd in rows
        if not model.startswith(FREE)
    }


def ledger_rows(calls: Iterable[usage_pb2.RecordedCall]) -> Amounts:
    """Return what calls in ledgers took; those of unknown cost at their worst."""
    found: defaultdict[Place, Took] = defaultdict(Took)
    for call in calls:
        if is_billed(call):
            found[call.stage, call.model].add(taken(call))
    return dict(found)


def span_rows(spans: Iterable[ReadableSpan], survey_id: str) -> Amounts:
    """Return what the spans of a survey's model calls say; answers of the ledger are not among them."""
    found: defaultdict[Place, Took] = defaultdict(Took)
    for span in spans:
        told = span.attributes or {}
        if is_call_name(span.name) and told.get(names.SURVEY_ID) == survey_id and told.get(names.CALL_COUNT):
            found[str(told[names.STAGE]), str(told[names.MODEL])].add(_told(told))
    return dict(found)


def is_call_name(name: str) -> bool:
    """Return whether the span of that name is one of a model call."""
    return name.startswith(("chat ", "embeddings "))


def is_billed(call: usage_pb2.RecordedCall) -> bool:
    """Return whether a call took something, or may have."""
    usage, is_failed = call.usage, call.outcome == usage_pb2.CALL_OUTCOME_FAILED
    return not is_failed or bool(usage.input_tokens or usage.output_tokens or usage.cost_nano_usd or _worst(call))


def taken(call: usage_pb2.RecordedCall) -> Took:
    """Return what a recorded call counts as."""
    usage = call.usage
    is_known = usage.HasField("cost_nano_usd")
    is_bounded = call.HasField("worst_cost_nano_usd")
    tokens = {name: getattr(usage, name) for name in COUNTED if name not in {"call_count", "cost_nano_usd"}}
    cost = usage.cost_nano_usd if is_known else call.worst_cost_nano_usd if is_bounded else None
    return Took(call_count=1, cost_nano_usd=cost, **tokens)


# What two of them say differently.


def rows_apart(rows: Amounts, ledger: Amounts) -> list[str]:
    """Compare usage rows with ledgers."""
    return _apart("row", rows, "ledger", ledger, COUNTED)


def query_apart(answer: usage_pb.QueryUsageResponse, rows: Amounts) -> list[str]:
    """Compare the answer of QueryUsage, by stage and model, with usage rows."""
    queried, cost, unpriced = {}, {}, {}
    for row in answer.rows:
        if row.model.startswith(FREE):
            continue
        place = (name_of(row.stage), row.model)
        queried[place] = Took(**{name: getattr(row, name) for name in QUERIED})
        cost[place], unpriced[place] = row.cost_nano_usd, row.unpriced_call_count
    wanted = {place: took.cost_nano_usd or 0 for place, took in rows.items()}
    missing = {place: 0 if took.cost_nano_usd is not None else took.call_count for place, took in rows.items()}
    found = _apart("query", queried, "row", rows, QUERIED)
    found += [f"query says {cost} nano-USD, rows {wanted}"] if cost != wanted else []
    return found + ([f"query says {unpriced} unpriced calls, rows {missing}"] if unpriced != missing else [])


def survey_apart(survey: pb.Survey, rows: Amounts) -> list[str]:
    """Compare what a survey says of its stages, and of itself, with usage rows."""
    stages: dict[Place, Took] = {
        (name_of(report.stage), usage.model): _message_took(usage)
        for report in survey.stages
        for usage in report.usage
        if not usage.model.startswith(FREE)
    }
    whole: defaultdict[Place, Took] = defaultdict(Took)
    for (_, model), took in rows.items():
        whole["all", model].add(took)
    said = {("all", each.model): _message_took(each) for each in survey.usage if not each.model.startswith(FREE)}
    return _apart("stage", stages, "row", rows, COUNTED) + _apart("survey", said, "rows", dict(whole), COUNTED)


def provider_apart(
    calls: Sequence[usage_pb2.RecordedCall], requests: Sequence[Request], prices: PriceBook
) -> tuple[list[str], Apart]:
    """Compare ledgers with what the provider did and what that costs.

    Args:
        calls: of all surveys that asked it meanwhile.
        requests: all that it was asked.
        prices: what its tokens cost.

    Returns:
        What is different, and what is left over because nobody knows: the requests of that never cost more than the
        worst case of its calls.
    """
    by_id = {request["answer_id"]: request for request in requests if request["answer_id"]}
    left, unknown, found = list(requests), [], []
    for call in calls:
        request = next((by_id[each] for each in by_id if call.response_id.endswith(each)), None)
        if request is None or call.usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED:
            unknown += [call] if is_billed(call) else []
            continue
        left.remove(request)
        billed = _billed(request, call.model, prices)
        if taken(call) != billed:
            found.append(f"{call.stage} {call.item}: ledger {taken(call)}, provider {billed}")
    apart = Apart(calls=unknown, requests=[request for request in left if _may_be_billed(request)])
    return found + _beyond_worst(apart, prices), apart


def spans_apart(spans: Iterable[ReadableSpan], survey_id: str, rows: Amounts) -> list[str]:
    """Compare the spans of a survey's model calls, which tell of all their attempts, with its usage rows."""
    wanted = {place: _as_told(took) for place, took in rows.items()}
    return _apart("span", span_rows(spans, survey_id), "row", wanted, COUNTED)


def counters_apart(before: "Counters", after: "Counters", rows: Sequence[Amounts]) -> list[str]:
    """Compare what counters gained with the usage rows of all surveys meanwhile."""
    whole: defaultdict[Place, Took] = defaultdict(Took)
    for each in rows:
        for place, took in each.items():
            whole[place].add(_as_told(took))
    gained = after.gained(before)
    wanted = {place: took.of("input_tokens", "output_tokens", "cost_nano_usd") for place, took in whole.items()}
    places = sorted(gained.keys() | wanted.keys())
    nothing = (0, 0, 0)
    return [
        f"{place}: counters {gained.get(place, nothing)}, rows {wanted.get(place, nothing)}"
        for place in places
        if gained.get(place, nothing) != wanted.get(place, nothing)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counters:
    """What the counters of model calls say, by stage and model."""

    tokens: Mapping[tuple[str, str, str], float]
    """Also by kind: "input", "output"."""
    usd: Mapping[Place, float]

    @classmethod
    def read(cls, seen: Telemetry) -> "Counters":
        return cls(
            tokens=seen.sums(names.TOKEN_USAGE, names.STAGE, names.MODEL, names.TOKEN_TYPE),  # type: ignore[arg-type]
            usd=seen.sums(names.COST, names.STAGE, names.MODEL),  # type: ignore[arg-type]
        )

    def gained(self, before: "Counters") -> dict[Place, tuple[int, int, int]]:
        """Return tokens in, tokens out and nano-dollars since then."""
        places = {place[:2] for place in self.tokens} | self.usd.keys()
        found = {place: (*self._tokens(place, before), self._nano(place, before)) for place in places}
        return {place: amounts for place, amounts in found.items() if any(amounts)}

    def _tokens(self, place: Place, before: "Counters") -> tuple[int, int]:
        taken_in, out = (
            round(self.tokens.get((*place, kind), 0) - before.tokens.get((*place, kind), 0))
            for kind in ("input", "output")
        )
        return taken_in, out

    def _nano(self, place: Place, before: "Counters") -> int:
        return round((self.usd.get(place, 0) - before.usd.get(place, 0)) * NANO)


def unknown_stages(calls: Iterable[usage_pb2.RecordedCall]) -> list[str]:
    """Return stages of calls that no report could name."""
    return [f"a call of the stage {call.stage!r}" for call in calls if stage_of(call.stage) is None]


def outcomes(calls: Iterable[usage_pb2.RecordedCall]) -> Counter[str]:
    """Return how many calls ended how: "ok"."""
    prefix = "CALL_OUTCOME_"
    return Counter(usage_pb2.CallOutcome.Name(call.outcome).removeprefix(prefix).lower() for call in calls)


def _apart(name: str, one: Amounts, other_name: str, other: Amounts, compared: Sequence[str]) -> list[str]:
    found = []
    for place in sorted(one.keys() | other.keys()):
        mine, yours = one.get(place, Took()), other.get(place, Took())
        if mine.of(*compared) != yours.of(*compared):
            parts = [
                f"{field} {getattr(mine, field)} / {getattr(yours, field)}"
                for field in compared
                if getattr(mine, field) != getattr(yours, field)
            ]
            found.append(f"{' '.join(place)}: {name} / {other_name}: {', '.join(parts)}")
    return found


def _message_took(usage: usage_pb2.ModelUsage) -> Took:
    counts = {name: getattr(usage, name) for name in COUNTED if name != "cost_nano_usd"}
    return Took(**counts, cost_nano_usd=usage.cost_nano_usd if usage.HasField("cost_nano_usd") else None)


def _worst(call: usage_pb2.RecordedCall) -> int:
    return 0 if call.usage.HasField("cost_nano_usd") else call.worst_cost_nano_usd


def _may_be_billed(request: Request) -> bool:
    """Return whether a provider would bill a request: it was answered, or its stream had begun."""
    return request["status"] == ANSWERED or bool(request["output"])


def _billed(request: Request, model: str, prices: PriceBook) -> Took:
    tokens = TokenUsage(
        input_tokens=request["input"],
        cached_input_tokens=request["cached"],
        cache_write_tokens=request["cache_write"],
        output_tokens=request["output"],
        reasoning_tokens=request["reasoning"],
    )
    priced = prices.price(model, tokens, at=datetime.now(UTC))
    return Took(
        call_count=1,
        input_tokens=tokens.input_tokens,
        cached_input_tokens=tokens.cached_input_tokens,
        cache_write_tokens=tokens.cache_write_tokens,
        output_tokens=tokens.output_tokens,
        reasoning_tokens=tokens.reasoning_tokens,
        cost_nano_usd=priced.cost_nano_usd,
    )


def _beyond_worst(apart: Apart, prices: PriceBook) -> list[str]:
    """Return where a provider may have done more than what nobody knows was taken for."""
    found = []
    by_name = {call.model.partition(":")[2]: call.model for call in apart.calls}
    for name in sorted({request["model"] for request in apart.requests}):
        model = by_name.get(name, name)
        calls = [call for call in apart.calls if call.model == model]
        requests = [each for each in apart.requests if each["model"] == name]
        costs = [_billed(request, model, prices).cost_nano_usd or 0 for request in requests]
        worst = sum(call.worst_cost_nano_usd for call in calls)
        if len(requests) > len(calls):
            found.append(f"{model}: the provider answered {len(requests)} calls that {len(calls)} rows may be of")
        if sum(costs) > worst:
            found.append(f"{model}: up to {sum(costs)} nano-USD that nobody knows, at worst {worst}")
    return found


def _told(told: Mapping[str, Any]) -> Took:
    """Return what the attributes of a model call's span say."""

    def count(name: str) -> int:
        return int(told.get(name, 0))

    return Took(
        call_count=count(names.CALL_COUNT),
        input_tokens=count(names.INPUT_TOKENS),
        cached_input_tokens=count(names.CACHE_READ_TOKENS),
        cache_write_tokens=count(names.CACHE_WRITE_TOKENS),
        output_tokens=count(names.OUTPUT_TOKENS),
        reasoning_tokens=count(names.REASONING_TOKENS),
        cost_nano_usd=round(told.get(names.COST_USD, 0) * NANO),
    )


def _as_told(took: Took) -> Took:
    """Return amounts as spans and counters tell them: what has no known price costs nothing there."""
    return replace(took, cost_nano_usd=took.cost_nano_usd or 0)
