"""Serves the console on a port of its own, on the gateway's loop."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from services.common.errors import NotReady

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DRAIN_S = 2
MAX_CONNECTIONS = 1_000
KEEP_ALIVE_S = 30
HEAD_S = 10.0
"""Longest that the head of a request may take to arrive."""


class ConsoleServer:
    """An HTTP server that neither takes signals nor writes logs of its own."""

    def __init__(
        self, app: "ASGIApp", listen: str, *, tls_cert: Path | None = None, tls_key: Path | None = None
    ) -> None:
        """Name where to listen; `start` does.

        Args:
            app: what is served.
            listen: "host:port"; port 0 picks a free one.
            tls_cert: PEM file of the certificate; None encrypts nothing.
            tls_key: PEM file of its key.
        """
        self.listen = listen
        host, _, port = listen.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_Protocol,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=DRAIN_S,
                ssl_certfile=tls_cert,
                ssl_keyfile=tls_key,
            )
        )
        self._scheme = "https" if tls_cert else "http"
        self._socket: socket.socket | None = None
        self._serving: asyncio.Task[Any] | None = None

    @property
    def url(self) -> str:
        """Return where the console is, once it is served."""
        if self._socket is None:
            raise RuntimeError("the console is not served")
        port = self._socket.getsockname()[1]
        return f"{self._scheme}://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            NotReady: somebody else has the port.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            self._socket = socket.create_server((self._host, self._port), family=family)
        except OSError as error:
            problem = f"{self.listen} cannot be listened on ({error.strerror}); set PAPERROUTE_GATEWAY__CONSOLE_LISTEN"
            raise NotReady("the console", problem) from error
        self._serving = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self) -> None:
        """End what is under way within two seconds, and the server."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving
        if self._socket is not None:
            self._socket.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none: whoever runs the gateway ends it."""
        yield


class _Protocol(H11Protocol):
    """Ends connections on which no request arrives, or only slowly: they would keep others out."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the library has it
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
