"""Builds the summarization role's objects; `paperroute serve summarization` runs `main`."""

from paperroute.v1 import summarization_service_pb2_grpc as pb_grpc

from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.generation.capacity import Capacity
from services.generation.engines import Engines
from services.generation.parts import parts_of
from services.generation.service import SummarizationService
from services.generation.settings import SummarizationSettings


def mount(host: RoleServer, settings: SummarizationSettings, shared: SharedSettings) -> None:
    """Add the service to `host`.

    Raises:
        SettingsError: the default model is not one there is.
    """
    parts = parts_of(host, shared)
    engines = Engines(parts.providers, parts.calls)
    engines.require_defaults(parts.models, ("summarize",))
    service = SummarizationService(parts.models, engines, Capacity(settings.max_papers_in_flight))
    pb_grpc.add_SummarizationServiceServicer_to_server(service, host.server)
    host.mounted("paperroute.v1.SummarizationService")


async def main() -> None:
    """Serve the role until a signal."""
    await serve_role("summarization", SummarizationSettings, mount)
