"""What keeps other sites out of the console: who may name it, who may send forms to it, what a page may load."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none at all browsers do not say where a form comes from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SAFE_METHODS = frozenset({"GET", "HEAD"})


class Protection:
    """Refuses requests of other sites and sends the headers of every answer.

    A page of another site can make the visitor's browser send requests here, also to a loopback address whose name it
    has turned to this machine. So the name it is asked by must be one of ours, and a form must come from our own page.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        """Stand before an application.

        Args:
            app: answers what passes.
            hosts: names, without ports, by which the console may be asked.
        """
        self._app = app
        self._hosts = frozenset(name.lower() for name in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fault = self._fault(Headers(scope=scope), scope["method"])

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if fault:
            await PlainTextResponse(fault, status_code=403)(scope, receive, send_protected)
        else:
            await self._app(scope, receive, send_protected)

    def _fault(self, headers: Headers, method: str) -> str:
        host = headers.get("host", "")
        if _name_of(f"//{host}")[0] not in self._hosts:
            return "The console is not known by this name; add it to PAPERROUTE_GATEWAY__CONSOLE_HOSTS.\n"
        if method in SAFE_METHODS:
            return ""
        origin = headers.get("origin")
        if origin is not None:
            return "" if _name_of(origin)[1] == host.lower() else "The form comes from another site.\n"
        is_own = headers.get("sec-fetch-site") in {"same-origin", "none"}
        return "" if is_own else "It cannot be told which page the form comes from.\n"


def _name_of(address: str) -> tuple[str, str]:
    """Return the host of an address, without and with its port; empty for what is no address."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:  # such as a bracket that nothing closes
        return "", ""
