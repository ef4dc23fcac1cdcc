"""The pages: each asks the gateway as the visitor may, and shows what it answers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import grpc
from google.protobuf.json_format import MessageToJson
from markupsafe import Markup
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_service_pb2 as usage_pb
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.client import AsyncPaperRouteClient, RequestFailed
from gateway.console.facts import facts_of
from gateway.console.forms import (
    DEFAULTS,
    LABELS_WANTED,
    QuestionForm,
    form_of,
    labels_of,
    request_id_of,
    spec_of,
    with_faults,
)
from gateway.console.limits import PlacedStream
from gateway.console.plots import Bar, bars_svg
from gateway.console.stream import sse
from gateway.console.templates_of import section_html, templates
from gateway.console.visitor import COOKIE, client_of, gateway_of, signed_in, signed_out, token_of
from gateway.document.export_bibtex import bibtex_of
from gateway.document.export_html import body_parts, html_of
from gateway.document.export_markdown import markdown_of
from gateway.document.stages import name_of
from services.common.paid.money import shown
from services.common.papers import timestamp_of

Page = Callable[[Request], Awaitable[Response]]
PAGE_SIZE = 30
USAGE_DAYS = 30
MAX_DAYS = 3_660
STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
DIMENSIONS = {"day": "DAY", "stage": "STAGE", "model": "MODEL", "tenant": "TENANT", "label": "LABEL"}
"""What usage is shown by."""
EXPORTS: Mapping[str, tuple[str, Callable[[pb.Survey], str]]] = {
    "md": ("text/markdown", markdown_of),
    "html": ("text/html", html_of),
    "bib": ("application/x-bibtex", bibtex_of),
    "json": (
        "application/json",
        lambda survey: MessageToJson(survey, ensure_ascii=False, always_print_fields_with_no_presence=True) + "\n",
    ),
}


def page(handler: Page) -> Page:
    """Return a page that says so when the gateway refuses, and asks who does not show a token to sign in."""

    @wraps(handler)
    async def shown_page(request: Request) -> Response:
        if gateway_of(request).needs_tokens and not token_of(request):
            return RedirectResponse(f"/sign-in?next={quote(_way_back(request), safe='')}", status_code=303)
        try:
            return await handler(request)
        except RequestFailed as failure:
            return refused(request, failure)

    return shown_page


def refused(request: Request, failure: RequestFailed) -> Response:
    """Return the page that says why the gateway refused, and what to do."""
    if failure.code is grpc.StatusCode.UNAUTHENTICATED:
        return _rendered(request, "sign_in.html", 401, next=_way_back(request), fault=failure.message)
    status = STATUS.get(failure.code, 502)
    return _rendered(request, "refused.html", status, failure=failure, status=status)


def not_served(request: Request, status: HTTPStatus) -> Response:
    """Return the page for what the console itself does not serve."""
    message = {404: "Nothing is served at this address.", 405: "It does not take this method."}.get(
        status, status.phrase
    )
    failure = RequestFailed(grpc.StatusCode.UNKNOWN, message, reason=status.phrase)
    return _rendered(request, "refused.html", int(status), failure=failure, status=int(status))


async def sign_in(request: Request) -> Response:
    """Take the visitor's token, if the gateway knows it."""
    if request.method == "GET":
        return _rendered(request, "sign_in.html", next=_path(request.query_params.get("next", "/")), fault="")
    sent = await request.form()
    path, token = _path(str(sent.get("next", "/"))), str(sent.get("token", "")).strip()
    request.cookies[COOKIE] = token
    try:
        await anext(client_of(request).list_surveys(page_size=1), None)
    except RequestFailed as failure:
        return _rendered(request, "sign_in.html", 401, next=path, fault=failure.message)
    return signed_in(request, token_of(request), path)


async def sign_out(_request: Request) -> Response:
    """Forget the visitor's token."""
    return signed_out()


@page
async def ask(request: Request) -> Response:
    """Show the form of a question."""
    return _rendered(request, "ask.html", form=form_of(DEFAULTS), estimate=None)


