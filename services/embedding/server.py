"""Builds the embedding service's objects, opens them in the background, and closes them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

from services.common.errors import NotReady
from services.common.paid.calls import PaidCalls
from services.common.paid.process import paid_calls_of
from services.common.paid.settings import PaidSettings
from services.common.providers.registry import Providers, providers_of
from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SettingsError, SharedSettings, load
from services.embedding import fastembed_encoder, remote_encoder, wordllama_encoder
from services.embedding.edge_store import EdgeStore
from services.embedding.encoders import Encoders, Maker
from services.embedding.local_encoder import LocalEncoder, LocalModel
from services.embedding.paper_vectors import Encoder, PaperVectors, VectorStore, collection_of
from services.embedding.qdrant_store import QdrantStore
from services.embedding.remote_encoder import RemoteEncoder
from services.embedding.service import EmbeddingService
from services.embedding.settings import EmbeddingSettings

logger = logging.getLogger(__name__)

MEMORY = ":memory:"
OWNER = "embedding"
"""Of the ledger of what remote encoders are paid."""


def mount(host: RoleServer, settings: EmbeddingSettings, shared: SharedSettings) -> None:
    """Add the service to `host` and begin to open its model and store; the loop must be running.

    Raises:
        SettingsError: the default encoder is not one there is, or its key is missing; a variable has a bad value.
    """
    providers = providers_of(host)
    calls = paid_calls_of(host, shared, load(PaidSettings), OWNER)
    encoders = encoders_of(shared.data_dir / "models", providers, calls)
    _check_default(encoders, settings.encoder, providers)
    store = store_of(settings, shared.data_dir / "vectors")
    service = EmbeddingService(PaperVectors(store), encoders, settings.encoder, calls)
    pb_grpc.add_EmbeddingServiceServicer_to_server(service, host.server)
    warm_up = asyncio.create_task(_warm_up(encoders, settings.encoder, store))

    async def close() -> None:
        warm_up.cancel()
        await asyncio.wait([warm_up])
        await store.close()

    host.mounted("paperroute.v1.EmbeddingService", close)


def encoders_of(folder: Path, providers: Providers, calls: PaidCalls) -> Encoders:
    """Return the encoders there are; models that are downloaded are kept in `folder`."""

    def local(make: Callable[[str], LocalModel | None]) -> Maker:
        def made(model: str) -> Encoder | None:
            found = make(model)
            return LocalEncoder(found) if found else None

        return made

    def remote(provider: str) -> Maker:
        return lambda model: remote_encoder.encoder_of(f"{provider}:{model}", providers, calls)

    return Encoders(
        {
            wordllama_encoder.PROVIDER: local(wordllama_encoder.encoder_of),
            fastembed_encoder.PROVIDER: local(partial(fastembed_encoder.encoder_of, folder=folder)),
        },
        {name: remote(name) for name in providers.names if name not in remote_encoder.WITHOUT_EMBEDDINGS},
    )


def store_of(settings: EmbeddingSettings, folder: Path) -> VectorStore:
    """Return the store that the settings name, not opened yet; `folder` is the one of the embedded default."""
    if settings.store and settings.store != MEMORY:
        return QdrantStore(settings.store, settings.store_key)
    return EdgeStore(None if settings.store else folder, memory_when_locked=settings.memory_when_locked)


def _check_default(encoders: Encoders, name: str, providers: Providers) -> None:
    """Stop the start where the name cannot be right; that a package is missing is told by the calls that need it."""
    try:
        encoder = encoders.make(name)
    except NotReady:
        return
    problem = encoders.wanted if encoder is None else None
    if isinstance(encoder, RemoteEncoder):
        problem = providers.problem_of(name)
    if problem:
        raise SettingsError([f"PAPERROUTE_EMBEDDING__ENCODER={name!r}: {problem}"])


async def _warm_up(encoders: Encoders, name: str, store: VectorStore) -> None:
    """Open the default encoder and its collection ahead of the first call, which then need not wait for them."""
    try:
        encoder = await encoders.find(name)
        if encoder is None:
            return
        openings = encoder.open(), store.fetch(collection_of(encoder), [])
        outcomes: Sequence[object] = await asyncio.gather(*openings, return_exceptions=True)
    except NotReady as error:
        outcomes = [error]
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            logger.warning("could not be opened, the next call tries again: %s", outcome)


async def main() -> None:
    """Serve the role until a signal."""
    await serve_role("embedding", EmbeddingSettings, mount)
