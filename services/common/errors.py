"""The errors our domain code raises, and the gRPC status each becomes.

Callers branch on `reason`, never on the message. A message names the thing, what was wanted and what was found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "paperroute"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY, PUSHBACK_MS = "grpc-retry-pushback-ms", "1"
"""How long a channel is to wait before it tries again. With 0 grpc 1.85 waits for ever."""
_Detail = TypeVar("_Detail", bound=Message)

# A status travels in HTTP/2 headers, which hold about 8 KiB; non-ASCII bytes take three there, binary ones four thirds.
MAX_VIOLATIONS_BYTES = 2_400
MAX_MESSAGE_BYTES = 600
MAX_DESCRIPTION_BYTES = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One broken rule of a request: the field's path ("spec.question") and what was wanted."""

    field: str
    description: str


class PaperRouteError(Exception):
    """A failure that a caller can understand and react to."""

    code: ClassVar[grpc.StatusCode]
    reason: ClassVar[str]

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata

    def details(self) -> Sequence[Message]:
        """Return the google.rpc details besides ErrorInfo."""
        return ()

    def trailers(self) -> Sequence[tuple[str, str]]:
        """Return the metadata that tells the caller's channel what to do, besides the status."""
        return ()


class InvalidRequest(PaperRouteError):
    """Fields break their rules; all of them are named."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[Violation]) -> None:
        lines = [f"{each.field}: {each.description}" if each.field else each.description for each in violations]
        super().__init__("; ".join(lines))
        self.violations = tuple(violations)

    def details(self) -> Sequence[Message]:
        """Return a BadRequest with the first violations, and the number of those that did not fit."""
        shown = error_details_pb2.BadRequest()
        for position, violation in enumerate(self.violations):
            if shown.ByteSize() > MAX_VIOLATIONS_BYTES:
                shown.field_violations.add(description=f"and {len(self.violations) - position} more")
                break
            shown.field_violations.add(field=_short(violation.field), description=_short(violation.description))
        return (shown,)


class NotFound(PaperRouteError):
    """There is no thing of that kind and name, or it is not the caller's."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"no {kind} {name!r}", kind=kind, name=name)

    def details(self) -> Sequence[Message]:
        """Return a ResourceInfo that names the thing."""
        return (_resource(self.metadata),)


class AlreadyExists(PaperRouteError):
    """The name is taken by something else."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"

    def __init__(self, kind: str, name: str, difference: str) -> None:
        super().__init__(f"{kind} {name!r} exists with another {difference}", kind=kind, name=name)

    def details(self) -> Sequence[Message]:
        """Return a ResourceInfo that names the thing."""
        return (_resource(self.metadata),)


class UpstreamFailed(PaperRouteError):
    """Something outside (arXiv, a model provider, a store) does not answer as it should."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UPSTREAM_FAILED"

    def __init__(self, source: str, problem: str, *, retry_after_s: float = 0) -> None:
        super().__init__(f"{source}: {problem}", source=source)
        self.retry_after_s = retry_after_s

    def details(self) -> Sequence[Message]:
        """Return how long to wait before the next try."""
        return (_retry(self.retry_after_s),)


class BudgetReached(PaperRouteError):
    """The next call could cost more than is left."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "BUDGET_REACHED"

    def __init__(self, limit_nano_usd: int) -> None:
        super().__init__(
            f"the limit of {limit_nano_usd} nano-US-dollars is reached; raise it", limit_nano_usd=str(limit_nano_usd)
        )


class QueueFull(PaperRouteError):
    """As much work is under way as is allowed."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"

    def __init__(self, limit: int, *, retry_after_s: float) -> None:
        super().__init__(f"{limit} are under way, which is the most; try again later", limit=str(limit))
        self.retry_after_s = retry_after_s

    def details(self) -> Sequence[Message]:
        """Return how long to wait before the next try."""
        return (_retry(self.retry_after_s),)


