"""The servicer of UsageService."""

from typing import TYPE_CHECKING, Any

import grpc
from paperroute.v1 import usage_service_pb2 as pb
from paperroute.v1 import usage_service_pb2_grpc as pb_grpc

from gateway.access.principal import principal
from gateway.api import convert_usage
from gateway.store.usage import UsageQuery, UsageSum
from services.common.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

Context = grpc.aio.ServicerContext[Any, Any]


class UsageService(pb_grpc.UsageServiceServicer):
    """Serves UsageService for whoever the guard let in."""

    def __init__(self, database: Database) -> None:
        """Take the gateway's database."""
        self._database = database

    async def QueryUsage(self, request: pb.QueryUsageRequest, context: Context) -> pb.QueryUsageResponse:
        """Return what groups of surveys took and cost."""
        query = convert_usage.query_of(request, principal())
        if query is None:
            return pb.QueryUsageResponse(total=pb.UsageRow())
        groups, total, has_more = await self._database.read(lambda connection: _summed(connection, query))
        return convert_usage.response_of(request, groups, total, has_more=has_more)


def _summed(connection: "Connection", query: UsageQuery) -> tuple[list[UsageSum], UsageSum, bool]:
    from gateway.store import usage

    groups, has_more = usage.groups(connection, query)
    return groups, usage.total(connection, query), has_more
