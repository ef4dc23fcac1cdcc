"""Surveys on a cluster of real processes that are killed: what happens to each is compared with an undisturbed one.

    async with arena(folder, database_url) as here:
        whole = await here.survey(undisturbed)
        killed = await here.survey(kill("gateway", at_number(7)))
        assert killed.faults(whole) == []

Where a process is killed is said by what has happened before: the event a watcher has seen, the request that has
reached the provider. Every process that is killed is started again at once.
"""

import asyncio
import contextlib
import itertools
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.payments import Payments, payments_of, recorded_calls
from chaos.watching import Watcher
from paperroute.v1 import search_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from processes import Cluster
from standins.provider_process import ProviderProcess, provider_process

from services.common.channel import open_channel
from services.common.settings import ROLES

QUESTION = "What are the recent trends in LoRA for image generation?"
SEARCH_TERMS = ("LoRA image generation", "LoRA diffusion", "low-rank adaptation")
MAX_PAPERS = 24
LATENCY_S, TOKENS_PER_S = 0.1, 1_500
"""Of the model: a survey takes long enough to be killed in the middle of everything."""
DIMENSION = 256
STAGES = ("plan", "summarize", "write", "frame")
SURVEY_TIMEOUT_S = 180
_LINK = re.compile(r"\]\((https://arxiv\.org/abs/[^)]+)\)")

Citations = Sequence[tuple[object, ...]]
"""Of each section: its place, the keys cited and listed, the links of its text; then the links of the frame."""


@dataclass(kw_only=True)
class UnderWay:
    """A survey that runs: what disturbers see of it, and what they do."""

    cluster: Cluster
    provider: ProviderProcess
    watcher: Watcher
    models: Mapping[str, str]
    """By stage, without the provider's name."""
    kills: list[tuple[str, float]] = field(default_factory=list)
    """Who was killed, and when by `time.monotonic()`."""
    _killing: list[asyncio.Future[None]] = field(default_factory=list)

    async def kill(self, name: str, *, is_restarted: bool = True) -> None:
        """Kill a process and start it again, to the end even if the survey has ended meanwhile."""
        self.kills.append((name, time.monotonic()))
        killing = asyncio.ensure_future(self._kill(name, is_restarted=is_restarted))
        self._killing.append(killing)
        await asyncio.shield(killing)

    async def settle(self) -> None:
        """Wait until every process that was killed serves again."""
        await asyncio.gather(*self._killing)

    def hold(self, stage: str, after: int) -> None:
        """Let the model of a stage answer so many requests more, and hold back those that come then."""
        self.provider.hold(self.models[stage], after)

    def release(self, stage: str) -> None:
        """Let the model of a stage answer."""
        self.provider.release(self.models[stage])

    async def asked(self, stage: str, count: int, answered: int = 0) -> None:
        """Wait until the model of a stage was asked so many times and has answered so many of them."""
        await asyncio.to_thread(self.provider.requests, self.models[stage], count, answered)

    async def _kill(self, name: str, *, is_restarted: bool) -> None:
        await self.cluster.stop(name, signal.SIGKILL)
        if is_restarted:
            await self.cluster.start([name])


Disturbance = Callable[[UnderWay], Awaitable[None]]
Moment = Callable[[UnderWay], Awaitable[None]]
"""Returns when something has happened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A survey after its last event."""

    survey: pb.Survey
    watcher: Watcher
    payments: Payments
    asked: Mapping[str, int]
    """Requests by stage."""
    kills: Sequence[tuple[str, float]]
    seconds: float

    @property
    def recovery_s(self) -> float:
        """Longest time from a kill to the event that tells of a new attempt, in seconds; 0 where none was needed."""
        begun = [seen.at_s for seen in self.watcher.seen if seen.kind == "state_changed"]
        found = [
            next((at_s for at_s in begun if at_s > killed_at), killed_at) - killed_at for _, killed_at in self.kills
        ]
        return max(found, default=0.0)

    def has_other_citations(self, whole: "Ended") -> bool:
        """Return whether it cites otherwise than an undisturbed survey."""
        return citations_of(self.survey) != citations_of(whole.survey)

    def faults(self, whole: "Ended", kill_count: int = 1) -> list[str]:
        """Return what is not as it is in an undisturbed survey, or was not done to this one; a line each."""
        watcher, payments = self.watcher, self.payments
        found = {
            f"{len(self.kills)} kills instead of {kill_count}": len(self.kills) != kill_count,
            f"ended {pb.SurveyState.Name(self.survey.state)}: {self.survey.failure.message}": (
                self.survey.state != pb.SURVEY_STATE_DONE
            ),
            "other citations than undisturbed": self.has_other_citations(whole),
            f"{payments.paid_twice_count} recorded calls paid twice": payments.paid_twice_count > 0,
            f"{watcher.misnumbered_count} events misnumbered": watcher.misnumbered_count > 0,
            f"{watcher.repeated_section_count} sections finished twice": watcher.repeated_section_count > 0,
            f"{watcher.text_gaps} gaps in texts": watcher.text_gaps > 0,
        }
        return [fault for fault, is_so in found.items() if is_so]


