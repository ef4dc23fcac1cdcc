"""What the trace of a text says: the call below its RPC, who stood in for whom, and claims that nothing bears out."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import generation_service_pb2_grpc as pb_grpc
from paperroute.v1 import paper_pb2, usage_pb2
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import summarization_service_pb2_grpc as summarization_grpc
from real_engines import point_at
from standins.provider_server import ProviderStandIn, quota_spent
from standins.provider_writers import CitingWriter
from telemetered import Telemetry, telemetered

from services.common.channel import open_channel
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.common.telemetry import names
from services.generation import server, summarization_server
from services.generation.settings import GenerationSettings, SummarizationSettings

LUNA = "openai:gpt-6-luna"
CALL = usage_pb2.CallContext(tenant="a", survey_id="s1")
QUESTION = "What are the trends in LoRA for image generation?"


class BoastfulWriter(CitingWriter):
    """Cites papers for a number that none of them has."""

    def sentence(self, asked: Any, paper: Any) -> str:
        return f"It gains 73.4 percent over all that was there before it [{paper['key']}]. "


class Roles:
    """Stubs of both roles, the provider behind them, and what telemetry received."""

    def __init__(self, channel: Any, provider: ProviderStandIn, seen: Telemetry) -> None:
        self.generation: Any = pb_grpc.GenerationServiceStub(channel)
        self.summarization: Any = summarization_grpc.SummarizationServiceStub(channel)
        self.provider, self.seen = provider, seen

    async def section(self) -> pb.SectionText:
        papers = [pb.KeyedPaper(key=f"P{n}", paper=paper(n), summary=f"Method{n} adapts models.") for n in (1, 2)]
        request = pb.WriteSectionRequest(
            call=CALL,
            model=LUNA,
            question=QUESTION,
            language="en",
            outline=[pb.OutlineChapter(sections=[pb.OutlineSection(keys=["P1", "P2"])])],
            chapter_number=1,
            section_number=1,
            papers=papers,
            route_titles=[each.paper.title for each in papers],
        )
        return [message async for message in self.generation.WriteSection(request, timeout=20)][-1].finished

    async def summary(self) -> summarization_pb.SummarizePaperResponse:
        request = summarization_pb.SummarizePaperRequest(call=CALL, model=LUNA, paper=paper(1), language="en")
        return await self.summarization.SummarizePaper(request, timeout=20)

    def span(self, name: str) -> ReadableSpan:
        return next(span for span in self.seen.spans if name in span.name)


def paper(number: int) -> paper_pb2.Paper:
    return paper_pb2.Paper(
        paper_id=f"2501.{number:05d}",
        title=f"Method{number}: adapting models",
        abstract=f"Models are large. We propose Method{number}, which adapts them by two small matrices.",
    )


@contextlib.asynccontextmanager
async def opened(folder: Path, provider: ProviderStandIn) -> AsyncIterator[Roles]:
    host = RoleServer("127.0.0.1:0")
    shared = SharedSettings(data_dir=folder)
    server.mount(host, GenerationSettings(), shared)
    summarization_server.mount(host, SummarizationSettings(), shared)
    await host.start()
    try:
        with telemetered() as seen:
            async with open_channel(host.address) as channel:
                yield Roles(channel, provider, seen)
    finally:
        await host.stop(drain_s=0)


@pytest.fixture
async def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Roles]:
    async with ProviderStandIn(writer=CitingWriter()) as provider:
        point_at(provider, monkeypatch)
        async with opened(tmp_path / "data", provider) as made:
            yield made


async def test_a_models_call_lies_below_the_rpc_that_made_it(roles: Roles):
    await roles.summary()

    rpc, call = roles.span("/SummarizePaper"), roles.span("chat ")
    assert call.parent
    assert (call.parent.span_id, call.context.trace_id) == (rpc.context.span_id, rpc.context.trace_id)
    assert (call.attributes or {})[names.ITEM] == "2501.00001"
    assert ((rpc.attributes or {})[names.FALLBACK_COUNT], len(rpc.events)) == (0, 0)
    assert roles.seen.sums("paperroute.summaries.in_flight") == {(): 0}


async def test_who_stood_in_and_why_is_an_event(roles: Roles):
    roles.provider.script([quota_spent()])

    summary = await roles.summary()

    rpc = roles.span("/SummarizePaper")
    (event,) = rpc.events
    assert (event.name, (rpc.attributes or {})[names.FALLBACK_COUNT]) == (names.FALLBACK, 1)
    assert dict(event.attributes or {}) == {
        names.FALLBACK_REASON: f"{LUNA} did not answer (quota spent)",
        names.MODEL: "extractive:builtin",
    }
    assert summary.fallback_reason == f"{LUNA} did not answer (quota spent)"


async def test_claims_that_nothing_bears_out_are_events_without_their_words(roles: Roles):
    roles.provider.writer = BoastfulWriter()

    section = await roles.section()

    rpc = roles.span("/WriteSection")
    flags = [dict(event.attributes or {}) for event in rpc.events if event.name == names.FLAG]
    assert len(section.flags) > 0
    assert (rpc.attributes or {})[names.FLAG_COUNT] == len(section.flags) == len(flags)
    assert flags[0] == {names.FLAG_KIND: "unsupported", names.CITED_KEYS: tuple(section.flags[0].keys)}
    assert not any("73.4" in span.to_json() or QUESTION in span.to_json() for span in roles.seen.spans)
