"""Starts and stops the retrieval service."""

from datetime import timedelta
from functools import partial
from importlib.metadata import version

from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc

from services.common.channel import open_channel
from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.retrieval.arxiv_client import ArxivClient
from services.retrieval.arxiv_source import ArxivSource, KeptAnswers
from services.retrieval.auto_source import AutoSource, Sources
from services.retrieval.index_schema import FILE_NAME
from services.retrieval.index_source import IndexSource
from services.retrieval.page_cache import PageCache
from services.retrieval.request_gate import RequestGate
from services.retrieval.sample_source import SampleSource
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings
from services.retrieval.sources import SourceName
from services.retrieval.store import open_store
from services.retrieval.store_source import StoreSource


def mount(host: RoleServer, settings: RetrievalSettings, shared: SharedSettings) -> None:
    """Add RetrievalService to a server; nothing is opened or sent before the first search.

    Raises:
        SettingsError: the address of the database cannot be used.
    """
    store = open_store(shared)
    gate = RequestGate(store, spacing_s=settings.request_spacing_s, cooldown_s=settings.cooldown_s)
    cache = PageCache(store, settings.arxiv_url, settings.max_cache_bytes)
    channel = open_channel(settings.embedding, service_token=shared.service_token)
    embedding = embedding_grpc.EmbeddingServiceStub(channel)
    client = ArxivClient(settings.arxiv_url, user_agent=f"PaperRoute/{version('paperroute')}")
    arxiv = partial(
        ArxivSource, client, gate, cache, request_timeout_s=settings.request_timeout_s, fresh_s=settings.fresh_s
    )
    index = IndexSource(settings.index_path or shared.data_dir / FILE_NAME, embedding)
    sources = Sources(
        fresh=KeptAnswers(cache, max_age_s=settings.fresh_s),
        kept=KeptAnswers(cache, max_age_s=float("inf")),
        arxiv=arxiv(),
        impatient_arxiv=arxiv(max_wait_s=settings.max_wait_s),
        store=StoreSource(embedding),
        index=index,
    )
    service = RetrievalService(
        {
            SourceName.AUTO: AutoSource(sources, timedelta(days=settings.max_index_age_days)),
            SourceName.ARXIV: sources.arxiv,
            SourceName.SAMPLE: SampleSource(),
            SourceName.INDEX: index,
            SourceName.STORE: sources.store,
        },
        max_results_per_term=settings.max_results_per_term,
    )

    async def close() -> None:
        await index.close()
        await gate.close()
        await store.close()
        await channel.close()

    pb_grpc.add_RetrievalServiceServicer_to_server(service, host.server)
    host.mounted("paperroute.v1.RetrievalService", close)


async def main() -> None:
    """Serve the retrieval role until a signal."""
    await serve_role("retrieval", RetrievalSettings, mount)