@page
async def surveys_page(request: Request) -> Response:
    """Show the list, or take a question."""
    return await (_create if request.method == "POST" else _list)(request)


async def _create(request: Request) -> Response:
    """Start a survey, or say what it would cost, or what is wrong with the form."""
    sent = await request.form()
    form, client = form_of(sent), client_of(request)
    spec = spec_of(form)
    try:
        if "estimate" in sent:
            estimate = await client.estimate_survey(spec)
            return _rendered(request, "ask.html", form=form, estimate=estimate)
        labels, request_id = labels_of(form.values["labels"]), request_id_of(form, spec)
        survey = await client.create_survey(spec, labels=labels, request_id=request_id)
    except RequestFailed as failure:
        if not failure.violations:
            raise
        faulty: QuestionForm = with_faults(form, failure.violations)
        return _rendered(request, "ask.html", 400, form=faulty, estimate=None)
    return RedirectResponse(f"/surveys/{survey.survey_id}", status_code=303)


async def _list(request: Request) -> Response:
    """Show surveys, newest first, of one state and with some labels where that is asked for."""
    asked = {name: request.query_params.get(name, "") for name in ("state", "label", "page")}
    labels = labels_of(asked["label"])
    is_label_read = "" not in labels
    listed = service_pb.ListSurveysRequest(
        page_size=PAGE_SIZE,
        page_token=asked["page"],
        states=_states(asked["state"]),
        labels=labels if is_label_read else None,
    )
    answer = await client_of(request).surveys.ListSurveys(listed)
    older = urlencode({**asked, "page": answer.next_page_token}) if answer.next_page_token else ""
    return _rendered(
        request,
        "surveys.html",
        surveys=answer.surveys,
        older=older,
        state=asked["state"],
        label=asked["label"],
        label_fault="" if is_label_read else LABELS_WANTED,
        states=[name.removeprefix("SURVEY_STATE_").lower() for name in pb.SurveyState.keys()[1:]],
    )


@page
async def survey(request: Request) -> Response:
    """Show a survey: what is finished of it, and how far the rest is."""
    found = await client_of(request).get_survey(request.path_params["survey_id"])
    return _rendered(request, "survey.html", **_survey_parts(found))


@page
async def survey_body(request: Request) -> Response:
    """Show the part of a survey's page that is shown anew when it has ended."""
    found = await client_of(request).get_survey(request.path_params["survey_id"])
    return _rendered(request, "survey_part.html", **_survey_parts(found))


async def events(request: Request) -> Response:
    """Stream a survey's events, from the one after the last that the page has seen."""
    client = client_of(request)
    try:
        found = await client.get_survey(request.path_params["survey_id"])
    except RequestFailed as failure:
        return Response(str(failure), STATUS.get(failure.code, 502), media_type="text/plain")
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    places, who = request.app.state.places, token_of(request)
    if not places.take(who):
        return Response("too many pages follow surveys", 503, headers={"Retry-After": "5"}, media_type="text/plain")
    last = request.headers.get("last-event-id") or request.query_params.get("after", "0")
    after = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 0  # noqa: PLR2004 - fits the field
    return PlacedStream(sse(client, found, after, places.closing), places, who)


@page
async def act(request: Request) -> Response:
    """Cancel, resume or delete a survey."""
    client, survey_id = client_of(request), request.path_params["survey_id"]
    action = request.path_params["action"]
    if action == "delete":
        await client.delete_survey(survey_id)
        return RedirectResponse("/surveys", status_code=303)
    await (client.cancel_survey if action == "cancel" else client.resume_survey)(survey_id)
    return RedirectResponse(f"/surveys/{quote(survey_id)}#state", status_code=303)  # which then has the focus


@page
async def export(request: Request) -> Response:
    """Send a survey as a file."""
    form = request.path_params["form"]
    media_type, text_of = EXPORTS[form]
    found = await client_of(request).get_survey(request.path_params["survey_id"])
    headers = {"Content-Disposition": f'attachment; filename="survey-{found.survey_id}.{form}"'}
    return Response(text_of(found), media_type=f"{media_type}; charset=utf-8", headers=headers)


