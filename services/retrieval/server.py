"""Starts and stops the retrieval service."""

from importlib.metadata import version

from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc
from paperroute.v1 import search_pb2

from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.retrieval.arxiv_client import ArxivClient
from services.retrieval.arxiv_source import ArxivSource
from services.retrieval.request_gate import RequestGate
from services.retrieval.sample_source import SampleSource
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings


def mount(host: RoleServer, settings: RetrievalSettings, shared: SharedSettings) -> None:
    """Add RetrievalService to a server; nothing is sent to arXiv before the first search."""
    del shared  # there is no store yet
    client = ArxivClient(settings.arxiv_url, user_agent=f"PaperRoute/{version('paperroute')}")
    arxiv = ArxivSource(client, RequestGate(settings.request_spacing_s), settings.request_timeout_s)
    service = RetrievalService(
        {search_pb2.SOURCE_ARXIV: arxiv, search_pb2.SOURCE_SAMPLE: SampleSource()},
        max_results_per_term=settings.max_results_per_term,
    )
    pb_grpc.add_RetrievalServiceServicer_to_server(service, host.server)
    host.mounted("paperroute.v1.RetrievalService")


async def main() -> None:
    """Serve the retrieval role until a signal."""
    await serve_role("retrieval", RetrievalSettings, mount)
