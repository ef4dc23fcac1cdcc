"""What a request to a gateway fails with: the reason, and what to do about it."""

from collections.abc import Mapping, Sequence

import grpc

from services.common.errors import Violation, reason_in, retry_after_in, violations_in

_ADVICE: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAUTHENTICATED: "set PAPERROUTE_TOKEN to the secret of a token that is good",
    grpc.StatusCode.PERMISSION_DENIED: "use a token with the scope that the method names",
    grpc.StatusCode.DEADLINE_EXCEEDED: "try again, or allow it more time",
    grpc.StatusCode.UNIMPLEMENTED: "the gateway is older than this client; bring it up to date",
    grpc.StatusCode.INTERNAL: "this is a fault of the gateway; its log says more",
}
_NOBODY = "start one with: paperroute up. One that is there wants PAPERROUTE_CA when it is encrypted"


class RequestFailed(Exception):
    """A gateway refused a request, or could not be asked."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str,
        advice: str = "",
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        """Describe it.

        Args:
            code: the gRPC status.
            message: what the gateway said.
            reason: for programs, stable: "NOT_FOUND", "QUEUE_FULL", "BUDGET_REACHED"; the status's name without one.
            advice: what to do next; may be empty where the message says it.
            violations: the fields that break their rules, all of them.
            retry_after_s: how long the gateway asks to wait; None when it does not.
        """
        super().__init__("; ".join(filter(None, (f"{code.name}: {message}", advice))))
        self.code = code
        self.message = message
        self.reason = reason
        self.advice = advice
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s


def failed(failure: grpc.aio.AioRpcError, address: str) -> RequestFailed:
    """Return what a failed call means to a caller of the gateway at an address."""
    code, reason = failure.code(), reason_in(failure)
    if code is grpc.StatusCode.UNAVAILABLE and reason == code.name:  # nobody's word: there was no answer
        return RequestFailed(code, f"no gateway answers at {address}", reason=reason, advice=_NOBODY)
    retry_after_s = retry_after_in(failure)
    return RequestFailed(
        code,
        failure.details() or "",
        reason=reason,
        advice=_advice(code, retry_after_s),
        violations=violations_in(failure),
        retry_after_s=retry_after_s,
    )


def _advice(code: grpc.StatusCode, retry_after_s: float | None) -> str:
    if retry_after_s is None:
        return _ADVICE.get(code, "")
    return f"try again in {retry_after_s:g} s" if retry_after_s else "try again"
