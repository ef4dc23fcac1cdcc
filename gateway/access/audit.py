"""Who did what: written in the transaction that does it, so that there is no deed without its row."""

from typing import TYPE_CHECKING

from paperroute.v1 import admin_service_pb2 as pb

from gateway.access.principal import Principal
from gateway.store import audit

if TYPE_CHECKING:
    from sqlalchemy import Connection


def record(connection: "Connection", principal: Principal, action: pb.AuditAction.ValueType, subject: str) -> None:
    """Write down that `principal` did `action` to `subject`: a survey_id, a token_id, a tenant."""
    audit.add(connection, tenant=principal.tenant, token_id=principal.token_id, action=action, subject=subject)
