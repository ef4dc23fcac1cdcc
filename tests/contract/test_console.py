"""The console over real HTTP, with a real gateway behind it: what a browser without scripts gets, what is refused."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import grpc
import pytest
from consoles import console_at
from fakes import Fakes, Gate, fails, papers
from gateways import Gateway, gateway_with
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import admin_service_pb2_grpc as admin_grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from pydantic import SecretStr

from gateway.console import limits, pages, serving
from gateway.console.mounting import console_url
from gateway.server import mount
from gateway.settings import GatewaySettings
from services.common.channel import open_channel
from services.common.errors import NotReady
from services.common.server import RoleServer
from services.common.settings import ClientSettings, SettingsError, SharedSettings

ADMIN = "an-admin-token-of-the-settings"
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for each, attributes in self.found if each == tag]


class Console:
    """A browser without scripts at a console, and the gateway behind it."""

    def __init__(self, url: str, http: aiohttp.ClientSession, gateway: Gateway) -> None:
        self.url, self.http, self.gateway = url, http, gateway

    async def get(self, path: str, status: int = 200, **options: Any) -> Tags:
        async with self.http.get(self.url + path, **options) as answer:
            html = await answer.text()
            assert answer.status == status, html
            return Tags(html)

    async def post(self, path: str, status: int, /, **fields: str) -> tuple[Tags, str]:
        options = {"allow_redirects": False, "headers": {"Origin": self.url}}
        async with self.http.post(self.url + path, data=fields, **options) as answer:
            html = await answer.text()
            assert answer.status == status, html
            return Tags(html), answer.headers.get("Location", "")

    async def asked(self, **fields: str) -> str:
        """Ask a question and return the survey's id once it has ended."""
        _, path = await self.post("/surveys", 303, **{"question": "What about names?", **fields})
        survey_id = path.rsplit("/", 1)[-1]
        await self.gateway.events(survey_id)
        return survey_id


@contextlib.asynccontextmanager
async def console_of(gateway: Gateway, *, needs_tokens: bool = False) -> AsyncIterator[Console]:
    async with console_at(gateway, needs_tokens=needs_tokens) as url:
        jar = aiohttp.CookieJar(unsafe=True)  # of an address without a name
        async with aiohttp.ClientSession(cookie_jar=jar) as http:
            yield Console(url, http, gateway)


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Console]:
    async with gateway_with(Fakes(found=papers(6)), tmp_path) as gateway, console_of(gateway) as made:
        yield made


async def test_a_question_becomes_a_page_with_text_map_references_and_costs(console: Console):
    survey_id = await console.asked()
    page = await console.get(f"/surveys/{survey_id}")

    assert [attributes["class"] for attributes in page.of("svg")] == ["map"]
    assert len([link for link in page.of("a") if link["href"].startswith("https://arxiv.org/abs/")]) >= 12
    assert "6 papers kept: 6 cited" in page.text
    assert not page.of("script")  # it has ended: there is nothing to follow
    assert not page.of("style")  # nor may a page bring styles along


async def test_every_form_of_a_survey_can_be_downloaded_twice_alike(console: Console):
    survey_id = await console.asked()
    for form, beginning in (("md", "# "), ("html", "<!doctype html>"), ("json", "{"), ("bib", "@misc")):
        texts = []
        for _ in range(2):
            async with console.http.get(f"{console.url}/surveys/{survey_id}/export.{form}") as answer:
                assert answer.headers["Content-Disposition"].endswith(f'.{form}"')
                texts.append(await answer.text())
        assert texts[0] == texts[1]
        assert texts[0].startswith(beginning)


