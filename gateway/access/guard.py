"""The guard of the public services: who calls, whether that may be done with their token, and how often."""

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from grpc_reflection.v1alpha import reflection

from gateway.access.limits import TenantLimits
from gateway.access.principal import LOCAL, Principal, Scope, acting
from gateway.access.rates import Rates
from gateway.access.tokens import REFUSAL, Tokens
from services.common.errors import Forbidden, PaperRouteError, RateLimited, Unauthenticated, UpstreamFailed
from services.common.guards import IncomingCall
from services.common.handlers import Around
from services.common.telemetry.spans import annotate

PATROL_S = 2.0
"""From one look at the tokens of the streams under way to the next."""
LOOK_S = 2.0
"""Longest that one may take. What is known of a token may be 4 s old: a stream ends within 10 s after its token."""
_BEARER = b"bearer "
_MS = 1_000

_SURVEY = {
    "CreateSurvey": Scope.WRITE,
    "GetSurvey": Scope.READ,
    "ListSurveys": Scope.READ,
    "WatchSurvey": Scope.READ,
    "CancelSurvey": Scope.WRITE,
    "ResumeSurvey": Scope.WRITE,
    "RewriteSection": Scope.WRITE,
    "DeleteSurvey": Scope.WRITE,
    "EstimateSurvey": Scope.READ,
}
_USAGE = {"QueryUsage": Scope.READ}
_ADMIN = {
    "CreateTenant": Scope.ADMIN,
    "ListTenants": Scope.ADMIN,
    "UpdateTenant": Scope.ADMIN,
    "CreateToken": Scope.ADMIN,
    "ListTokens": Scope.ADMIN,
    "RotateToken": Scope.READ,  # its own; the service asks for ADMIN where it is another one
    "RevokeToken": Scope.ADMIN,
    "ListAuditEvents": Scope.ADMIN,
}
SCOPES: Mapping[str, Scope] = {
    f"/{service}/{method}": scope
    for service, methods in {
        "paperroute.v1.SurveyService": _SURVEY,
        "paperroute.v1.UsageService": _USAGE,
        "paperroute.v1.AdminService": _ADMIN,
        reflection.SERVICE_NAME: {"ServerReflectionInfo": Scope.READ},
    }.items()
    for method, scope in methods.items()
}
"""What each public method needs. A method that does not stand here is refused."""


@dataclass(eq=False, slots=True)
class _Stream:
    """A call that is answered by a stream, under way."""

    digest: str
    task: "asyncio.Task[object]"
    refusal: PaperRouteError | None = None


class AccessGuard:
    """Admits calls of the public services; a `services.common.guards.Guard`."""

    def __init__(self, tokens: Tokens, limits: TenantLimits, *, needs_tokens: bool, patrol_s: float = PATROL_S) -> None:
        """Take what knows tokens and limits; where no tokens are needed everybody is LOCAL."""
        self._tokens = tokens
        self._limits = limits
        self._needs_tokens = needs_tokens
        self._patrol_s = patrol_s
        self._rates = Rates()
        self._streams: set[_Stream] = set()
        self._patrol: asyncio.Task[None] | None = None

    async def __call__(self, call: IncomingCall) -> Around:
        """Return what makes the caller's principal that of the handler, and ends a stream with its token.

        Raises:
            Unauthenticated: there is no valid token.
            RateLimited: it was used too often.
            Forbidden: its scope does not allow the method.
            UpstreamFailed: the database does not answer.
            NotReady: the database cannot be opened.
        """
        if not self._needs_tokens:
            _require_scope(LOCAL, call.method)
            return lambda _context: _acting(LOCAL)
        digest = self._tokens.digest_in(_secret_of(call))
        who = await self._tokens.principal_of(digest)
        limits = await self._limits.of(who.tenant)
        wait_s = self._rates.take(who.token_id, limits.max_requests_per_s)
        if wait_s:
            raise RateLimited(limits.max_requests_per_s, retry_after_s=math.ceil(wait_s * _MS) / _MS)
        _require_scope(who, call.method)
        if call.is_stream:
            return lambda _context: self._streaming(digest, who)
        return lambda _context: _acting(who)

    async def close(self) -> None:
        """End what is under way."""
        if self._patrol:
            self._patrol.cancel()
            await asyncio.wait([self._patrol])

    @contextlib.asynccontextmanager
    async def _streaming(self, digest: str, who: Principal) -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - handlers run in tasks
        stream = _Stream(digest, task)
        self._streams.add(stream)
        if self._patrol is None or self._patrol.done():
            self._patrol = asyncio.create_task(self._look_after_streams())
        try:
            async with _acting(who):
                yield
        except asyncio.CancelledError:
            # As asyncio.timeout does: only our own cancellation becomes an error, not that of a client that has gone.
            if stream.refusal is None or task.uncancel() > 0:
                raise
            raise stream.refusal from None
        finally:
            self._streams.discard(stream)

    async def _look_after_streams(self) -> None:
        while self._streams:
            await asyncio.sleep(self._patrol_s)
            by_digest = defaultdict(list)
            for stream in self._streams:
                by_digest[stream.digest].append(stream)
            refusals = await asyncio.gather(*map(self._refusal_of, by_digest))
            for refusal, streams in zip(refusals, by_digest.values(), strict=True):
                for stream in streams if refusal else ():
                    if stream in self._streams and stream.refusal is None:
                        stream.refusal = refusal
                        stream.task.cancel()

    async def _refusal_of(self, digest: str) -> PaperRouteError | None:
        """Return why streams with a token may not go on; what cannot be looked up may not either."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._tokens.principal_of(digest)
        except PaperRouteError as error:
            return error
        except TimeoutError:
            return UpstreamFailed("the gateway's database", "does not answer", retry_after_s=1)
        return None


@contextlib.asynccontextmanager
async def _acting(who: Principal) -> AsyncIterator[None]:
    annotate(tenant=who.tenant)
    with acting(who):
        yield


def _secret_of(call: IncomingCall) -> bytes:
    """Return the secret of the one token a call carries.

    Raises:
        Unauthenticated: it carries none, or several, of which nobody says which one counts.
    """
    given = call.values_of("authorization")
    if len(given) != 1 or given[0][: len(_BEARER)].lower() != _BEARER:
        raise Unauthenticated(REFUSAL)
    return given[0][len(_BEARER) :].strip()


def _require_scope(who: Principal, method: str) -> None:
    needed = SCOPES.get(method)
    if needed is None:
        raise Forbidden("none")  # nobody has it: the method was forgotten in SCOPES
    if who.scope < needed:
        raise Forbidden(needed.name.lower())
