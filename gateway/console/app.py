"""The console as an ASGI application."""

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from gateway.console import pages
from gateway.console.limits import FormLimit, Places
from gateway.console.protection import Protection
from gateway.console.visitor import Gateway
from gateway.document.route_map import STYLE

STATIC = Path(__file__).with_name("static")
DOCUMENT_STYLE = Path(pages.__file__).parents[1] / "document" / "templates" / "document.css"


def console_app(gateway: Gateway, hosts: Sequence[str], places: Places | None = None) -> ASGIApp:
    """Return the console of a gateway.

    Args:
        gateway: what is behind it.
        hosts: names by which it may be asked.
        places: for pages that follow a survey; None allows as many as usual.
    """
    survey = "/surveys/{survey_id}"
    routes = [
        Route("/", pages.ask),
        Route("/sign-in", pages.sign_in, methods=["GET", "POST"]),
        Route("/sign-out", pages.sign_out, methods=["POST"]),
        Route("/surveys", pages.surveys_page, methods=["GET", "POST"]),
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
        routes=routes,
        middleware=[Middleware(FormLimit)],
        exception_handlers={HTTPException: _refused, Exception: _broken},
    )
    made.state.gateway = gateway
    made.state.places = places or Places()
    return Protection(made, hosts)  # around all of it, so that what breaks is answered with the same headers


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


async def _refused(request: Request, error: Exception) -> Response:
    """What the routes refuse: an unknown page, a method that a page does not take."""
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.BAD_REQUEST
    headers = error.headers if isinstance(error, HTTPException) else None
    answer = pages.not_served(request, HTTPStatus(status))
    answer.headers.update(headers or {})
    return answer


async def _broken(request: Request, _error: Exception) -> Response:
    """What a mistake of ours comes to; the server logs it."""
    return pages.not_served(request, HTTPStatus.INTERNAL_SERVER_ERROR)
