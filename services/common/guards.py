"""Guards: who may call a service. A server asks one before each call, and before the request is even read."""

import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from pydantic import SecretStr

from services.common.errors import Unauthenticated
from services.common.handlers import Around, wrapped

SERVICE_TOKEN_KEY = "paperroute-service-token"  # noqa: S105 - the name of the header
"""Metadata key under which services prove each other that they belong together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IncomingCall:
    """A call before its request is read."""

    method: str
    """Path: "/paperroute.v1.SurveyService/GetSurvey"."""
    metadata: Sequence[tuple[str, str | bytes]]
    is_stream: bool
    """Whether it is answered by a stream."""

    def values_of(self, key: str) -> list[bytes]:
        """Return the values of a metadata key; a client may send none, or several."""
        found = [value for name, value in self.metadata if name == key]
        return [value.encode(errors="surrogateescape") if isinstance(value, str) else value for value in found]


Guard = Callable[[IncomingCall], Awaitable[Around | None]]
"""Returns what to hold open while the call is handled, None for nothing; refuses it by raising one of our errors."""


class Guards(grpc.aio.ServerInterceptor):
    """The guards of a server's services. It stands inside of the interceptor that tells errors."""

    def __init__(self, otherwise: Guard | None = None) -> None:
        """Take the guard of all services that have none of their own; None leaves them open to everybody."""
        self._otherwise = otherwise
        self._by_service: dict[str, Guard | None] = {}

    def put(self, service_name: str, guard: Guard | None) -> None:
        """Set the guard of a service, which has none yet; None leaves it open to everybody."""
        self._by_service.setdefault(service_name, guard)

    async def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wrap the handler of one RPC, or put one in its place that says why the call is refused."""
        handler = await continuation(details)
        guard = self._by_service.get(details.method.lstrip("/").rpartition("/")[0], self._otherwise)
        if handler is None or guard is None:
            return handler
        call = IncomingCall(
            method=details.method,
            metadata=tuple(details.invocation_metadata or ()),
            is_stream=bool(handler.response_streaming),
        )
        try:
            around = await guard(call)
        except Exception as error:  # noqa: BLE001 - raised again where it becomes a status, bugs included
            return _refusing(handler, error)
        return wrapped(handler, around) if around else handler


def service_guard(token: SecretStr) -> Guard:
    """Return the guard of what only other services may call: they send the token that all share."""
    wanted = _digest(token.get_secret_value().encode())

    async def guard(call: IncomingCall) -> None:
        given = call.values_of(SERVICE_TOKEN_KEY)
        # Digests have one length, so that the comparison takes the same time for every token.
        if len(given) != 1 or not hmac.compare_digest(_digest(given[0]), wanted):
            raise Unauthenticated("only other services call this one, with the same PAPERROUTE_SERVICE_TOKEN as here")

    return guard


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _refusing(handler: Any, error: Exception) -> Any:
    """Return a handler of the same kind that raises the error and never reads the request."""

    @contextlib.asynccontextmanager
    async def around(_context: object) -> AsyncIterator[None]:
        raise error
        yield  # makes it a context manager

    return wrapped(handler, around, deserializer=lambda _: bytes)
