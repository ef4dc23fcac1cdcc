"""What is special about the surveys of the reconciliation: the faults, the stories, the evidence that it happened."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from google.protobuf.json_format import ParseDict
from paid_platform import Platform
from paperroute.v1 import search_pb2, usage_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from reconciling import outcomes
from standins.provider_faults import Exchange, Fault
from standins.provider_writers import CitingWriter

TERMS = ("LoRA diffusion",)
CITING = CitingWriter(search_terms=TERMS)
MAX_PAPERS = 3
Survey = tuple[str, str]
"""Its id and its tenant."""
Models = Mapping[str, str]
Story = Callable[[Platform, "Case"], Awaitable[Sequence[Survey]]]
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What happened in a case, by those who kept account of it."""

    surveys: Sequence[pb.Survey]
    calls: Sequence[usage_pb2.RecordedCall]
    statuses: Counter[int]
    """Of the provider's answers."""
    apart_count: int
    """Calls that have ended without anybody knowing what they took."""
    served_count: int

    @property
    def outcomes(self) -> Counter[str]:
        return outcomes(self.calls)

    @property
    def states(self) -> set[str]:
        return {pb.SurveyState.Name(survey.state).removeprefix("SURVEY_STATE_").lower() for survey in self.surveys}

    @property
    def stages(self) -> Counter[str]:
        return Counter(call.stage for call in self.calls)

    @property
    def cost(self) -> int:
        return sum(usage.cost_nano_usd for survey in self.surveys for usage in survey.usage)

    @property
    def unpriced(self) -> set[str]:
        return {call.stage for call in self.calls if not call.usage.HasField("cost_nano_usd")}

    @property
    def models(self) -> set[str]:
        return {call.model for call in self.calls}


def of(provider: str, **others: str) -> dict[str, str]:
    """Return the models of a provider by stage, each with a name of its own."""
    return {stage: f"{provider}:{provider}-{stage}" for stage in ("plan", "summarize", "write", "frame")} | others


async def alone(platform: Platform, case: "Case") -> Sequence[Survey]:
    """Make one survey."""
    return [await made(platform, case)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is special about a survey."""

    models: Models = field(default_factory=lambda: of("openai"))
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the SurveySpec, as JSON has them."""
    faults: Mapping[str, Fault] = field(default_factory=dict)
    """How a stage's first model answers."""
    script: Sequence[Fault | None] = ()
    """How the first requests are answered, whatever they are for."""
    writer: Callable[[Any], str] = field(default_factory=lambda: CITING)
    reasoning_tokens: int = 0
    story: Story = alone
    shows: Callable[[Evidence], object] = lambda seen: seen.states == {"done"} and not seen.apart_count

    def spec(self, question: str = "") -> pb.SurveySpec:
        """Return what is asked for; every question is another one unless it is given."""
        models = {stage: model for stage, model in self.models.items() if model}
        asked = question or f"What is new in LoRA for diffusion, number {next(_NUMBERS)}?"
        spec = pb.SurveySpec(
            question=asked,
            source=search_pb2.SOURCE_SAMPLE,
            max_papers=MAX_PAPERS,
            max_section_papers=2,
            models=pb.ModelChoice(**models),
            cache_off=True,
        )
        return ParseDict(self.fields, spec)


async def made(platform: Platform, case: Case, tenant: str = "vision", question: str = "") -> Survey:
    """Make a survey of a tenant to its end."""
    survey_id = await platform.create(case.spec(question), tenant)
    await platform.ended(survey_id, tenant)
    return survey_id, tenant


# Stories: what is done with the surveys of a case.


def asked_twice(*tenants: str, **second: Any) -> Story:
    """Return the story of a question that is asked once by each tenant; the later ones with other fields."""

    async def story(platform: Platform, case: Case) -> Sequence[Survey]:
        question = f"Which question is asked twice, number {next(_NUMBERS)}?"
        found = [await made(platform, case, tenants[0], question)]
        again = Case(models=case.models, fields={**case.fields, **second})
        return found + [await made(platform, again, tenant, question) for tenant in tenants[1:]]

    return story


async def side_by_side(platform: Platform, case: Case) -> Sequence[Survey]:
    """Ask the same question in two tenants at once, in one of them twice: who asks first pays for the others."""
    question = f"Which question is asked at once, number {next(_NUMBERS)}?"
    tenants = ("audio", "text", "audio")
    return await asyncio.gather(*(made(platform, case, tenant, question) for tenant in tenants))


def cancelled(stage: str, after: int = 0, *, is_resumed: bool = False) -> Story:
    """Return the story of a survey that is cancelled while its model is waited for, after so many answers of it."""

    async def story(platform: Platform, case: Case) -> Sequence[Survey]:
        tenant, model = "audio", name_of(case.models[stage])
        async with platform.held(model, after):
            survey_id = await platform.create(case.spec(), tenant)
            await platform.asked(model, after + 1)
            await platform.cancel(survey_id, tenant)
        await platform.ended(survey_id, tenant)
        if is_resumed:
            await platform.resume(survey_id, tenant)
            await platform.ended(survey_id, tenant)
        return [(survey_id, tenant)]

    return story


async def resumed(platform: Platform, case: Case) -> Sequence[Survey]:
    """Go on with a survey that failed, once the provider is well."""
    survey_id, tenant = await made(platform, case)
    failed = await platform.read(survey_id, tenant)
    assert failed.state == pb.SURVEY_STATE_FAILED
    platform.provider.faults.clear()
    await platform.resume(survey_id, tenant)
    await platform.ended(survey_id, tenant)
    return [(survey_id, tenant)]


async def out_of_time(platform: Platform, case: Case) -> Sequence[Survey]:
    """Let a survey's time run out while a section is waited for; its answer comes after the end."""
    tenant = "text"
    async with platform.held(name_of(case.models["write"]), 1):
        survey_id = await platform.create(case.spec(), tenant)
        await platform.ended(survey_id, tenant)
    return [(survey_id, tenant)]


async def rewritten(platform: Platform, case: Case) -> Sequence[Survey]:
    """Write a section again with another model."""
    survey_id, tenant = await made(platform, case)
    request = service_pb.RewriteSectionRequest(
        survey_id=survey_id, chapter_number=1, section_number=1, model="gemini:gemini-spare"
    )
    await platform.surveys(tenant).RewriteSection(request, timeout=30)
    return [(survey_id, tenant)]


# Faults, beside those of the stand-in.


def each(number: int, fault: Fault) -> Fault:
    """Return what goes wrong with each so-manieth request and is answered well otherwise."""
    numbers = itertools.count(1)

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if next(numbers) % number == 0:
            return await fault.answer(exchange)
        return await exchange.send(exchange.made())

    return Fault(f"{fault.name} each {number}", answer)


def first(count: int, fault: Fault) -> Fault:
    """Return what goes wrong with the first so many requests."""
    numbers = itertools.count(1)

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if next(numbers) <= count:
            return await fault.answer(exchange)
        return await exchange.send(exchange.made())

    return Fault(f"{fault.name} first {count}", answer)


def name_of(models: str) -> str:
    """Return what a provider calls the first of some models."""
    return models.split(",", maxsplit=1)[0].partition(":")[2].partition("@")[0]
