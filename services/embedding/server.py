"""Builds the embedding service's objects, opens them in the background, and closes them."""

import asyncio
import logging

from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SettingsError, SharedSettings
from services.embedding.paper_vectors import PaperVectors
from services.embedding.qdrant_store import QdrantStore
from services.embedding.service import EmbeddingService
from services.embedding.settings import EmbeddingSettings
from services.embedding.wordllama_encoder import WordLlamaEncoder

logger = logging.getLogger(__name__)


def mount(host: RoleServer, settings: EmbeddingSettings, shared: SharedSettings) -> None:
    """Add the service to `host` and begin to open its model and store; the loop must be running.

    Raises:
        SettingsError: the default encoder is not one there is.
    """
    encoder = WordLlamaEncoder()
    encoders = {encoder.name: encoder}
    if settings.encoder not in encoders:
        wanted = f"one of {', '.join(encoders)}"
        raise SettingsError([f"PAPERROUTE_EMBEDDING__ENCODER={settings.encoder!r}: {wanted}"])
    store = QdrantStore(settings.store or shared.data_dir / "qdrant", memory_when_locked=settings.memory_when_locked)
    service = EmbeddingService(PaperVectors(store), encoders, settings.encoder)
    pb_grpc.add_EmbeddingServiceServicer_to_server(service, host.server)
    warm_up = asyncio.create_task(_warm_up(encoder, store))

    async def close() -> None:
        warm_up.cancel()
        await asyncio.wait([warm_up])
        await store.close()

    host.mounted("paperroute.v1.EmbeddingService", close)


async def _warm_up(encoder: WordLlamaEncoder, store: QdrantStore) -> None:
    """Open both ahead of the first call, which then need not wait for slow imports."""
    openings = asyncio.to_thread(encoder.load), store.open()
    for outcome in await asyncio.gather(*openings, return_exceptions=True):
        if isinstance(outcome, Exception):
            logger.warning("could not be opened, the next call tries again: %s", outcome)


async def main() -> None:
    """Serve the role until a signal."""
    await serve_role("embedding", EmbeddingSettings, mount)
