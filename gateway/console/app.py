"""The console as an ASGI application."""

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.console import pages
from gateway.console.protection import Protection
from gateway.console.visitor import Gateway
from gateway.document.route_map import STYLE

STATIC = Path(__file__).with_name("static")
DOCUMENT_STYLE = Path(pages.__file__).parents[1] / "document" / "templates" / "document.css"


def console_app(gateway: Gateway, hosts: Sequence[str]) -> Starlette:
    """Return the console of a gateway.

    Args:
        gateway: what is behind it.
        hosts: names by which it may be asked.
    """
    survey = "/surveys/{survey_id}"
    routes = [
        Route("/", pages.ask),
        Route("/sign-in", pages.sign_in, methods=["GET", "POST"]),
        Route("/sign-out", pages.sign_out, methods=["POST"]),
        Route("/surveys", pages.surveys),
        Route("/surveys", pages.create, methods=["POST"]),
        Route(survey, pages.survey),
        Route(f"{survey}/body", pages.survey_body),
        Route(f"{survey}/events", pages.events),
        *(Route(f"{survey}/{action}", _acting(action), methods=["POST"]) for action in ("cancel", "resume", "delete")),
        *(Route(f"{survey}/export.{form}", _exporting(form)) for form in pages.EXPORTS),
        Route("/usage", pages.usage),
        Route("/static/document.css", _style),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    made = Starlette(
        routes=routes, middleware=[Middleware(Protection, hosts=hosts)], exception_handlers={404: _nothing}
    )
    made.state.gateway = gateway
    return made


def _acting(action: str) -> pages.Page:
    async def handler(request: Request) -> Response:
        request.path_params["action"] = action
        return await pages.act(request)

    return handler


def _exporting(form: str) -> pages.Page:
    async def handler(request: Request) -> Response:
        request.path_params["form"] = form
        return await pages.export(request)

    return handler


async def _style(_request: Request) -> Response:
    """The style of documents, and that of the route map within them."""
    return Response(DOCUMENT_STYLE.read_text(encoding="utf-8") + STYLE, media_type="text/css")


async def _nothing(request: Request, _error: Exception) -> Response:
    import grpc

    from gateway.client import RequestFailed

    failure = RequestFailed(grpc.StatusCode.NOT_FOUND, "there is no such page", reason="NOT_FOUND")
    return pages.refused(request, failure)
