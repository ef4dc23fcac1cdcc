"""All roles in this process, with tenants and real channels, over a stand-in for the providers: surveys that are paid.

async with paid_platform(folder, monkeypatch) as platform:
    survey_id = await platform.create(spec, tenant="vision")
    survey = await platform.ended(survey_id, tenant="vision")
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import admin_service_pb2_grpc as admin_grpc
from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import generation_service_pb2_grpc as generation_grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from paperroute.v1 import usage_pb2
from paperroute.v1 import usage_service_pb2 as usage_service_pb
from paperroute.v1 import usage_service_pb2_grpc as usage_grpc
from pydantic import SecretStr
from real_engines import point_at
from standins.provider_process import ProviderProcess
from standins.provider_server import ProviderStandIn
from telemetered import Telemetry, telemetered

from gateway.embedded import embedded
from gateway.money.ledgers import recorded_calls
from gateway.roles import ROLES
from services.common.channel import open_channel
from services.common.paid.prices import PriceBook
from services.common.settings import ClientSettings
from services.common.telemetry import metrics

TENANTS = ("audio", "text", "vision")
STAGES = ("plan", "summarize", "write", "frame")
PROVIDERS = ("openai", "anthropic", "gemini")
HASTY = "hasty"
"""A server that speaks OpenAI's protocol, whose calls have little time."""
HASTY_S = 0.3
PRICES = json.dumps(
    {
        **{
            f"{provider}:{provider}-{stage}": {
                "input_mtok": 0.25 * (place + 1),
                "cached_input_mtok": 0.05,
                "cache_write_mtok": 0.4 * (place + 1),
                "output_mtok": 1.7 + 3 * place,
            }
            for place, stage in enumerate((*STAGES, "spare"))
            for provider in PROVIDERS
        },
        f"{HASTY}:*": {"input_mtok": 0.3, "output_mtok": 2.1},
    }
)
"""Of models of the platform's own, named by their stage, so that each stage can be disturbed by itself."""
_ADMIN_TOKEN, _SERVICE_TOKEN = "the-admin-token-of-a-test", "the-service-token-of-a-test"


class Platform:
    """What is served, and how to reach it."""

    def __init__(
        self, provider: ProviderStandIn, channels: dict[str, grpc.aio.Channel], seen: Telemetry, database: Path
    ) -> None:
        self.provider = provider
        self.database = database
        self.holding = ProviderProcess(provider.anthropic_url)
        """Holds answers back; it blocks, so it belongs into a thread."""
        self.seen = seen
        self.prices = PriceBook(PRICES)
        self._surveys = {name: pb_grpc.SurveyServiceStub(channel) for name, channel in channels.items()}
        self._usage = {name: usage_grpc.UsageServiceStub(channel) for name, channel in channels.items()}
        inner = channels["services"]
        self.generation = generation_grpc.GenerationServiceStub(inner)
        self.embedding = embedding_grpc.EmbeddingServiceStub(inner)

    def surveys(self, tenant: str) -> Any:
        """Return the stub of a tenant."""
        return self._surveys[tenant]

    async def create(self, spec: pb.SurveySpec, tenant: str) -> str:
        request = service_pb.CreateSurveyRequest(spec=spec, labels={"team": f"team of {tenant}"})
        return (await self.surveys(tenant).CreateSurvey(request, timeout=20)).survey.survey_id

    async def ended(self, survey_id: str, tenant: str) -> pb.Survey:
        """Return a survey once it has ended."""
        watch = service_pb.WatchSurveyRequest(survey_id=survey_id)
        async for _ in self.surveys(tenant).WatchSurvey(watch, timeout=60):
            pass
        return await self.read(survey_id, tenant)

    async def read(self, survey_id: str, tenant: str) -> pb.Survey:
        request = service_pb.GetSurveyRequest(survey_id=survey_id)
        return (await self.surveys(tenant).GetSurvey(request, timeout=20)).survey

    async def cancel(self, survey_id: str, tenant: str) -> None:
        await self.surveys(tenant).CancelSurvey(service_pb.CancelSurveyRequest(survey_id=survey_id), timeout=20)

    async def resume(self, survey_id: str, tenant: str) -> None:
        await self.surveys(tenant).ResumeSurvey(service_pb.ResumeSurveyRequest(survey_id=survey_id), timeout=20)

    async def usage(self, survey_id: str, tenant: str) -> usage_service_pb.QueryUsageResponse:
        """Return what QueryUsage says of a survey, by stage and model."""
        by = [usage_service_pb.USAGE_DIMENSION_STAGE, usage_service_pb.USAGE_DIMENSION_MODEL]
        request = usage_service_pb.QueryUsageRequest(group_by=by, survey_id=survey_id)
        return await self._usage[tenant].QueryUsage(request, timeout=20)

    async def calls(self, survey_id: str, tenant: str) -> Sequence[usage_pb2.RecordedCall]:
        """Return what both ledgers hold of a survey."""
        return await recorded_calls(self, tenant, survey_id)  # type: ignore[arg-type]  # it has the two stubs

    @contextlib.asynccontextmanager
    async def held(self, model: str, after: int) -> AsyncIterator[None]:
        """Hold back what a model answers after so many answers, until the context ends."""
        await asyncio.to_thread(self.holding.hold, model, after)
        try:
            yield
        finally:
            await asyncio.to_thread(self.holding.release, model)

    async def asked(self, model: str, count: int) -> None:
        """Wait until a model was asked so often since the provider's log was begun."""
        await asyncio.to_thread(self.holding.requests, model, count)