async def test_broken_fields_are_named_beside_themselves_and_nothing_is_lost(console: Console):
    filled = {"question": HOSTILE, "max_papers": "1", "max_cost": "much", "published_from": "soon"}
    page, _ = await console.post("/surveys", 400, **filled)

    kept = {each.get("name"): each.get("value") for each in page.of("input")}
    faulty = {each["name"] for each in page.of("input") if each.get("aria-invalid") == "true"}
    assert {"max_papers", "max_cost", "published_from"} <= faulty
    assert (kept["max_papers"], kept["max_cost"]) == ("1", "much")
    assert HOSTILE in page.text  # in the field of the question
    assert not page.of("script")


async def test_an_estimate_starts_nothing(console: Console):
    page, _ = await console.post("/surveys", 200, question="Why?", estimate="1")

    assert "Estimate" in page.text
    assert "There is none." in (await console.get("/surveys")).text


async def test_the_list_shows_states_and_leads_on(console: Console):
    made = [await console.asked(question=f"Question {number}") for number in range(3)]
    page = await console.get("/surveys")
    done, failed = await console.get("/surveys?state=done"), await console.get("/surveys?state=failed")

    assert [f"/surveys/{each}" for each in reversed(made)] == [
        link["href"] for link in page.of("a") if link["href"].startswith("/surveys/")
    ]
    assert "Question 0" in done.text
    assert "There is none." in failed.text


async def test_usage_is_drawn_and_written(console: Console):
    await console.asked()
    for by in ("day", "stage", "model", "tenant"):
        page = await console.get(f"/usage?by={by}&days=7")
        assert [each["class"] for each in page.of("svg")] == ["plot"]
        assert "Total" in page.text


async def test_a_survey_under_way_is_followed_from_the_event_a_page_has_seen(tmp_path: Path):
    gate = Gate()
    async with (
        gateway_with(Fakes(before={"WriteSection": gate}, found=papers(6)), tmp_path) as gateway,
        console_of(gateway) as console,
    ):
        survey_id = await gateway.create()
        await gate.entered.wait()
        page = await console.get(f"/surveys/{survey_id}")
        first = await first_events(console, survey_id, 4)
        later = await first_events(console, survey_id, 1, {"Last-Event-ID": str(first[-1][0])})
        gate.opened.set()
        await gateway.events(survey_id)

    assert page.of("script") == [{"src": "/static/console.js", "defer": ""}]
    assert {each["data-stage"] for each in page.of("li") if "data-stage" in each} >= {"plan", "write"}
    assert [number for number, _ in first] == [1, 2, 3, 4]
    assert later[0][0] == 5


async def first_events(console: Console, survey_id: str, count: int, headers: Any = None) -> list[tuple[int, str]]:
    """Return number and name of the first numbered events of a stream."""
    found: list[tuple[int, str]] = []
    number = 0
    async with console.http.get(f"{console.url}/surveys/{survey_id}/events", headers=headers) as answer:
        async for line in answer.content:
            key, _, value = line.decode().strip().partition(": ")
            number = int(value) if key == "id" else number
            if key == "event" and number:
                found.append((number, value))
                number = 0
            if len(found) == count:
                break
    return found


async def test_a_survey_can_be_cancelled_resumed_and_removed(tmp_path: Path):
    gate = Gate()
    async with (
        gateway_with(Fakes(before={"SummarizePaper": gate}, found=papers(2)), tmp_path) as gateway,
        console_of(gateway) as console,
    ):
        survey_id = await gateway.create()
        await gate.entered.wait()
        await console.post(f"/surveys/{survey_id}/cancel", 303)
        cancelled = await console.get(f"/surveys/{survey_id}")
        gate.opened.set()
        await console.post(f"/surveys/{survey_id}/resume", 303)
        await gateway.events(survey_id)
        state = (await gateway.get(survey_id)).state
        await console.post(f"/surveys/{survey_id}/delete", 303)
        gone = await console.get(f"/surveys/{survey_id}", 404)

    assert "Go on with it" in cancelled.text
    assert state == pb.SURVEY_STATE_DONE
    assert "no such page or survey" in gone.text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/surveys/nowhere", 404), ("/nowhere", 404), ("/surveys?page=x", 400), ("/surveys/x/events", 404)],
)
async def test_what_is_not_there_says_so(console: Console, path: str, status: int):
    async with console.http.get(console.url + path) as answer:
        assert answer.status == status


