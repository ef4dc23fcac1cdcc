"""Builds the gateway; `paperroute serve gateway` runs its main()."""

from paperroute.v1 import survey_service_pb2_grpc as pb_grpc

from gateway.api.survey_service import SurveyService
from gateway.services import connect
from gateway.settings import GatewaySettings
from services.common.paid.prices import PriceBook
from services.common.paid.settings import ModelSettings, PaidSettings
from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SharedSettings, load

SERVICE = "paperroute.v1.SurveyService"


def mount(host: RoleServer, settings: GatewaySettings, shared: SharedSettings) -> None:  # noqa: ARG001 - every role's form
    """Add SurveyService to a server, with channels to the services of the settings."""
    prices = PriceBook(load(PaidSettings).prices)
    service = SurveyService(settings, connect(settings), load(ModelSettings), prices)
    pb_grpc.add_SurveyServiceServicer_to_server(service, host.server)
    host.mounted(SERVICE, service.close)


async def main() -> None:
    """Serve the gateway until a signal."""
    await serve_role("gateway", GatewaySettings, mount)