class RateLimited(PaperRouteError):
    """The caller asks more often than it may."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "RATE_LIMITED"

    def __init__(self, max_requests_per_s: float, *, retry_after_s: float) -> None:
        limit = f"{max_requests_per_s:g}"
        super().__init__(f"more than {limit} requests a second; wait and try again", max_requests_per_s=limit)
        self.retry_after_s = retry_after_s

    def details(self) -> Sequence[Message]:
        """Return how long to wait before the next try."""
        return (_retry(self.retry_after_s),)


class Overloaded(PaperRouteError):
    """This worker has as much in hand as it takes; nothing was begun, and another one may have a place."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "OVERLOADED"

    def __init__(self, limit: int, *, retry_after_s: float) -> None:
        super().__init__(f"this worker has {limit} in hand, which is the most; try again later", limit=str(limit))
        self.retry_after_s = retry_after_s

    def details(self) -> Sequence[Message]:
        """Return how long it takes until a place is likely to be free."""
        return (_retry(self.retry_after_s),)

    def trailers(self) -> Sequence[tuple[str, str]]:
        """Send the caller's channel to the next worker at once, instead of after its pause for workers that died."""
        return ((PUSHBACK_KEY, PUSHBACK_MS),)


class _Precondition(PaperRouteError):
    code = grpc.StatusCode.FAILED_PRECONDITION

    def details(self) -> Sequence[Message]:
        """Return a PreconditionFailure with the message."""
        violation = error_details_pb2.PreconditionFailure.Violation(type=self.reason, description=_short(self.message))
        return (error_details_pb2.PreconditionFailure(violations=[violation]),)


class Unpriced(_Precondition):
    """A budget was set for a model whose price is unknown."""

    reason = "UNPRICED"

    def __init__(self, model: str) -> None:
        super().__init__(f"{model}: its price is unknown, so no budget can be kept; set a price for it", model=model)


class NotReady(_Precondition):
    """Something this needs is missing on the server; the advice says what to set up."""

    reason = "NOT_READY"

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}: {advice}", what=what)


class NoSearchTerms(_Precondition):
    """The question holds nothing to search for that the engine understands."""

    reason = "NO_SEARCH_TERMS"

    def __init__(self, advice: str) -> None:
        super().__init__(f"no search term can be made of the question; {advice}")


class Unauthenticated(PaperRouteError):
    """The caller did not prove who it is."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


class Forbidden(PaperRouteError):
    """The caller's token does not allow this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "FORBIDDEN"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs a token with the scope {scope!r}", scope=scope)


def status_of(error: PaperRouteError) -> status_pb2.Status:
    """Return the status an error travels as: code, message, ErrorInfo and the error's own details."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={key: _short(value) for key, value in error.metadata.items()}
    )
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code.name), message=_limited(error.message, MAX_MESSAGE_BYTES)
    )
    for detail in (info, *error.details()):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def status_in(failure: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """Return the rich status a failed call carries, or None when it carries none that can be read."""
    for key, value in failure.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except ValueError:
                return None
    return None


def reason_in(failure: grpc.aio.AioRpcError) -> str:
    """Return the ErrorInfo reason of a failed call; its status name when it carries none."""
    for info in _details_in(failure, error_details_pb2.ErrorInfo):
        if info.reason:
            return str(info.reason)
    return failure.code().name


def retry_after_in(failure: grpc.aio.AioRpcError) -> float | None:
    """Return how long a failed call asks to wait, in seconds; None when it does not say."""
    for retry in _details_in(failure, error_details_pb2.RetryInfo):
        return float(retry.retry_delay.ToMilliseconds()) / 1000
    return None


def violations_in(failure: grpc.aio.AioRpcError) -> list[Violation]:
    """Return the broken fields a failed call names, in the order of the request's checks."""
    return [
        Violation(field=each.field, description=each.description)
        for detail in _details_in(failure, error_details_pb2.BadRequest)
        for each in detail.field_violations
    ]


def _details_in(failure: grpc.aio.AioRpcError, kind: type[_Detail]) -> list[_Detail]:
    status = status_in(failure)
    found = []
    for packed in status.details if status else ():
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


def _resource(metadata: Mapping[str, str]) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(resource_type=metadata["kind"], resource_name=_short(metadata["name"]))


def _retry(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(round(seconds * 1000))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _short(text: str) -> str:
    return _limited(text, MAX_DESCRIPTION_BYTES)


def _limited(text: str, limit: int) -> str:
    """Return `text` cut to `limit` bytes of UTF-8."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= limit else f"{encoded[: limit - 3].decode(errors='ignore')}…"
