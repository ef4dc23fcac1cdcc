"""Everything that says who may call the gateway, made of its settings."""

from dataclasses import dataclass

from gateway.access.guard import AccessGuard
from gateway.access.limits import TenantLimits
from gateway.access.tokens import Tokens
from gateway.settings import GatewaySettings
from services.common.database import Database
from services.common.server import Protection
from services.common.settings import PREFIX, SettingsError, SharedSettings
from services.common.tls import ServerTls

_PREFIX = f"{PREFIX}GATEWAY__"


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """The guard of the public services, and what it knows."""

    tokens: Tokens
    limits: TenantLimits
    guard: AccessGuard

    async def close(self) -> None:
        """Write down which tokens were used, and end what is under way; the database stays open."""
        await self.guard.close()
        await self.limits.close()
        await self.tokens.close()


def access_of(settings: GatewaySettings, database: Database) -> Access:
    """Return the access of a gateway; nothing is read before the first call."""
    tokens = Tokens(database, settings.admin_token)
    limits = TenantLimits(database, settings)
    guard = AccessGuard(tokens, limits, needs_tokens=settings.auth == "tokens")
    return Access(tokens=tokens, limits=limits, guard=guard)


def protection_of(settings: GatewaySettings, shared: SharedSettings) -> Protection:
    """Return what keeps strangers from a gateway: tokens and encryption.

    Raises:
        SettingsError: one of certificate and key is missing.
    """
    missing = [] if settings.auth == "tokens" else [f"{_PREFIX}AUTH=tokens"]
    if settings.tls_cert is None:
        missing += [f"{_PREFIX}TLS_CERT", f"{_PREFIX}TLS_KEY"]
    return Protection(
        service_token=shared.service_token,
        tls=_tls_of(settings),
        missing=tuple(missing),
        allow_insecure_listen=shared.allow_insecure_listen,
    )


def _tls_of(settings: GatewaySettings) -> ServerTls | None:
    if settings.tls_cert and settings.tls_key:
        return ServerTls(
            cert=settings.tls_cert,
            key=settings.tls_key,
            client_ca=settings.tls_client_ca,
            prefix=f"{_PREFIX}TLS_",
        )
    given = [name for name in ("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA") if getattr(settings, name.lower())]
    if given:
        needed = " and ".join(f"{_PREFIX}{name}" for name in ("TLS_CERT", "TLS_KEY"))
        raise SettingsError([f"{_PREFIX}{given[0]} is set: {needed} must be too"])
    return None
