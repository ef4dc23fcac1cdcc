"""GenerationService and SummarizationService with language models: what their contracts promise of calls that cost."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import generation_service_pb2 as pb
from paperroute.v1 import generation_service_pb2_grpc as pb_grpc
from paperroute.v1 import paper_pb2, usage_pb2
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import summarization_service_pb2_grpc as summarization_grpc
from real_engines import point_at
from standins.provider_server import ProviderStandIn, quota_spent, refusal
from standins.provider_writers import CitingWriter

from services.common.channel import open_channel
from services.common.errors import reason_in, violations_in
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.generation import server, summarization_server
from services.generation.settings import GenerationSettings, SummarizationSettings

LUNA, SONNET, UNPRICED = "openai:gpt-6-luna", "anthropic:claude-sonnet-5-5", "openai:nobody-knows-this"
CALL = usage_pb2.CallContext(tenant="a", survey_id="s1")
QUESTION = "What are the trends in LoRA for image generation?"


class Roles:
    """Stubs of both roles on one server, and the provider behind them."""

    def __init__(self, channel: grpc.aio.Channel, provider: ProviderStandIn) -> None:
        self.generation: Any = pb_grpc.GenerationServiceStub(channel)
        self.summarization: Any = summarization_grpc.SummarizationServiceStub(channel)
        self.provider = provider

    async def plan(self, **fields: Any) -> pb.PlanSearchResponse:
        return await self.generation.PlanSearch(
            pb.PlanSearchRequest(**{"call": CALL, "model": LUNA, "question": QUESTION, **fields}), timeout=20
        )

    async def summary(self, number: int = 1, **fields: Any) -> summarization_pb.SummarizePaperResponse:
        given = {"call": CALL, "model": LUNA, "paper": paper(number), "language": "en", **fields}
        return await self.summarization.SummarizePaper(summarization_pb.SummarizePaperRequest(**given), timeout=20)

    async def section(self, **fields: Any) -> list[pb.WriteSectionResponse]:
        stream = self.generation.WriteSection(section_request(**fields), timeout=20)
        return [message async for message in stream]

    async def calls(self, **fields: Any) -> list[usage_pb2.RecordedCall]:
        request = pb.ListCallsRequest(**{"tenant": "a", "survey_id": "s1", **fields})
        return list((await self.generation.ListCalls(request, timeout=10)).calls)


@pytest.fixture
async def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Roles]:
    writer = CitingWriter(search_terms=("LoRA image generation", "LoRA diffusion", "low-rank adaptation"))
    async with ProviderStandIn(writer=writer) as provider:
        point_at(provider, monkeypatch)
        host = RoleServer("127.0.0.1:0")
        shared = SharedSettings(data_dir=tmp_path / "data")
        server.mount(host, GenerationSettings(), shared)
        summarization_server.mount(host, SummarizationSettings(), shared)
        await host.start()
        try:
            async with open_channel(host.address) as channel:
                yield Roles(channel, provider)
        finally:
            await host.stop(drain_s=0)


def paper(number: int, **fields: Any) -> paper_pb2.Paper:
    values = {
        "paper_id": f"2501.{number:05d}",
        "title": f"Method{number}: adapting models",
        "abstract": f"Models are large. We propose Method{number}, which adapts them by two small matrices.",
        "published_at": Timestamp(seconds=1_735_700_000),
    }
    return paper_pb2.Paper(**{**values, **fields})


def section_request(**fields: Any) -> pb.WriteSectionRequest:
    keyed = [pb.KeyedPaper(key=f"P{n}", paper=paper(n), summary=f"Method{n} adapts models.") for n in (1, 2, 3)]
    values = {
        "call": CALL,
        "model": LUNA,
        "question": QUESTION,
        "language": "en",
        "outline": [pb.OutlineChapter(sections=[pb.OutlineSection(keys=["P1", "P2", "P3"])])],
        "chapter_number": 1,
        "section_number": 1,
        "papers": keyed,
        "route_titles": [each.paper.title for each in keyed],
    }
    return pb.WriteSectionRequest(**{**values, **fields})


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def test_pieces_make_up_the_section_and_all_its_papers_are_cited(roles: Roles):
    *pieces, last = await roles.section()

    section = last.finished
    assert "".join(piece.text_delta for piece in pieces) == section.text
    assert list(section.cited_keys) == ["P1", "P2", "P3"]
    assert (section.model, section.fallback_reason) == (LUNA, "")
    assert section.usage[0].cost_nano_usd > 0


async def test_repeating_is_free_and_the_payer_sees_its_cost_again(roles: Roles):
    first, second = await roles.plan(), await roles.plan()

    assert len(roles.provider.requests) == 1
    assert second == first
    assert second.usage[0].cost_nano_usd > 0


async def test_a_summary_serves_all_tenants_and_a_question_its_own_only(roles: Roles):
    other = usage_pb2.CallContext(tenant="b", survey_id="s2")
    for call in (CALL, other):
        await roles.plan(call=call)
        await roles.section(call=call)
    asked = len(roles.provider.requests)
    await roles.summary()
    shared = (await roles.summary(call=other)).usage[0]

    assert asked == 4
    assert len(roles.provider.requests) == asked + 1
    assert (shared.cost_nano_usd, shared.avoided_cost_nano_usd > 0) == (0, True)


async def test_a_private_paper_is_shared_with_nobody(roles: Roles):
    for tenant in ("a", "b"):
        call = usage_pb2.CallContext(tenant=tenant, survey_id="s", call_scope=usage_pb2.CALL_SCOPE_TENANT)
        await roles.summary(call=call)

    assert len(roles.provider.requests) == 2


async def test_without_the_cache_only_the_survey_s_own_answers_are_served(roles: Roles):
    await roles.summary()
    fresh = usage_pb2.CallContext(tenant="a", survey_id="s2", cache_off=True)
    for _ in range(2):
        await roles.summary(call=fresh)

    assert len(roles.provider.requests) == 2


async def test_calls_are_listed_in_their_order_with_what_they_were_for(roles: Roles):
    await roles.plan(plan_candidates=3)
    await roles.summary()
    await roles.section()
    calls = await roles.calls()

    assert [call.stage for call in calls] == ["plan"] * 3 + ["summarize", "write"]
    assert [call.item for call in calls[3:]] == ["2501.00001", "1.1"]
    assert {call.outcome for call in calls} == {usage_pb2.CALL_OUTCOME_OK}
    assert all(call.usage.cost_nano_usd > 0 and call.prompt_id and call.response_id for call in calls)
    assert {call.price_source for call in calls} == {usage_pb2.PRICE_SOURCE_CATALOGUE}
    assert not await roles.calls(tenant="b")


async def test_a_page_goes_on_where_the_last_one_ended(roles: Roles):
    await roles.plan(plan_candidates=5)
    found, token = [], ""
    while True:
        request = pb.ListCallsRequest(tenant="a", survey_id="s1", page_size=2, page_token=token)
        page = await roles.generation.ListCalls(request, timeout=10)
        found += [call.call_id for call in page.calls]
        token = page.next_page_token
        if not token:
            break

    assert len(found) == len(set(found)) == 5


async def test_deleted_answers_are_asked_for_again_and_shared_ones_stay(roles: Roles):
    await roles.plan()
    await roles.summary()
    request = pb.DeleteCallsRequest(tenant="a", survey_id="s1")
    deleted = await roles.generation.DeleteCalls(request, timeout=10)
    await roles.plan()
    await roles.summary()

    assert deleted.deleted_count == 1
    assert [each.asked.text.count(QUESTION) > 0 for each in roles.provider.requests] == [True, False, True]
    assert (await roles.generation.DeleteCalls(request, timeout=10)).deleted_count == 1


async def test_a_refusal_and_an_empty_account_let_the_next_model_stand_in(roles: Roles):
    roles.provider.faults = {"gpt-6-luna": refusal(), "gpt-6-sol": quota_spent()}
    section = (await roles.section(model=f"{LUNA},openai:gpt-6-sol,{SONNET}"))[-1].finished

    assert section.model == SONNET
    assert section.fallback_reason.startswith(f"{LUNA} declined to answer; openai:gpt-6-sol did not answer")
    refused = next(usage for usage in section.usage if usage.model == LUNA)
    assert refused.cost_nano_usd > 0


async def test_the_extractive_engine_stands_in_at_last(roles: Roles):
    roles.provider.faults = {"gpt-6-luna": quota_spent()}
    section = (await roles.section())[-1].finished

    assert section.model == "extractive:builtin"
    assert LUNA in section.fallback_reason


async def test_a_budget_is_kept_and_the_extractive_engine_finishes(roles: Roles):
    call = usage_pb2.CallContext(tenant="a", survey_id="s1", max_cost_nano_usd=10)
    section = (await roles.section(call=call))[-1].finished

    assert not roles.provider.requests
    assert section.model == "extractive:builtin"
    assert "budget" in section.fallback_reason
    assert section.budget_reached


async def test_every_answer_says_whether_its_budget_was_reached(roles: Roles):
    """Whoever hands out budgets learns so that more of it would have helped."""
    for limit, is_reached in ((10, True), (10**12, False)):
        call = usage_pb2.CallContext(tenant="a", survey_id="s1", max_cost_nano_usd=limit)
        frame = pb.WriteFrameRequest(
            call=call, model=LUNA, question=QUESTION, language="en",
            outline=section_request().outline, papers=section_request().papers,
        )  # fmt: skip
        parts = [message async for message in roles.generation.WriteFrame(frame, timeout=20)]

        assert (await roles.plan(call=call)).budget_reached is is_reached
        assert (await roles.summary(call=call)).budget_reached is is_reached
        assert (await roles.section(call=call))[-1].finished.budget_reached is is_reached
        assert parts[-1].finished.budget_reached is is_reached


async def test_calls_are_listed_with_their_worst_case(roles: Roles):
    call = usage_pb2.CallContext(tenant="a", survey_id="s1")
    await roles.summary(call=call)
    await roles.summary(2, call=call, model=UNPRICED)
    priced, unpriced = await roles.calls()

    assert priced.worst_cost_nano_usd > priced.usage.cost_nano_usd
    assert not unpriced.HasField("worst_cost_nano_usd")


@pytest.mark.parametrize(
    ("fields", "reason", "told"),
    [
        pytest.param({"model": "gemini:gemini-3.8-flash"}, "NOT_READY", "GEMINI_API_KEY", id="no key"),
        pytest.param({"model": UNPRICED, "call": {"max_cost_nano_usd": 10**9}}, "UNPRICED", UNPRICED, id="unpriced"),
    ],
)
async def test_what_cannot_be_used_names_the_setting_and_costs_nothing(
    roles: Roles, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], reason: str, told: str
):
    """A role that starts without a key tells so when its model is asked for."""
    monkeypatch.delenv("GEMINI_API_KEY")
    host = RoleServer("127.0.0.1:0")
    server.mount(host, GenerationSettings(), SharedSettings())
    await host.start()
    async with open_channel(host.address) as channel:
        failure = await failure_of(Roles(channel, roles.provider).plan(**fields))
    await host.stop(drain_s=0)

    assert (failure.code(), reason_in(failure)) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert told in failure.details()
    assert not roles.provider.requests


async def test_a_form_the_model_cannot_meet_names_the_setting(roles: Roles):
    roles.provider.writer = lambda _asked: "I would rather talk about something else."
    failure = await failure_of(roles.plan())

    assert (failure.code(), reason_in(failure)) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")
    assert "PAPERROUTE_MODELS__PLAN" in failure.details()
    assert len(roles.provider.requests) == 2


async def test_an_abstract_of_a_book_s_length_is_refused_before_anything_is_paid(roles: Roles):
    failure = await failure_of(roles.summary(paper=paper(1, abstract="x" * 200_001)))

    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_in(failure)] == ["paper.abstract"]
    assert not roles.provider.requests


async def test_an_abstract_just_below_that_is_summarized(roles: Roles):
    summary = await roles.summary(paper=paper(1, abstract="We propose it. " * 13_000))

    assert summary.model == LUNA
    assert len(roles.provider.requests[0].asked.text) < 10_000


@pytest.mark.parametrize("method", ["ListCalls", "DeleteCalls"])
async def test_calls_of_nobody_are_refused(roles: Roles, method: str):
    request = getattr(pb, f"{method}Request")()
    failure = await failure_of(getattr(roles.generation, method)(request, timeout=5))

    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_in(failure)] == ["tenant", "survey_id"]
