"""Adds the console to a server of the gateway: a port of its own, and a channel to the public services."""

from typing import TYPE_CHECKING

from gateway.access.access import protection_of
from gateway.settings import GatewaySettings
from services.common.addresses import is_loopback
from services.common.channel import open_channel
from services.common.server import RoleServer
from services.common.settings import PREFIX, SettingsError, SharedSettings

if TYPE_CHECKING:
    import grpc

    from gateway.console.limits import Places
    from gateway.console.serving import ConsoleServer

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
VARIABLE = f"{PREFIX}GATEWAY__CONSOLE_LISTEN"


def mount_console(host: RoleServer, settings: GatewaySettings, shared: SharedSettings) -> None:
    """Serve the console with the gateway, where the settings say so.

    Raises:
        SettingsError: it would be beyond loopback without what protects the gateway there.
    """
    if not settings.console_listen:
        return
    missing = protection_of(settings, shared).missing
    if missing and not (shared.allow_insecure_listen or is_loopback(settings.console_listen)):
        problem = f"refusing to listen beyond loopback without {', '.join(missing)}"
        raise SettingsError([f"{VARIABLE}={settings.console_listen}: {problem}"])
    console = host.once("console", lambda: _Console(host.inner_address(), settings), _Console.close)
    host.opening(console.open)


def console_url(host: RoleServer) -> str:
    """Return where the console of a server is; "" where it has none."""
    console: _Console | None = host.shared("console")
    return console.url if console else ""


class _Console:
    """The console of one gateway, from its start to its end."""

    def __init__(self, gateway: str, settings: GatewaySettings) -> None:
        self._gateway = gateway
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None
        self._server: ConsoleServer | None = None
        self._places: Places | None = None

    @property
    def url(self) -> str:
        return self._server.url if self._server else ""

    async def open(self) -> None:
        """Begin to serve; the libraries of the web are loaded here, where a console is wanted."""
        from gateway.console.app import console_app
        from gateway.console.limits import Places
        from gateway.console.serving import ConsoleServer
        from gateway.console.visitor import Gateway

        settings = self._settings
        self._channel = open_channel(self._gateway)
        behind = Gateway(
            channel=self._channel,
            needs_tokens=settings.auth == "tokens",
            is_encrypted=settings.tls_cert is not None,
        )
        self._places = Places()
        self._server = ConsoleServer(
            console_app(behind, _hosts_of(settings), self._places),
            settings.console_listen,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
        )
        await self._server.start()

    async def close(self) -> None:
        """End the pages that are under way, within two seconds."""
        if self._places:
            self._places.closing.set()
        if self._server:
            await self._server.stop()
        if self._channel:
            await self._channel.close()


def _hosts_of(settings: GatewaySettings) -> list[str]:
    """Return the names by which the console may be asked: those of the settings, and this machine's own."""
    own = settings.console_listen.rpartition(":")[0].strip("[]")
    named = [name.strip() for name in settings.console_hosts.split(",") if name.strip()]
    return [*named, own, *(LOOPBACK_NAMES if is_loopback(settings.console_listen) else ())]
