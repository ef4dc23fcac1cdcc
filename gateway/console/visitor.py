"""Who looks at a page, and the gateway as this one may use it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.client import AsyncPaperRouteClient

if TYPE_CHECKING:
    import grpc

COOKIE = "paperroute_token"
MAX_AGE_S = 12 * 3_600
MAX_TOKEN_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """The gateway behind the console."""

    channel: "grpc.aio.Channel"
    needs_tokens: bool
    is_encrypted: bool
    """Whether the console itself is: cookies then travel encrypted only."""


def gateway_of(request: Request) -> Gateway:
    """Return the gateway behind the console."""
    found: Gateway = request.app.state.gateway
    return found


def client_of(request: Request) -> AsyncPaperRouteClient:
    """Return the gateway as the visitor may use it."""
    return AsyncPaperRouteClient("this gateway", channel=gateway_of(request).channel, token=token_of(request))


def token_of(request: Request) -> str:
    """Return the token that the visitor signed in with; empty without one."""
    token = request.cookies.get(COOKIE, "")
    is_sendable = token.isascii() and token.isprintable() and len(token) <= MAX_TOKEN_CHARACTERS
    return token.strip() if is_sendable else ""


def signed_in(request: Request, token: str, path: str) -> Response:
    """Return the answer that keeps a token in the visitor's browser, out of reach of any script, and goes on."""
    response = RedirectResponse(path, status_code=303)
    response.set_cookie(
        COOKIE,
        token,
        max_age=MAX_AGE_S,
        httponly=True,
        samesite="strict",
        secure=gateway_of(request).is_encrypted or request.url.scheme == "https",  # or the proxy before it is
    )
    return response


def signed_out() -> Response:
    """Return the answer that lets the token be forgotten."""
    response = RedirectResponse("/sign-in", status_code=303)
    response.delete_cookie(COOKIE)
    return response