class Arena:
    """A cluster, the provider it asks, and one survey after the other."""

    def __init__(self, cluster: Cluster, provider: ProviderProcess) -> None:
        self.cluster = cluster
        self.provider = provider
        self._numbers = itertools.count(1)

    async def survey(self, disturb: Disturbance, gateways: Sequence[str] = ("gateway",)) -> Ended:
        """Run a survey to its end while it is disturbed.

        No other survey's answers are of use to it: its models have names of their own.

        Args:
            disturb: run beside it, and given up at its end.
            gateways: it is created at the first, watched at one after the other as they are lost, read at the last.
        """
        models = self.models()
        began, asked_before = time.monotonic(), len(await self.requests())
        async with self.stub(gateways[0]) as stub:
            survey_id = await created(stub, models)
        watcher = Watcher(survey_id=survey_id, addresses=[self.cluster.addresses[name] for name in gateways])
        under_way = UnderWay(cluster=self.cluster, provider=self.provider, watcher=watcher, models=models)
        await self._run(under_way, disturb)
        seconds = time.monotonic() - began
        requests = (await self.requests())[asked_before:]
        ledgers = [self.cluster.addresses[name] for name in ("generation", "embedding")]
        async with self.stub(gateways[-1]) as stub:
            survey = await _read(stub, survey_id)
        return Ended(
            survey=survey,
            watcher=watcher,
            payments=payments_of(requests, await recorded_calls(*ledgers, survey_id)),
            asked={stage: sum(each["model"] == name for each in requests) for stage, name in models.items()},
            kills=under_way.kills,
            seconds=seconds,
        )

    def models(self) -> dict[str, str]:
        """Return the models of one more survey by stage, without the provider's name: nobody else asks them."""
        number = next(self._numbers)
        return {stage: f"chaos-{stage}-{number}" for stage in (*STAGES, "embed")}

    @contextlib.asynccontextmanager
    async def stub(self, gateway: str) -> "AsyncIterator[pb_grpc.SurveyServiceAsyncStub]":
        """Hold a channel to a gateway open."""
        async with open_channel(self.cluster.addresses[gateway]) as channel:
            yield pb_grpc.SurveyServiceStub(channel)

    async def _run(self, under_way: UnderWay, disturb: Disturbance) -> None:
        async with asyncio.timeout(SURVEY_TIMEOUT_S):
            disturbing = asyncio.ensure_future(disturb(under_way))
            try:
                await under_way.watcher.run()
            finally:
                disturbing.cancel()
                await asyncio.wait([disturbing])
                await under_way.settle()
        if not disturbing.cancelled():
            disturbing.result()

    async def requests(self) -> list[dict[str, object]]:
        """Return all that the provider was asked."""
        return await asyncio.to_thread(self.provider.requests)


@contextlib.asynccontextmanager
async def arena(folder: Path, database_url: str = "", *, gateways: int = 1) -> AsyncIterator[Arena]:
    """Start a cluster and a provider; all their processes are ended at the end.

    Args:
        folder: of the cluster's files.
        database_url: of an empty PostgreSQL database; empty means files.
        gateways: how many there are to be; only the first one is started.
    """
    terms = [part for term in SEARCH_TERMS for part in ("--search-term", term)]
    speed = ("--latency-s", str(LATENCY_S), "--tokens-per-s", str(TOKENS_PER_S))
    with provider_process(*speed, *terms) as provider:
        extra = {
            "OPENAI_API_KEY": "sk-of-a-stand-in",
            "PAPERROUTE_OPENAI__BASE_URL": provider.openai_url,
            "PAPERROUTE_DATABASE_URL": database_url,
        }
        cluster = Cluster(folder, extra, gateways=gateways)
        try:
            await cluster.start(ROLES)
            yield Arena(cluster, provider)
        finally:
            await cluster.close()


