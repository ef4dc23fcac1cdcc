"""The one place where an exception becomes a gRPC status."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from services.common.errors import DETAILS_KEY, InvalidRequest, PaperRouteError, Violation, status_of
from services.common.handlers import Deserializer, wrapped

logger = logging.getLogger(__name__)


class _Undecodable:
    """Stands for a request whose bytes are no message of its type."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns our errors into their status, passes inner statuses on, and hides everything else behind INTERNAL."""

    async def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wrap the handler of one RPC."""
        handler = await continuation(details)
        if handler is None:
            return None
        return wrapped(_guarded(handler), _status_around(details.method), _decoder)


def _decoder(plain: Deserializer) -> Deserializer:
    # grpc answers UNKNOWN when a deserializer raises; so it must not raise, and the handler's guard says what is wrong.
    def decode(data: bytes) -> Any:
        try:
            return plain(data)
        except DecodeError as error:
            return _Undecodable(error)

    return decode


def _guarded(handler: Any) -> Any:
    """Return the handler with a check before it that refuses an undecodable request."""

    def guard(inner: Any) -> Any:
        def behaviour(request: Any, context: Any) -> Any:
            if isinstance(request, _Undecodable):
                message = "the request's bytes are no message of this method's type"
                raise InvalidRequest([Violation(field="", description=message)]) from request.error
            return inner(request, context)

        return behaviour

    if handler.request_streaming:
        return handler
    name = "unary_stream" if handler.response_streaming else "unary_unary"
    return handler._replace(**{name: guard(getattr(handler, name))})


def _status_around(method: str) -> Any:
    @contextlib.asynccontextmanager
    async def around(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        try:
            yield
        except PaperRouteError as error:
            await _abort(context, error)
        except grpc.aio.AioRpcError as failure:
            details = failure.trailing_metadata() or ()
            kept = tuple((key, value) for key, value in details if key == DETAILS_KEY)
            await context.abort(failure.code(), failure.details() or "", kept)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception:
            logger.exception("%s failed by a bug", method)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return around


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: PaperRouteError) -> NoReturn:
    status = status_of(error)
    await context.abort(error.code, status.message, ((DETAILS_KEY, status.SerializeToString()), *error.trailers()))
    raise AssertionError  # abort always raises