@page
async def usage(request: Request) -> Response:
    """Show what surveys took and cost, as a plot and a table."""
    by = request.query_params.get("by", "day")
    by = by if by in DIMENSIONS else "day"
    days = request.query_params.get("days", "")
    day_count = min(int(days), MAX_DAYS) if days.isascii() and days.isdigit() and 0 < len(days) < 6 else USAGE_DAYS  # noqa: PLR2004
    dimension = usage_pb.UsageDimension.Value(f"USAGE_DIMENSION_{DIMENSIONS[by]}")
    begin = timestamp_of(datetime.now(UTC) - timedelta(days=day_count))
    label, client = request.query_params.get("label", ""), client_of(request)
    query: dict[str, Any] = {"label_key": label} if by == "label" else {}
    is_asked = by != "label" or bool(label)
    found = usage_pb.QueryUsageResponse()
    if is_asked:
        found = await client.query_usage(group_by=[dimension], created_from=begin, **query)
    rows = [(_label(row, by), row) for row in found.rows]
    bars = [Bar(label=label, value=row.cost_nano_usd, shown=f"${shown(row.cost_nano_usd)}") for label, row in rows]
    return _rendered(
        request,
        "usage.html",
        by=by,
        days=day_count,
        label=label,
        is_asked=is_asked,
        month_left=await _month_left(client),
        dimensions=list(DIMENSIONS),
        rows=rows,
        total=found.total,
        plot=Markup(bars_svg(f"Cost by {by}", bars)) if bars else "",  # noqa: S704  # written as XML, its texts escaped
    )


def _survey_parts(found: pb.Survey) -> dict[str, Any]:
    is_under_way = found.state in {pb.SURVEY_STATE_QUEUED, pb.SURVEY_STATE_RUNNING}
    reports = {name_of(report.stage): report for report in found.stages}
    stages = [(name, reports.get(name)) for name in map(name_of, pb.Stage.values()[1:])]
    facts = facts_of(found.stages)
    parts = body_parts(found, has_map_style=False)
    return {**parts, "is_under_way": is_under_way, "stage_rows": stages, "facts": facts, "section_html": section_html}


async def _month_left(client: AsyncPaperRouteClient) -> int | None:
    """Return what is left of the tenant's budget of this month; None without one. An estimate is where it is told."""
    estimate = await client.estimate_survey("budget")
    return estimate.month_left_nano_usd if estimate.HasField("month_left_nano_usd") else None


def _states(name: str) -> Sequence[pb.SurveyState.ValueType]:
    wanted = f"SURVEY_STATE_{name.upper()}"
    return [pb.SurveyState.Value(wanted)] if wanted in pb.SurveyState.keys()[1:] else []


def _label(row: usage_pb.UsageRow, by: str) -> str:
    if by == "stage":
        return name_of(row.stage)
    return row.label_value or "(without)" if by == "label" else str(getattr(row, by))


def _way_back(request: Request) -> str:
    """Return where to go on after a visitor has signed in: a form that was sent without a token is not sent again."""
    path = request.url.path
    if request.method == "POST":
        path = path.rpartition("/")[0] if path.startswith("/surveys/") else "/"
    return path.removesuffix("/events").removesuffix("/body") or "/"


def _path(text: str) -> str:
    """Return a path of the console to go on to; the first page for everything else."""
    parts = urlsplit(text)
    is_ours = text.startswith("/") and not text.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    return text if is_ours else "/"


def _rendered(request: Request, name: str, status: int = 200, /, **values: Any) -> Response:
    visitor = {"needs_tokens": gateway_of(request).needs_tokens, "is_signed_in": bool(token_of(request))}
    html = templates().get_template(name).render(**values, **visitor, path=request.url.path)
    return HTMLResponse(html, status_code=status)