async def test_text_of_others_is_text(tmp_path: Path):
    found = [replace(paper, title=f"{HOSTILE} {paper.paper_id}") for paper in papers(3)]
    async with gateway_with(Fakes(found=found), tmp_path) as gateway, console_of(gateway) as console:
        survey_id = await console.asked(question=HOSTILE)
        pages = [await console.get(path) for path in (f"/surveys/{survey_id}", "/surveys", "/usage")]

    assert all(not page.of("script") and not page.of("img") for page in pages)
    assert HOSTILE in pages[0].text
    assert HOSTILE in pages[1].text


# Who may come in


async def test_pages_load_nothing_from_elsewhere_and_may_not_be_framed(console: Console):
    async with console.http.get(f"{console.url}/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = Tags(await answer.text())

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert all(each["href"].startswith(("/", "#")) for tag in ("a", "link") for each in page.of(tag))


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        pytest.param({"Origin": "https://elsewhere.example"}, False, id="another site"),
        pytest.param({"Origin": "null"}, False, id="a page without an origin"),
        pytest.param({}, False, id="nobody says from where"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, False, id="another site, as the browser says"),
        pytest.param({"Sec-Fetch-Site": "same-origin"}, True, id="our own, as the browser says"),
    ],
)
async def test_a_form_of_another_site_is_refused(console: Console, headers: dict[str, str], is_let_in: bool):
    options = {"headers": headers, "allow_redirects": False}
    async with console.http.post(f"{console.url}/surveys", data={"question": "Why?"}, **options) as answer:
        assert (answer.status == 303) is is_let_in

    surveys = [each async for each in listed(console.gateway)]
    assert bool(surveys) is is_let_in


async def listed(gateway: Gateway) -> AsyncIterator[pb.Survey]:
    for survey in (await gateway.stub.ListSurveys(service_pb.ListSurveysRequest(), timeout=5)).surveys:
        yield survey


