"""Builds the generation role's objects; `paperroute serve generation` runs `main`."""

from paperroute.v1 import generation_service_pb2_grpc as pb_grpc

from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.generation.engines import make_engines, require_defaults
from services.generation.service import GenerationService
from services.generation.settings import GenerationSettings


def mount(host: RoleServer, settings: GenerationSettings, shared: SharedSettings) -> None:  # noqa: ARG001 # as all roles
    """Add the service to `host`.

    Raises:
        SettingsError: a default model is not one there is.
    """
    engines = make_engines()
    names = ("plan", "write", "frame")
    defaults = {f"PAPERROUTE_GENERATION__MODEL_{name.upper()}": getattr(settings, f"model_{name}") for name in names}
    require_defaults(engines, defaults)
    pb_grpc.add_GenerationServiceServicer_to_server(GenerationService(settings, engines), host.server)
    host.mounted("paperroute.v1.GenerationService")


async def main() -> None:
    """Serve the role until a signal."""
    await serve_role("generation", GenerationSettings, mount)
