"""Builds the generation role's objects; `paperroute serve generation` runs `main`."""

from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import generation_service_pb2_grpc as pb_grpc

from services.common.channel import open_channel
from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.generation.engines import Engines
from services.generation.llm.text_vectors import EmbeddedTexts
from services.generation.parts import parts_of
from services.generation.service import GenerationService
from services.generation.settings import GenerationSettings


def mount(host: RoleServer, settings: GenerationSettings, shared: SharedSettings) -> None:
    """Add the service to `host`.

    Raises:
        SettingsError: a default model is not one there is.
    """
    parts = parts_of(host, shared)
    channel = open_channel(settings.embedding, service_token=shared.service_token)
    vectors = EmbeddedTexts(embedding_grpc.EmbeddingServiceStub(channel))
    engines = Engines(parts.providers, parts.calls, vectors)
    engines.require_defaults(parts.models, ("plan", "write", "frame"))
    pb_grpc.add_GenerationServiceServicer_to_server(GenerationService(parts.models, engines, parts.calls), host.server)
    host.mounted("paperroute.v1.GenerationService", channel.close)


async def main() -> None:
    """Serve the role until a signal."""
    await serve_role("generation", GenerationSettings, mount)
