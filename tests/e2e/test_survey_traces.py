"""One trace a survey over real processes, as an OTLP receiver gets it, and what kills leave of it and of its costs."""

import asyncio
import contextlib
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chaos.payments import recorded_calls
from paid_platform import PRICES
from paperroute.v1 import search_pb2, usage_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from processes import Cluster
from reconciling import is_call_name, ledger_rows, outcomes, provider_apart, rows_apart, survey_apart, view_rows
from standins.otlp_collector import OtlpCollector, ReceivedSpan, otlp_collector
from standins.provider_process import ProviderProcess, provider_process

from services.common.channel import open_channel
from services.common.paid.prices import PriceBook
from services.common.settings import ROLES
from services.common.telemetry import names

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ("plan", "retrieve", "embed", "order", "summarize", "write", "frame", "assemble")
MODELS = {stage: f"openai:openai-{stage}" for stage in ("plan", "summarize", "write", "frame")}
PAID_BY = {
    "plan": "generation",
    "embed": "embedding",
    "summarize": "summarization",
    "write": "generation",
    "frame": "generation",
}
"""Which service makes the calls of a stage."""
OTHER_TRACE = "1" * 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Processes that run, what they are asked by and what they tell."""

    cluster: Cluster
    data_dir: Path
    provider: ProviderProcess
    collector: OtlpCollector

    @contextlib.asynccontextmanager
    async def gateway(self) -> AsyncIterator[Any]:
        async with open_channel(self.cluster.addresses["gateway"]) as channel:
            yield pb_grpc.SurveyServiceStub(channel)

    async def create(self, dimension: int, metadata: Any = None) -> str:
        """Create a survey whose vectors nobody has."""
        models = pb.ModelChoice(**MODELS, embed=f"openai:text-embedding-3-small@{dimension}")
        spec = pb.SurveySpec(
            question=f"What is new in LoRA for diffusion, in {dimension} dimensions?",
            source=search_pb2.SOURCE_SAMPLE,
            max_papers=6,
            max_section_papers=2,
            models=models,
            cache_off=True,
        )
        request = service_pb.CreateSurveyRequest(spec=spec)
        async with self.gateway() as stub:
            made = await stub.CreateSurvey(request, timeout=20, wait_for_ready=True, metadata=metadata)
        return made.survey.survey_id

    async def ended(self, survey_id: str) -> pb.Survey:
        async with self.gateway() as stub:
            watch = service_pb.WatchSurveyRequest(survey_id=survey_id)
            async for _ in stub.WatchSurvey(watch, timeout=90, wait_for_ready=True):
                pass
            read = service_pb.GetSurveyRequest(survey_id=survey_id)
            return (await stub.GetSurvey(read, timeout=20)).survey

    async def restart(self, name: str) -> None:
        """Kill a process as a machine that dies, and start it again."""
        await self.cluster.stop(name, signal.SIGKILL)
        await self.cluster.start([name])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("data")
    with otlp_collector() as collector, provider_process("--search-term", "LoRA diffusion") as provider:
        extra = {
            "OPENAI_API_KEY": "sk-of-a-stand-in",
            "PAPERROUTE_OPENAI__BASE_URL": provider.openai_url,
            "PAPERROUTE_PAID__PRICES": PRICES,
            "PAPERROUTE_OTLP_ENDPOINT": collector.endpoint,
        }
        cluster = Cluster(folder, extra)
        try:
            await cluster.start(ROLES)
            yield Place(cluster=cluster, data_dir=folder, provider=provider, collector=collector)
        finally:
            await cluster.close()


def stage_ends(spans: Sequence[ReceivedSpan]) -> Counter[str]:
    """Return how often each stage has ended well."""
    ended = [span for span in spans if is_stage(span) and span.attributes[names.STATE] == "done"]
    return Counter(span.attributes[names.STAGE] for span in ended)


def is_stage(span: ReceivedSpan) -> bool:
    return span.name.removeprefix(names.STAGE_SPAN) in STAGES


def runs(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    """Return the runs of a survey in their order."""
    found = [span for span in spans if span.name == names.SURVEY_RUN]
    return sorted(found, key=lambda span: span.attributes[names.ATTEMPT])


def named(spans: Sequence[ReceivedSpan], end: str) -> ReceivedSpan:
    """Return the first span whose name has that end."""
    return next(span for span in spans if span.name.endswith(end))


OF_CALLS = (names.INPUT_TOKENS, names.OUTPUT_TOKENS)
OF_STAGES = (names.STAGE_INPUT_TOKENS, names.STAGE_OUTPUT_TOKENS)


def sums(spans: Sequence[ReceivedSpan], tokens: tuple[str, str]) -> dict[str, tuple[int, int, int]]:
    """Return tokens in, tokens out and nano-dollars by stage, of spans that tell tokens by these names."""
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for span in spans:
        told = span.attributes
        amounts = (*(told[name] for name in tokens), round(told[names.COST_USD] * 1e9))
        found[told[names.STAGE]] = [sum(pair) for pair in zip(found[told[names.STAGE]], amounts, strict=True)]
    return {stage: tuple(amounts) for stage, amounts in found.items()}


async def whole(place: Place, trace_id: str, has_all: Any) -> list[ReceivedSpan]:
    """Return a trace once all of it has come."""
    await place.collector.until(lambda seen: has_all(seen.trace(trace_id)))
    return place.collector.trace(trace_id)


async def test_a_survey_is_one_tree_below_its_callers_span(place: Place):
    survey_id = await place.create(64, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-01"),))
    survey = await place.ended(survey_id)
    asked = len(place.provider.requests())

    def has_all(spans: Sequence[ReceivedSpan]) -> bool:
        return bool(runs(spans)) and sum(is_call_name(span.name) for span in spans) == asked

    spans = await whole(place, TRACE, has_all)

    by_id = {span.span_id: span for span in spans}
    (run,) = runs(spans)
    created = by_id[run.parent_id]
    stages = {span.attributes[names.STAGE]: span for span in spans if is_stage(span)}
    calls = [span for span in spans if is_call_name(span.name)]
    assert (created.name, created.parent_id) == ("paperroute.v1.SurveyService/CreateSurvey", CALLER)
    assert stage_ends(spans) == dict.fromkeys(STAGES, 1)
    assert {span.parent_id for span in stages.values()} == {run.span_id}
    assert {span.attributes[names.STAGE] for span in calls} == PAID_BY.keys()
    for call in calls:
        rpc, stage = by_id[call.parent_id], call.attributes[names.STAGE]
        assert (rpc.kind, call.kind) == ("SERVER", "CLIENT")
        assert by_id[rpc.parent_id] is stages[stage]
        assert call.service == rpc.service == f"paperroute-{PAID_BY[stage]}"
    for method, stage in {"/SearchPapers": "retrieve", "/OrderPapers": "order"}.items():
        assert by_id[named(spans, method).parent_id] is stages[stage]
    told = sums(calls, OF_CALLS)
    assert told == sums([stages[stage] for stage in PAID_BY], OF_STAGES)
    total = [sum(parts) for parts in zip(*told.values(), strict=True)]
    said = run.attributes
    assert total == [*(said[name] for name in OF_STAGES), round(said[names.COST_USD] * 1e9)]
    usage = survey.usage
    assert total == [
        sum(each.input_tokens for each in usage),
        sum(each.output_tokens for each in usage),
        sum(each.cost_nano_usd for each in usage),
    ]


async def test_a_survey_whose_gateway_is_killed_stays_one_trace_and_one_bill(place: Place):
    asked = len(place.provider.requests())
    place.provider.hold("openai-write", 1)
    survey_id = await place.create(65, metadata=(("traceparent", f"00-{OTHER_TRACE}-{CALLER}-01"),))
    await until_asked(place, "openai-write", asked, 2)
    before = await whole(place, OTHER_TRACE, lambda spans: {"summarize", "order"} <= stage_ends(spans).keys())
    await place.restart("gateway")
    place.provider.release("openai-write")
    survey = await place.ended(survey_id)
    spans = await whole(
        place, OTHER_TRACE, lambda spans: any(run.attributes[names.ATTEMPT] == 2 for run in runs(spans))
    )

    first_id, created_id = named(before, "survey.summarize").parent_id, named(before, "/CreateSurvey").span_id
    *earlier, last = runs(spans)
    assert survey.state == pb.SURVEY_STATE_DONE
    assert (last.attributes[names.ATTEMPT], last.attributes[names.STATE], last.parent_id) == (2, "done", created_id)
    assert last.links == ((OTHER_TRACE, first_id),)
    assert [span.span_id for span in earlier] in ([], [first_id])  # who is killed may not have told of itself
    assert stage_ends(spans) == dict.fromkeys(STAGES, 1)
    differences, calls = await bill_apart(place, survey, asked)
    assert (differences, outcomes(calls).keys()) == ([], {"ok"})


async def test_calls_that_a_killed_service_took_along_count_at_their_worst(place: Place):
    """Nobody knows what they cost: they stand apart, and the survey pays for no answer twice that was recorded."""
    asked = len(place.provider.requests())
    place.provider.hold("openai-summarize", 2)
    survey_id = await place.create(66)
    await until_asked(place, "openai-summarize", asked, 6)
    await place.restart("summarization")
    place.provider.release("openai-summarize")
    survey = await place.ended(survey_id)

    differences, calls = await bill_apart(place, survey, asked)
    assert differences == []
    lost = [call for call in calls if call.outcome == usage_pb2.CALL_OUTCOME_LOST]
    assert 4 <= len(lost) <= 6  # those whose answers had come may not have been recorded
    assert all(call.worst_cost_nano_usd > 0 for call in lost)


async def until_asked(place: Place, model: str, start: int, count: int) -> None:
    """Wait until a model was asked so often since a place in the provider's log."""
    before = sum(request["model"] == model for request in place.provider.requests()[:start])
    await asyncio.to_thread(place.provider.requests, model, before + count)


async def bill_apart(place: Place, survey: pb.Survey, start: int) -> tuple[list[str], list[usage_pb2.RecordedCall]]:
    """Compare rows, ledgers and provider, asked since a place in its log; return what differs, and the calls."""
    addresses = [place.cluster.addresses[name] for name in ("generation", "embedding")]
    calls = await recorded_calls(*addresses, survey.survey_id)
    rows = view_rows(place.data_dir / "gateway.sqlite3", survey.survey_id)
    differences, _ = provider_apart(calls, place.provider.requests()[start:], PriceBook(PRICES))
    return rows_apart(rows, ledger_rows(calls)) + survey_apart(survey, rows) + differences, calls
