"""Builds the embedding service's objects, opens them in the background, and closes them."""

import asyncio
import logging
from functools import partial
from pathlib import Path

from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

from services.common.errors import NotReady
from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SettingsError, SharedSettings
from services.embedding import fastembed_encoder, wordllama_encoder
from services.embedding.edge_store import EdgeStore
from services.embedding.encoders import Encoders
from services.embedding.paper_vectors import PaperVectors, VectorStore, collection_of
from services.embedding.qdrant_store import QdrantStore
from services.embedding.service import EmbeddingService
from services.embedding.settings import EmbeddingSettings

logger = logging.getLogger(__name__)

MEMORY = ":memory:"


def mount(host: RoleServer, settings: EmbeddingSettings, shared: SharedSettings) -> None:
    """Add the service to `host` and begin to open its model and store; the loop must be running.

    Raises:
        SettingsError: the default encoder is not one there is.
    """
    encoders = encoders_of(shared.data_dir / "models")
    _check_default(encoders, settings.encoder)
    store = store_of(settings, shared.data_dir / "vectors")
    service = EmbeddingService(PaperVectors(store), encoders, settings.encoder)
    pb_grpc.add_EmbeddingServiceServicer_to_server(service, host.server)
    warm_up = asyncio.create_task(_warm_up(encoders, settings.encoder, store))

    async def close() -> None:
        warm_up.cancel()
        await asyncio.wait([warm_up])
        await store.close()

    host.mounted("paperroute.v1.EmbeddingService", close)


def encoders_of(folder: Path) -> Encoders:
    """Return the encoders there are; models that are downloaded are kept in `folder`."""
    return Encoders(
        {
            wordllama_encoder.PROVIDER: wordllama_encoder.encoder_of,
            fastembed_encoder.PROVIDER: partial(fastembed_encoder.encoder_of, folder=folder),
        }
    )


def store_of(settings: EmbeddingSettings, folder: Path) -> VectorStore:
    """Return the store that the settings name, not opened yet; `folder` is the one of the embedded default."""
    if settings.store and settings.store != MEMORY:
        return QdrantStore(settings.store, settings.store_key)
    return EdgeStore(None if settings.store else folder, memory_when_locked=settings.memory_when_locked)


def _check_default(encoders: Encoders, name: str) -> None:
    """Stop the start where the name cannot be right; that a package is missing is told by the calls that need it."""
    try:
        is_known = encoders.make(name) is not None
    except NotReady:
        return
    if not is_known:
        raise SettingsError([f"PAPERROUTE_EMBEDDING__ENCODER={name!r}: {encoders.wanted}"])


async def _warm_up(encoders: Encoders, name: str, store: VectorStore) -> None:
    """Open the default encoder and its collection ahead of the first call, which then need not wait for them."""
    try:
        encoder = await encoders.find(name)
        if encoder is None:
            return
        openings = asyncio.to_thread(encoder.encode, []), store.fetch(collection_of(encoder), [])
        outcomes = await asyncio.gather(*openings, return_exceptions=True)
    except NotReady as error:
        outcomes = [error]
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            logger.warning("could not be opened, the next call tries again: %s", outcome)


async def main() -> None:
    """Serve the role until a signal."""
    await serve_role("embedding", EmbeddingSettings, mount)
