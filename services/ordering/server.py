"""Mounts OrderingService on a server; `paperroute serve ordering` runs `main`."""

from paperroute.v1 import ordering_service_pb2_grpc as pb_grpc

from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SharedSettings
from services.ordering.annealing_process import anneal_in_process
from services.ordering.service import OrderingService
from services.ordering.settings import OrderingSettings


def mount(host: RoleServer, settings: OrderingSettings, shared: SharedSettings) -> None:  # noqa: ARG001 # keeps no files
    """Add the service to a server.

    BLAS gets one thread: requests run side by side, and on a busy machine two threads for one small matrix wait for
    each other longer than one takes alone.
    """
    import threadpoolctl

    threadpoolctl.threadpool_limits(1, user_api="blas")
    service = OrderingService(settings, anneal_in_process)
    pb_grpc.add_OrderingServiceServicer_to_server(service, host.server)
    host.mounted("paperroute.v1.OrderingService", service.close)


async def main() -> None:
    """Serve the role until a signal."""
    await serve_role("ordering", OrderingSettings, mount)
