"""A survey never costs more than its limit, nor a tenant's surveys together more than its month.

The budget, the services, the providers' libraries and the ledgers are the real ones; only the providers are played.
They time out, fail, cut their answers and name too few papers.
"""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import generation_service_pb2_grpc as generation_grpc
from paperroute.v1 import paper_pb2, usage_pb2
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import summarization_service_pb2_grpc as summarization_grpc
from paperroute.v1 import survey_pb2 as pb
from played_ledgers import a_running_job
from postgres import new_database, postgres
from real_engines import point_at
from standins import provider_server as played
from standins.provider_server import ProviderStandIn
from standins.provider_writers import CitingWriter, EnglishWriter, KeylessWriter, UnknownKeyWriter

from gateway.money.budget import Budgets, SurveyBudget, within_budget
from gateway.money.ledgers import cost_of, recorded_calls
from gateway.store import months
from gateway.store.schema import gateway_database
from services.common.channel import open_channel
from services.common.paid.prices import PriceBook
from services.common.paid.usage import TokenUsage
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.embedding import server as embedding_server
from services.embedding.settings import EmbeddingSettings
from services.generation import server, summarization_server
from services.generation.settings import GenerationSettings, SummarizationSettings

__all__ = ["postgres"]

T = TypeVar("T")
MODELS = [f"openai:priced-{number}" for number in range(8)]
ENCODERS = ["", "openai:text-embedding-3-small@16", "wordllama:l2_supercat_256"]
PRICES = json.dumps(
    {
        model: {
            "input_mtok": [0.01, 0.3, 3, 25][number % 4],
            "cached_input_mtok": [0.001, 0.03, 9, 25][number % 4],
            "output_mtok": [0.1, 2.5, 15, 0][number % 4] if number < 4 else [40, 0.5, 0, 7][number % 4],
        }
        for number, model in enumerate(MODELS)
    }
)
WRITERS = (
    CitingWriter(search_terms=("LoRA diffusion",)),
    KeylessWriter(search_terms=("LoRA diffusion",)),
    EnglishWriter(search_terms=("LoRA diffusion",)),
    UnknownKeyWriter(search_terms=("LoRA diffusion",)),
    lambda _asked: "Neither a form nor a key.",
)
FAULTS = (
    None,
    played.server_error(),
    played.overloaded(),
    played.html_502(),
    played.length(),
    played.empty_length(),
    played.cut_stream(),
    played.silent_end(),
    played.bad_body(),
    played.refusal(),
    played.drop_connection(),
    played.stall(),
)
MAY_FAIL_WITH = {
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # no money for vectors
    grpc.StatusCode.UNAVAILABLE,  # no vectors
    grpc.StatusCode.FAILED_PRECONDITION,  # a plan in no form
    grpc.StatusCode.DEADLINE_EXCEEDED,  # what was sent by then is paid for all the same
}
TIMEOUT_S = 0.15
"""Of a provider; what stalls is given up after it."""
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A survey to pay for."""

    summaries: int
    """What it may cost, in summaries."""
    models: str
    encoder: str
    language: str
    abstracts: list[str]
    candidates: int
    writer: int
    faults: list[int]

    def limit(self, prices: PriceBook) -> int:
        """Return its limit; models whose output or input is free have one too."""
        tokens = TokenUsage(input_tokens=500, output_tokens=150)
        costs = [prices.price(model, tokens, at=datetime.now(UTC)).cost_nano_usd for model in self.models.split(",")]
        return self.summaries * max(cost or 0 for cost in costs)


EXAMPLES = st.builds(
    Example,
    summaries=st.one_of(st.integers(0, 20), st.integers(0, 200), st.just(100_000)),
    models=st.lists(st.sampled_from(MODELS), min_size=1, max_size=2, unique=True).map(",".join),
    encoder=st.sampled_from(ENCODERS),
    language=st.sampled_from(["en", "ja"]),
    abstracts=st.lists(st.text(min_size=0, max_size=300), min_size=1, max_size=4),
    candidates=st.sampled_from([1, 1, 3]),
    writer=st.integers(0, len(WRITERS) - 1),
    faults=st.lists(st.integers(0, len(FAULTS) - 1), max_size=12),
)


class Platform:
    """The services that cost, with their provider."""

    def __init__(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runner = asyncio.Runner()
        self.provider = ProviderStandIn()
        self.prices = PriceBook(PRICES)
        self._shared = SharedSettings(data_dir=data_dir)
        self.run(self._open(monkeypatch))

    def run(self, work: Awaitable[T]) -> T:
        """Return what work on the platform's loop brings."""

        async def awaited() -> T:
            return await work

        return self.runner.run(awaited())

    async def _open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        await self.provider.__aenter__()
        point_at(self.provider, monkeypatch)
        monkeypatch.setenv("PAPERROUTE_OPENAI__TIMEOUT_S", str(TIMEOUT_S))
        monkeypatch.setenv("PAPERROUTE_PAID__PRICES", PRICES)
        self._host = RoleServer("127.0.0.1:0")
        address = self._host.address
        server.mount(self._host, GenerationSettings(embedding=address), self._shared)
        summarization_server.mount(self._host, SummarizationSettings(), self._shared)
        embedding_server.mount(self._host, EmbeddingSettings(store=":memory:"), self._shared)
        await self._host.start()
        self._channel = open_channel(address)
        self.services: Any = SimpleNamespace(
            generation=generation_grpc.GenerationServiceStub(self._channel),
            summarization=summarization_grpc.SummarizationServiceStub(self._channel),
            embedding=embedding_grpc.EmbeddingServiceStub(self._channel),
        )

    async def _close(self) -> None:
        await self._channel.close()
        await self._host.stop(0)
        await self.provider.__aexit__()

    def close(self) -> None:
        self.run(self._close())
        self.runner.close()

    def cost(self, example: Example, budgets: Budgets | None = None, **options: Any) -> int:
        """Return what a survey cost in the end, what nobody knows at its worst."""
        return self.run(self.paid(example, budgets, **options))

    async def paid(
        self, example: Example, budgets: Budgets | None = None, month_limit: int | None = None, survey_id: str = ""
    ) -> int:
        """Make a survey, its calls as side by side as the pipeline makes them, and wait until all are recorded."""
        limit = example.limit(self.prices) if month_limit is None else None
        job = a_running_job(limit, survey_id=survey_id or f"survey-{next(_NUMBERS)}")
        self.provider.writer = WRITERS[example.writer]
        self.provider.script([FAULTS[number] for number in example.faults])
        budget = await (budgets or Budgets(None, self.services, self.prices)).open(job, month_limit)  # type: ignore[arg-type]
        try:
            await Survey(self.services, budget, example, job.survey_id).make()
        finally:
            await budget.close()
        self.provider.script([])
        async with asyncio.timeout(30):
            while True:
                calls = await recorded_calls(self.services, job.tenant, job.survey_id)
                if all(call.outcome != usage_pb2.CALL_OUTCOME_IN_FLIGHT for call in calls):
                    return sum(map(cost_of, calls))
                await asyncio.sleep(0.02)