def citations_of(survey: pb.Survey) -> Citations:
    """Return which paper is named where, and where its links lead."""
    sections = [
        (
            (chapter.number, section.number),
            tuple(section.cited_keys),
            tuple(section.listed_keys),
            tuple(_LINK.findall(section.text)),
        )
        for chapter in survey.chapters
        for section in chapter.sections
    ]
    frame = " ".join([survey.introduction, survey.closing, *(chapter.text for chapter in survey.chapters)])
    papers = tuple((paper.key, paper.url, paper.mention) for paper in survey.papers)
    return [*sections, tuple(_LINK.findall(frame)), papers]


async def undisturbed(_under_way: UnderWay) -> None:
    """Do nothing."""


def kill(name: str, when: Moment) -> Disturbance:
    """Return what kills a process at a moment."""

    async def disturb(under_way: UnderWay) -> None:
        await when(under_way)
        await under_way.kill(name)

    return disturb


def in_order(*steps: Disturbance) -> Disturbance:
    """Return what does several things one after the other."""

    async def disturb(under_way: UnderWay) -> None:
        for step in steps:
            await step(under_way)

    return disturb


def side_by_side(*steps: Disturbance) -> Disturbance:
    """Return what does several things, each as soon as its moment comes."""

    async def disturb(under_way: UnderWay) -> None:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(_done(step, under_way))

    return disturb


async def at_once(_under_way: UnderWay) -> None:
    """Return: the moment is now."""


def at_number(number: int) -> Moment:
    """Return the moment at which a watcher sees an event, or the first one after it."""

    async def reached(under_way: UnderWay) -> None:
        await under_way.watcher.until(lambda seen: seen.event.number >= number)

    return reached


def at_start_of(stage: pb.Stage.ValueType) -> Moment:
    """Return the moment at which a watcher sees a stage begin."""

    async def reached(under_way: UnderWay) -> None:
        await under_way.watcher.until(
            lambda seen: seen.kind == "stage_started" and seen.event.stage_started.stage == stage
        )

    return reached


def at_request(stage: str, count: int) -> Moment:
    """Return the moment at which the model of a stage is asked for the so-manieth time."""

    async def reached(under_way: UnderWay) -> None:
        await under_way.asked(stage, count)

    return reached


def kill_while_asking(name: str, stage: str, count: int) -> Disturbance:
    """Return what kills a process that waits for an answer of a stage's model.

    It holds back the so-manieth request and those that follow; the answers before them have been sent this moment, and
    some of them may not have been recorded.
    """

    async def disturb(under_way: UnderWay) -> None:
        under_way.hold(stage, count - 1)
        try:
            await under_way.asked(stage, count, count - 1)
            await under_way.kill(name)
        finally:
            under_way.release(stage)

    return disturb


def leave_to(survivor: str, stage: str, count: int) -> Disturbance:
    """Return what kills the only gateway while a request of a stage is held back, once a second gateway serves."""

    async def disturb(under_way: UnderWay) -> None:
        under_way.hold(stage, count - 1)
        try:
            await under_way.asked(stage, count)
            await under_way.cluster.start([survivor])
            await under_way.kill("gateway", is_restarted=False)
        finally:
            under_way.release(stage)

    return disturb


def kill_frozen(name: str, freeze: Moment, stage: pb.Stage.ValueType) -> Disturbance:
    """Return what lets a process stand still from a moment on and kills it once a stage has begun that needs it."""

    async def disturb(under_way: UnderWay) -> None:
        await freeze(under_way)
        under_way.cluster.freeze(name)
        await at_start_of(stage)(under_way)
        await under_way.kill(name)

    return disturb


async def _done(step: Disturbance, under_way: UnderWay) -> None:
    await step(under_way)


async def created(stub: "pb_grpc.SurveyServiceAsyncStub", models: Mapping[str, str]) -> str:
    """Create the survey that is run here and return its id."""
    named = {stage: f"openai:{name}" for stage, name in models.items()}
    named["embed"] += f"@{DIMENSION}"
    spec = pb.SurveySpec(
        question=QUESTION, source=search_pb2.SOURCE_SAMPLE, max_papers=MAX_PAPERS, models=pb.ModelChoice(**named)
    )
    request = service_pb.CreateSurveyRequest(spec=spec)
    return (await stub.CreateSurvey(request, timeout=20, wait_for_ready=True)).survey.survey_id


async def _read(stub: "pb_grpc.SurveyServiceAsyncStub", survey_id: str) -> pb.Survey:
    request = service_pb.GetSurveyRequest(survey_id=survey_id)
    return (await stub.GetSurvey(request, timeout=20, wait_for_ready=True)).survey
