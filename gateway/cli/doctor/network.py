"""What is reached over the network: arXiv, the vector store, the services."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import grpc

from gateway.cli.doctor.finding import Finding, note, ok, problem, warning
from gateway.roles import ROLES
from services.common.channel import open_channel
from services.common.errors import PaperRouteError
from services.common.settings import ClientSettings, SettingsError, SharedSettings, load

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings
    from services.embedding.settings import EmbeddingSettings
    from services.retrieval.settings import RetrievalSettings

ARXIV_TIMEOUT_S = 15.0
HEALTH_TIMEOUT_S = 2.0
TERM = "electron"
"""Many papers hold it."""


async def check_arxiv(shared: SharedSettings, settings: "RetrievalSettings") -> list[Finding]:
    """Ask arXiv for one paper, in the queue that keeps its terms of use."""
    from services.retrieval.arxiv_client import ArxivClient
    from services.retrieval.arxiv_source import ArxivSource
    from services.retrieval.page_cache import PageCache
    from services.retrieval.request_gate import RequestGate
    from services.retrieval.sources import Page
    from services.retrieval.store import open_store

    what = "arXiv"
    store = open_store(shared)
    gate = RequestGate(store, spacing_s=settings.request_spacing_s, cooldown_s=settings.cooldown_s)
    client = ArxivClient(settings.arxiv_url, user_agent=f"PaperRoute/{version('paperroute')}")
    cache = PageCache(store, settings.arxiv_url, settings.max_cache_bytes)
    source = ArxivSource(client, gate, cache, request_timeout_s=ARXIV_TIMEOUT_S, fresh_s=0.0)
    began = time.monotonic()
    try:
        pages = source.pages(
            TERM, max_results=1, as_of=datetime.now(UTC).date(), deadline=time.monotonic() + ARXIV_TIMEOUT_S
        )
        count = sum([len(step.papers) async for step in pages if isinstance(step, Page)])
    except PaperRouteError as error:
        advice = "until it answers: --source index, --source store or --source sample"
        return [warning(what, error.message, advice)]
    finally:
        await gate.close()
        await store.close()
    return [ok(what, f"{settings.arxiv_url} gave {count} paper in {time.monotonic() - began:.1f} s")]


async def check_vectors(settings: "EmbeddingSettings") -> list[Finding]:
    """Look at the vector store; the folder of this machine belongs to the role that runs."""
    what = "vector store"
    if settings.store == ":memory:":
        return [warning(what, "kept in memory only", "unset PAPERROUTE_EMBEDDING__STORE to keep vectors")]
    if not settings.store:
        return [ok(what, "the folder vectors of the data folder")]
    from qdrant_client import AsyncQdrantClient

    client = AsyncQdrantClient(
        url=settings.store,
        api_key=settings.store_key.get_secret_value() or None,
        timeout=int(HEALTH_TIMEOUT_S) + 1,
        check_compatibility=False,
    )
    try:
        collections = (await client.get_collections()).collections
    except Exception as error:  # noqa: BLE001  # the library has many
        advice = "start it, or correct PAPERROUTE_EMBEDDING__STORE and __STORE_KEY"
        return [problem(what, f"the Qdrant server does not answer as it should ({type(error).__name__})", advice)]
    finally:
        await client.close()
    return [ok(what, f"a Qdrant server with {len(collections)} collections")]


async def check_services(shared: SharedSettings, settings: "GatewaySettings") -> list[Finding]:
    """Ask each service behind the gateway how it is; those that nobody configured need not run."""
    targets = {role: getattr(settings, role) for role in ROLES if role != "gateway"}
    named = [role for role in targets if os.environ.get(f"PAPERROUTE_GATEWAY__{role.upper()}")]
    faults = await asyncio.gather(*(_fault_of(targets[role], shared) for role in targets))
    found = dict(zip(targets, faults, strict=True))
    running = [role for role, fault in found.items() if fault is None]
    if not running and not named:
        return [note("services", "none runs here", "a survey starts its own; to serve others: paperroute up")]
    return list(_of_services(targets, found, named))


async def check_gateway(address: str) -> AsyncIterator[Finding]:
    """Ask a gateway how it is, and whether the token of the environment is good."""
    from gateway.client import AsyncPaperRouteClient, RequestFailed

    what = f"gateway {address}"
    try:
        settings = load(ClientSettings)
        client = AsyncPaperRouteClient(address, settings)
    except SettingsError as error:
        for line in error.problems:
            yield problem(what, line)
        return
    async with client:
        try:
            await anext(client.list_surveys(page_size=1), None)
        except RequestFailed as failure:
            yield problem(what, f"{failure.code.name}: {failure.message}", failure.advice)
        else:
            yield ok(what, "serves, and takes this token" if settings.token else "serves")


def _of_services(targets: dict[str, str], found: dict[str, str | None], named: list[str]) -> Iterator[Finding]:
    for role, fault in found.items():
        what = f"service {role}"
        if fault is None:
            yield ok(what, f"serves at {targets[role]}")
        elif role in named:
            yield problem(what, f"{targets[role]}: {fault}", f"paperroute serve {role}")
        else:
            yield note(what, f"does not run at {targets[role]}", f"paperroute serve {role}")


async def _fault_of(target: str, shared: SharedSettings) -> str | None:
    """Return why a service cannot be used; None when it serves."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with open_channel(target, service_token=shared.service_token) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=HEALTH_TIMEOUT_S)
        except grpc.aio.AioRpcError as failure:
            return failure.code().name
    return None if answer.status == health_pb2.HealthCheckResponse.SERVING else "it does not serve now"