class Survey:
    """The calls of one survey."""

    def __init__(self, services: Any, budget: SurveyBudget, example: Example, survey_id: str) -> None:
        self._services, self._budget, self._example, self._survey_id = services, budget, example, survey_id
        self._papers = [_paper(next(_NUMBERS), text) for text in example.abstracts]

    async def make(self) -> None:
        await self._tried(self._plan())
        summaries = asyncio.gather(*(self._tried(self._summary(paper)) for paper in self._papers))
        await asyncio.gather(summaries, self._tried(self._embed()))
        keyed = [_keyed(number, paper) for number, paper in enumerate(self._papers, start=1)]
        half = -(-len(keyed) // 2)
        parts = [part for part in (keyed[:half], keyed[half:]) if part]
        outline = [
            generation_pb.OutlineChapter(sections=[generation_pb.OutlineSection(keys=[each.key for each in part])])
            for part in parts
        ]
        sections = (self._tried(self._section(number, part, outline)) for number, part in enumerate(parts, start=1))
        await asyncio.gather(*sections, self._tried(self._frame(keyed, outline)))

    async def _tried(self, work: Awaitable[object]) -> None:
        try:
            await work
        except grpc.aio.AioRpcError as failure:
            if failure.code() not in MAY_FAIL_WITH:
                raise

    async def _plan(self) -> None:
        request = generation_pb.PlanSearchRequest(
            model=self._example.models, question="画像生成のLoRA", plan_candidates=self._example.candidates
        )
        await self._within(pb.STAGE_PLAN, request, self._services.generation.PlanSearch)

    async def _summary(self, paper: paper_pb2.Paper) -> None:
        request = summarization_pb.SummarizePaperRequest(
            model=self._example.models, paper=paper, language=self._example.language
        )
        await self._within(pb.STAGE_SUMMARIZE, request, self._services.summarization.SummarizePaper)

    async def _embed(self) -> None:
        request = embedding_pb.EmbedPapersRequest(encoder=self._example.encoder, papers=self._papers)
        await self._within(pb.STAGE_EMBED, request, self._services.embedding.EmbedPapers)

    async def _section(self, number: int, papers: Any, outline: Any) -> None:
        request = generation_pb.WriteSectionRequest(
            model=self._example.models,
            question="画像生成のLoRA",
            language=self._example.language,
            outline=outline,
            chapter_number=number,
            section_number=1,
            papers=papers,
            route_titles=[paper.title for paper in self._papers],
        )
        await self._within(pb.STAGE_WRITE, request, self._services.generation.WriteSection)

    async def _frame(self, papers: Any, outline: Any) -> None:
        request = generation_pb.WriteFrameRequest(
            model=self._example.models,
            question="画像生成のLoRA",
            language=self._example.language,
            outline=outline,
            papers=papers,
        )
        await self._within(pb.STAGE_FRAME, request, self._services.generation.WriteFrame)

    async def _within(self, stage: Any, request: Any, method: Any) -> Any:
        worst = self._budget.worst_of(request)

        async def call(granted: int | None) -> Any:
            made = type(request)()
            made.CopyFrom(request)
            made.call.CopyFrom(
                usage_pb2.CallContext(tenant="tenant-a", survey_id=self._survey_id, max_cost_nano_usd=granted)
            )
            under_way = method(made, timeout=5)
            if hasattr(under_way, "__aiter__"):
                return [message async for message in under_way][-1].finished
            return await under_way

        return await within_budget(self._budget, stage, worst, call)


def _paper(number: int, abstract: str) -> paper_pb2.Paper:
    return paper_pb2.Paper(
        paper_id=f"2501.{number:05d}",
        title=f"Name{number}: a paper",
        abstract=abstract,
        published_at=Timestamp(seconds=1_735_700_000),
    )


def _keyed(number: int, paper: paper_pb2.Paper) -> generation_pb.KeyedPaper:
    return generation_pb.KeyedPaper(key=f"P{number}", paper=paper, summary=paper.abstract)


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.setattr("services.common.paid.governor.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("services.common.paid.gate.WINDOW_CUT", 1.0)  # one survey's faults are not to slow the next
    monkeypatch.setattr("services.common.paid.process.SharedLimits", lambda *_: None)
    monkeypatch.setattr("services.generation.llm.draft.PASSED_OVER_S", 0.05)
    made = Platform(tmp_path, monkeypatch)
    yield made
    made.close()


def test_no_survey_costs_more_than_its_limit(platform: Platform):
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(EXAMPLES)
    def check(example: Example) -> None:
        assert platform.cost(example) <= example.limit(platform.prices)

    check()
    assert len(platform.provider.requests) > 500  # most of the surveys paid for something


EXHAUSTING = Example(
    summaries=0,
    models=MODELS[1],
    encoder=ENCODERS[1],
    language="en",
    abstracts=["We propose a method and compare it."] * 3,
    candidates=1,
    writer=0,
    faults=[],
)


@pytest.mark.parametrize(("share", "used"), [(0.3, 0.5), (0.9, 0.5), (3.0, 0.9)])
def test_surveys_side_by_side_on_two_replicas_stay_within_the_month(
    platform: Platform, postgres: str, share: float, used: float
):
    """Each replica knows of the other only what the database says, and some runs die with what they had set aside."""
    shared = SharedSettings(database_url=new_database(postgres))
    databases = [gateway_database(shared) for _ in range(2)]
    replicas = [Budgets(database, platform.services, platform.prices) for database in databases]
    alone = platform.cost(replace(EXHAUSTING, summaries=100_000))
    limit = round(share * 6 * alone)
    highest = 0

    async def survey(number: int) -> int:
        survey_id = f"month-{number}"
        cost = await platform.paid(EXHAUSTING, replicas[number % 2], limit, survey_id)
        if number < 4:  # the others die before they say what they cost
            await databases[number % 2].run(lambda connection: months.charge(connection, "tenant-a", survey_id, cost))
        return cost

    async def month() -> months.Sums:
        return await databases[0].read(
            lambda connection: months.sums_of(connection, "tenant-a", months.month_now(connection))
        )

    async def watch() -> None:
        nonlocal highest
        while True:
            sums = await month()
            highest = max(highest, sums.spent + sums.reserved)
            await asyncio.sleep(0.01)

    async def all_of_them() -> list[int]:
        watching = asyncio.create_task(watch())
        costs = await asyncio.gather(*(survey(number) for number in range(6)))
        watching.cancel()
        return costs

    try:
        costs = platform.run(all_of_them())
        sums = platform.run(month())
    finally:
        for database in databases:
            platform.run(database.close())

    assert sum(costs) <= sums.spent + sums.reserved <= limit
    assert highest <= limit
    assert sum(costs) > used * min(limit, 6 * alone)