async def test_a_foreign_name_for_this_machine_is_refused(console: Console):
    """A site can give its own name the address of this machine."""
    async with console.http.get(f"{console.url}/", headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403


async def test_with_tokens_nothing_is_shown_before_one_is(tmp_path: Path):
    settings = {"auth": "tokens", "admin_token": SecretStr(ADMIN)}
    async with (
        gateway_with(Fakes(found=papers(1)), tmp_path, **settings) as gateway,
        console_of(gateway, needs_tokens=True) as console,
    ):
        mine, others = await token_of(gateway, "mine"), await token_of(gateway, "others")
        before = await console.get("/surveys")
        wrong, _ = await console.post("/sign-in", 401, token="not-a-token-of-this-gateway", next="/surveys")
        _, path = await console.post("/sign-in", 303, token=mine, next="//evil.example")
        survey_path = (await console.post("/surveys", 303, question="Mine"))[1]
        seen = await console.get("/surveys")
        cookie = next(iter(console.http.cookie_jar))
        await console.post("/sign-out", 303)
        await console.post("/sign-in", 303, token=others, next="/surveys")
        of_others = await console.get("/surveys")
        await console.get(survey_path, 404)

    assert "Sign in" in before.text
    assert wrong.of("p")
    assert path == "/"  # never to another site
    assert (cookie["httponly"], cookie["samesite"]) == (True, "strict")
    assert "Mine" in seen.text
    assert "There is none." in of_others.text


async def token_of(gateway: Gateway, tenant: str) -> str:
    client = ClientSettings(token=SecretStr(ADMIN))
    async with open_channel(gateway.address, client=client) as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        made = admin_pb.CreateTenantRequest(tenant=admin_pb.Tenant(tenant=tenant))
        await stub.CreateTenant(made, timeout=10)
        request = admin_pb.CreateTokenRequest(tenant=tenant, scope=admin_pb.TOKEN_SCOPE_WRITE)
        return (await stub.CreateToken(request, timeout=10)).secret


# With the gateway


@contextlib.asynccontextmanager
async def served_console(tmp_path: Path, **settings: Any) -> AsyncIterator[str]:
    """Serve a gateway whose settings ask for a console, and yield the console's address."""
    host = RoleServer("127.0.0.1:0")
    fakes = Fakes(found=papers(1))
    fakes.add_to(host)
    own = GatewaySettings(**{"console_listen": "127.0.0.1:0", **settings})
    mount(host, own, SharedSettings(data_dir=tmp_path))
    await host.start()
    try:
        yield console_url(host)
    finally:
        await host.stop(0)


async def test_a_gateway_serves_its_console_on_a_port_of_its_own(tmp_path: Path):
    async with (
        served_console(tmp_path) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/surveys") as answer,
    ):
        assert (answer.status, "There is none." in await answer.text()) == (200, True)


async def test_the_names_of_the_settings_are_taken_too(tmp_path: Path):
    async with (
        served_console(tmp_path, console_hosts="papers.example, other.example") as url,
        aiohttp.ClientSession(headers={"Host": "papers.example:50080"}) as http,
        http.get(url) as answer,
    ):
        assert answer.status == 200


async def test_a_console_beyond_loopback_wants_what_the_gateway_wants(tmp_path: Path):
    own = GatewaySettings(console_listen="0.0.0.0:0")
    with pytest.raises(SettingsError, match=r"PAPERROUTE_GATEWAY__CONSOLE_LISTEN.*AUTH=tokens"):
        mount(RoleServer("127.0.0.1:0"), own, SharedSettings(data_dir=tmp_path))


async def test_a_taken_port_is_told_by_the_name_of_its_variable(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NotReady, match="CONSOLE_LISTEN"):
            async with served_console(tmp_path, console_listen=listen):
                pass
        async with served_console(tmp_path) as url:  # nothing was left open
            assert url


# What one visitor can do to others


async def raw(url: str, *pieces: bytes) -> bytes:
    """Send bytes, each piece after the other, and return all that comes until the console hangs up."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        for piece in pieces:
            writer.write(piece)
        with contextlib.suppress(ConnectionError):
            return await reader.read()
        return b""
    finally:
        writer.close()


def form_head(url: str, length: int, kind: str = limits.FORM_TYPE) -> bytes:
    lines = ["POST /surveys HTTP/1.1", f"Host: {urlsplit(url).netloc}", f"Origin: {url}", f"Content-Type: {kind}"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "Connection: close", "", ""]).encode()


async def test_a_form_that_is_too_long_is_refused_before_its_end(console: Console):
    size = limits.MAX_FORM_BYTES + 1
    answer = await raw(console.url, form_head(console.url, 10 * size), b"x" * size)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"content-security-policy" in answer


async def test_a_form_that_does_not_arrive_is_given_up(console: Console, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "FORM_S", 0.05)
    answer = await raw(console.url, form_head(console.url, 100), b"question=")

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_what_is_no_form_is_refused(console: Console):
    answer = await raw(console.url, form_head(console.url, 2, "multipart/form-data; boundary=x"), b"xx")

    assert answer.startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("piece", [b"", b"GET / HTTP/1.1\r\nHos", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
async def test_who_sends_no_request_is_hung_up_on(console: Console, monkeypatch: pytest.MonkeyPatch, piece: bytes):
    """Connections are few: who holds them without a word keeps others out."""
    monkeypatch.setattr(serving, "HEAD_S", 0.05)

    assert await raw(console.url, piece) == b""


async def test_streams_are_bounded_and_their_places_come_free(tmp_path: Path):
    gate = Gate()
    async with (
        gateway_with(Fakes(before={"WriteSection": gate}, found=papers(6)), tmp_path) as gateway,
        console_at(gateway, places=limits.Places(total=2)) as url,
        aiohttp.ClientSession() as http,
    ):
        survey_id = await gateway.create()
        path = f"{url}/surveys/{survey_id}/events"
        async with http.get(path) as first:
            async with http.get(path) as second, http.get(path) as third:
                statuses = [first.status, second.status, third.status]
                retry_after = third.headers["Retry-After"]
            gate.opened.set()
            await first.read()
        async with http.get(path) as fourth:
            text = await fourth.text()

    assert statuses == [200, 200, 503]
    assert retry_after
    assert text.endswith("event: end\ndata: {}\n\n")


def test_no_visitor_takes_the_places_of_all():
    places = limits.Places(total=3, each=2)

    assert [places.take(who) for who in ("a", "a", "a", "b", "b")] == [True, True, False, True, False]
    places.leave("a")
    assert places.take("b")


async def test_a_survey_that_was_resumed_is_followed_past_its_first_end(tmp_path: Path):
    fakes = Fakes(before={"WriteSection": fails(grpc.StatusCode.INVALID_ARGUMENT)}, found=papers(2))
    async with gateway_with(fakes, tmp_path) as gateway, console_of(gateway) as console:
        survey_id = await console.asked()
        del fakes.before["WriteSection"]
        await gateway.resume(survey_id)
        async with console.http.get(f"{console.url}/surveys/{survey_id}/events") as answer:
            text = await answer.text()
    names = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("event")]

    assert names.count("end") == 1
    assert names[-1] == "end"
    assert "A claim about" in text


async def test_a_form_that_is_sent_twice_asks_once(console: Console):
    page = await console.get("/")
    once = next(each["value"] for each in page.of("input") if each["name"] == "once")
    sent = [await console.post("/surveys", 303, question=each, once=once) for each in ("Why?", "Why?", "How?")]

    assert sent[0][1] == sent[1][1]
    assert sent[1][1] != sent[2][1]


async def test_head_is_answered_on_every_page_and_ends(tmp_path: Path):
    gate = Gate()
    async with (
        gateway_with(Fakes(before={"WriteSection": gate}, found=papers(2)), tmp_path) as gateway,
        console_of(gateway) as console,
    ):
        survey = f"/surveys/{await gateway.create()}"
        for path in (
            "/",
            "/surveys",
            "/usage",
            survey,
            f"{survey}/events",
            f"{survey}/export.md",
            "/static/console.css",
        ):
            async with console.http.head(console.url + path) as answer:
                assert (answer.status, await answer.read()) == (200, b""), path
        gate.opened.set()


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/"), ("DELETE", "/surveys"), ("POST", "/usage"), ("GET", "/sign-out")]
)
async def test_a_wrong_method_is_refused_with_the_right_ones(console: Console, method: str, path: str):
    async with console.http.request(method, console.url + path, headers={"Origin": console.url}) as answer:
        assert answer.status == 405
        assert answer.headers["Allow"]
        assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/surveys/%00",
        "/surveys/%0d%0aSet-Cookie:x",
        "/surveys/%ff%fe",
        "/surveys/%F0%9F%9A%80",
        "/surveys/..%2f..%2fetc",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/surveys/" + "x" * 5_000,
        "/%3Cscript%3E",
    ],
)
async def test_a_strange_path_is_a_page_that_is_not_there(console: Console, path: str):
    answer = await raw(
        console.url,
        f"GET {path} HTTP/1.1\r\nHost: {urlsplit(console.url).netloc}\r\nConnection: close\r\n\r\n".encode(),
    )

    assert answer.split(b" ", 2)[1] in {b"404", b"400"}
    assert b"set-cookie" not in answer.partition(b"\r\n\r\n")[0].lower()
    assert b"<script>" not in answer


@pytest.mark.parametrize("host", ["[", "[::1", "127.0.0.1:x@evil.example", "evil.example:50080", ""])
async def test_a_name_that_is_none_is_refused(console: Console, host: str):
    answer = await raw(console.url, f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 403 ")


async def test_an_origin_that_is_none_is_refused(console: Console):
    async with console.http.post(f"{console.url}/surveys", data={}, headers={"Origin": "http://["}) as answer:
        assert answer.status == 403


@pytest.mark.parametrize("token", ["caf\u00e9", "a\tb", '"quoted\\001"', "x" * 501, "\x7f", "a b"])
async def test_a_strange_cookie_is_no_token(tmp_path: Path, token: str):
    settings = {"auth": "tokens", "admin_token": SecretStr(ADMIN)}
    async with (
        gateway_with(Fakes(), tmp_path, **settings) as gateway,
        console_of(gateway, needs_tokens=True) as console,
    ):
        head = f"GET /surveys HTTP/1.1\r\nHost: {urlsplit(console.url).netloc}\r\nConnection: close\r\n"
        answer = await raw(console.url, head.encode() + b"Cookie: paperroute_token=" + token.encode() + b"\r\n\r\n")

    assert answer.split(b" ", 2)[1] in {b"303", b"401", b"400"}


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "https://evil.example/",
        "javascript:alert(1)",
        "/surveys\r\nSet-Cookie: a=b",
        "/surveys\u2028x",
        "http:/surveys",
    ],
)
async def test_signing_in_never_leads_elsewhere_nor_into_the_head(tmp_path: Path, path: str):
    settings = {"auth": "tokens", "admin_token": SecretStr(ADMIN)}
    async with (
        gateway_with(Fakes(), tmp_path, **settings) as gateway,
        console_of(gateway, needs_tokens=True) as console,
        console.http.post(
            f"{console.url}/sign-in",
            data={"token": ADMIN, "next": path},
            headers={"Origin": console.url},
            allow_redirects=False,
        ) as answer,
    ):
        lead = urlsplit(urljoin(f"{console.url}/sign-in", answer.headers["Location"]))

    assert answer.status == 303
    assert f"{lead.scheme}://{lead.netloc}" == console.url
    assert len(answer.headers.getall("Set-Cookie")) == 1
    assert not any(character in answer.headers["Location"] for character in "\r\n\t")


async def test_who_signs_in_after_a_form_comes_back_to_its_page(tmp_path: Path):
    settings = {"auth": "tokens", "admin_token": SecretStr(ADMIN)}
    async with (
        gateway_with(Fakes(), tmp_path, **settings) as gateway,
        console_of(gateway, needs_tokens=True) as console,
    ):
        _, way = await console.post("/surveys/abc/cancel", 303)

    assert way == "/sign-in?next=%2Fsurveys%2Fabc"


async def test_a_mistake_of_ours_shows_nothing_of_itself(console: Console, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(pages, "facts_of", broken)
    survey_id = await console.asked()
    async with console.http.get(f"{console.url}/surveys/{survey_id}") as answer:
        text = await answer.text()

    assert answer.status == 500
    assert "Something is wrong with the console" in text
    assert "secret" not in text
    assert "Content-Security-Policy" in answer.headers


async def test_a_cookie_travels_encrypted_where_the_proxy_before_it_does(tmp_path: Path):
    settings = {"auth": "tokens", "admin_token": SecretStr(ADMIN)}
    async with (
        gateway_with(Fakes(), tmp_path, **settings) as gateway,
        console_of(gateway, needs_tokens=True) as console,
    ):
        cookies = []
        for headers in ({}, {"X-Forwarded-Proto": "https"}):
            async with console.http.post(
                f"{console.url}/sign-in",
                data={"token": ADMIN},
                headers={"Origin": console.url, **headers},
                allow_redirects=False,
            ) as answer:
                cookies.append(answer.headers["Set-Cookie"])

    assert ["Secure" in each for each in cookies] == [False, True]
