"""An embedding service for one command: in this process, and nothing of what it makes is kept."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Self

from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc

from gateway.roles import ROLES
from services.common.channel import open_channel
from services.common.papers import Paper
from services.common.server import RoleServer
from services.common.settings import SharedSettings, load
from services.retrieval.index_vectors import Embedded, embedded

MAX_EMBEDDED_PAPERS = 20_000
"""Papers after which the service is begun anew: it keeps every vector for as long as it runs, some 100 MB of these."""


@contextlib.asynccontextmanager
async def own_embedding() -> AsyncIterator["pb_grpc.EmbeddingServiceAsyncStub"]:
    """Yield a stub of an embedding service whose store goes away with it.

    Raises:
        SettingsError: the environment cannot be used.
    """
    role = ROLES["embedding"]
    settings = load(role.settings()).model_copy(update={"store": ":memory:"})
    host = RoleServer("127.0.0.1:0")
    role.mount()(host, settings, load(SharedSettings))
    await host.start()
    try:
        async with open_channel(host.address) as channel:
            yield pb_grpc.EmbeddingServiceStub(channel)
    finally:
        await host.stop(drain_s=1)


class PassingVectors:
    """Makes vectors of any number of papers in bounded memory; a context manager."""

    def __init__(self) -> None:
        self._open = contextlib.AsyncExitStack()
        self._stub: pb_grpc.EmbeddingServiceAsyncStub | None = None
        self._count = 0

    async def __aenter__(self) -> Self:
        """Begin nothing yet: a build that finds no new text needs no model."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the service."""
        await self._open.aclose()

    async def of(self, papers: Sequence[Paper]) -> Embedded:
        """Return the vectors of 1 to 500 papers.

        Raises:
            UpstreamFailed: the encoder cannot be opened.
        """
        if self._stub is None or self._count + len(papers) > MAX_EMBEDDED_PAPERS:
            await self._open.aclose()
            self._stub = await self._open.enter_async_context(own_embedding())
            self._count = 0
        self._count += len(papers)
        return await embedded(self._stub, papers)