@contextlib.asynccontextmanager
async def paid_platform(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Platform]:
    """Serve everything, with all that is kept in a folder."""
    for name in [name for name in os.environ if name.startswith("PAPERROUTE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PAPERROUTE_DATA_DIR", str(data_dir))
    _hurry(monkeypatch)
    monkeypatch.setattr(metrics, "models", metrics.Bounded())  # of other tests there may have been too many
    async with contextlib.AsyncExitStack() as stack:
        provider = await stack.enter_async_context(ProviderStandIn())
        point_at(provider, monkeypatch)
        for name, value in _environment(provider).items():
            monkeypatch.setenv(name, value)
        for role in ROLES.values():
            role.mount()  # imports what measures
        seen = stack.enter_context(telemetered())
        address = (await stack.enter_async_context(embedded(None))).address
        admin = await stack.enter_async_context(_channel(address, _ADMIN_TOKEN))
        channels = {tenant: await stack.enter_async_context(_tenant(address, admin, tenant)) for tenant in TENANTS}
        inner = open_channel(address, service_token=SecretStr(_SERVICE_TOKEN))
        channels["services"] = await stack.enter_async_context(inner)
        yield Platform(provider, channels, seen, data_dir / "gateway.sqlite3")


def _environment(provider: ProviderStandIn) -> dict[str, str]:
    server = f"PAPERROUTE_COMPATIBLE__{HASTY.upper()}"
    return {
        f"{server}__BASE_URL": provider.openai_url,
        f"{server}__TIMEOUT_S": str(HASTY_S),
        "PAPERROUTE_GATEWAY__LISTEN": "127.0.0.1:0",
        "PAPERROUTE_GATEWAY__AUTH": "tokens",
        "PAPERROUTE_GATEWAY__ADMIN_TOKEN": _ADMIN_TOKEN,
        "PAPERROUTE_GATEWAY__MAX_REQUESTS_PER_S": "10000",
        "PAPERROUTE_SERVICE_TOKEN": _SERVICE_TOKEN,
        "PAPERROUTE_PAID__PRICES": PRICES,
        "PAPERROUTE_LOG_LEVEL": "error",
    }


def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten every wait that only time needs, and keep one survey's faults from slowing the next."""
    monkeypatch.setattr("services.common.paid.governor.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("services.common.paid.gate.WINDOW_CUT", 1.0)
    monkeypatch.setattr("services.common.paid.gate.FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("services.common.paid.meter.GuessedLimit.refused", lambda *_: None)  # no rate is guessed
    monkeypatch.setattr("services.common.paid.process.SharedLimits", lambda *_: None)
    monkeypatch.setattr("services.generation.llm.draft.PASSED_OVER_S", 0.05)
    monkeypatch.setattr("gateway.jobs.upkeep.POLL_S", 0.05)


def _channel(address: str, token: str) -> grpc.aio.Channel:
    return open_channel(address, client=ClientSettings(token=SecretStr(token)))


@contextlib.asynccontextmanager
async def _tenant(address: str, admin: grpc.aio.Channel, name: str) -> AsyncIterator[grpc.aio.Channel]:
    """Set a tenant up and hold a channel open that shows a token of it."""
    stub = admin_grpc.AdminServiceStub(admin)
    await stub.CreateTenant(admin_pb.CreateTenantRequest(tenant=admin_pb.Tenant(tenant=name)), timeout=20)
    request = admin_pb.CreateTokenRequest(tenant=name, scope=admin_pb.TOKEN_SCOPE_WRITE)
    created = await stub.CreateToken(request, timeout=20)
    async with _channel(address, created.secret) as channel:
        yield channel
