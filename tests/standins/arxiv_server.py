"""A stand-in for arXiv's API: real HTTP on loopback, today's Atom, faults on demand, and a log of what was asked.

    async with ArxivStandIn(records) as arxiv:
        arxiv.script([too_many_requests(), None, cut_feed()])  # for the next three requests; None answers properly
        ...                                                    # point a client at arxiv.url
        assert [each.start for each in arxiv.requests] == [0, 0, 100, 100]

It runs in the event loop of the test, so a client that blocks belongs into a thread.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Self

from aiohttp import web
from standins.arxiv_atom import Record, error_feed, feed
from standins.arxiv_query import QueryError, parse, words_of

ATOM = "application/atom+xml"
DEFAULT_RESULTS = 10
MAX_RESULTS = 2_000
_PAPER_ID = re.compile(r"(\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?:v(\d+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """One request as it arrived."""

    started_at: float
    """`time.monotonic()` of its arrival."""
    query: str
    id_list: str
    start: int
    max_results: int
    sort_by: str
    user_agent: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """A proper answer before it is sent."""

    body: bytes
    status: int = 200


Fault = Callable[[web.Request, Callable[[], _Answer]], Awaitable[web.StreamResponse]]
"""Answers a request in its own way; the second argument makes the proper answer."""


class ArxivStandIn:
    """Serves records at `url` for as long as its context is open."""

    def __init__(self, records: Iterable[Record | Mapping[str, Any]], port: int = 0) -> None:
        """Take records, or lines of the corpus or of the sample library; port 0 picks a free one."""
        self._port = port
        self.records = [record if isinstance(record, Record) else Record.of(record) for record in records]
        self.requests: list[Received] = []
        self.url = ""
        self._script: list[Fault | None] = []

    def script(self, answers: Sequence[Fault | None]) -> None:
        """Set how the next requests are answered, one each; None and all requests after them are answered properly."""
        self._script = list(answers)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/api/query", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/api/query"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        given = request.query
        self.requests.append(
            Received(
                started_at=time.monotonic(),
                query=given.get("search_query", ""),
                id_list=given.get("id_list", ""),
                start=_number(given.get("start", ""), 0),
                max_results=_number(given.get("max_results", ""), DEFAULT_RESULTS),
                sort_by=given.get("sortBy", ""),
                user_agent=request.headers.get("User-Agent", ""),
            )
        )
        fault = self._script.pop(0) if self._script else None
        if fault:
            return await fault(request, lambda: self._proper(given))
        return _response(self._proper(given))

    def _proper(self, given: Mapping[str, str]) -> _Answer:
        now = datetime.now(UTC)
        try:
            found = self._found(given)
            start, max_results = _paging(given)
        except QueryError as error:
            return _Answer(body=error_feed(str(error), now), status=400)
        body = feed(
            found[start : start + max_results],
            search_query=given.get("search_query", ""),
            id_list=given.get("id_list", ""),
            start=start,
            max_results=max_results,
            total=len(found),
            updated=now,
        )
        return _Answer(body=body)

    def _found(self, given: Mapping[str, str]) -> list[Record]:
        """Return all records that answer a request, in its order: those of the id list that match the query."""
        id_list = given.get("id_list", "")
        found = self._listed(id_list.split(",")) if id_list else self.records
        words: frozenset[str] = frozenset()
        if given.get("search_query"):
            query = parse(given["search_query"])
            words = query.words
            found = [record for record in found if query.matches(record)]
        elif not id_list:
            return []
        key = _order_of(given.get("sortBy", "relevance"), words)
        return sorted(found, key=key, reverse=given.get("sortOrder", "descending") == "descending")

    def _listed(self, paper_ids: Sequence[str]) -> list[Record]:
        wanted = []
        for paper_id in paper_ids:
            parts = _PAPER_ID.fullmatch(paper_id)
            if parts is None:
                raise QueryError(f"incorrect id format for {paper_id}")
            wanted.append((parts.group(1), parts.group(2)))
        return [
            record
            for plain_id, version in wanted
            for record in self.records
            if record.paper_id == plain_id and (version is None or record.version == int(version))
        ]


def too_many_requests(retry_after: str = "") -> Fault:
    """Answer 429, with a Retry-After header unless it is empty."""
    return _plain(429, b"Rate exceeded.", "text/plain", {"Retry-After": retry_after} if retry_after else {})


def rate_exceeded() -> Fault:
    """Answer 200 with the two words that arXiv's gateway sends instead of a feed."""
    return _plain(200, b"Rate exceeded.", "text/plain")


def unavailable(retry_after: str = "") -> Fault:
    """Answer 503, with a Retry-After header unless it is empty."""
    page = b"<html><body><h1>503 Service Unavailable</h1></body></html>"
    return _plain(503, page, "text/html", {"Retry-After": retry_after} if retry_after else {})


def html_page() -> Fault:
    """Answer 200 with a web page."""
    return _plain(200, b"<!DOCTYPE html>\n<html><body><p>Down for maintenance<br></body></html>", "text/html")


def failing_query(message: str) -> Fault:
    """Answer 400 with the feed that stands for an error."""
    return recorded(error_feed(message, datetime.now(UTC)), status=400)


def recorded(body: bytes, status: int = 200) -> Fault:
    """Answer with a body as it was recorded."""
    return _plain(status, body, ATOM)


def empty_page() -> Fault:
    """Answer with the proper feed, its entries left out: the total still counts them."""
    return _changed(lambda body: re.sub(rb"  <entry>.*</entry>\n", b"", body, flags=re.DOTALL))


def short_page(entry_count: int) -> Fault:
    """Answer with the proper feed, cut to its first entries: the total still counts them all."""

    def first_entries(body: bytes) -> bytes:
        parts = body.split(b"  <entry>")
        return b"  <entry>".join(parts[: entry_count + 1]).removesuffix(b"</feed>\n") + b"</feed>\n"

    return _changed(first_entries)


def cut_feed() -> Fault:
    """Answer with the first half of the proper feed, as if it were all."""
    return _changed(lambda body: body[: len(body) // 2])


def entity_bomb() -> Fault:
    """Answer with a feed whose few bytes stand for gigabytes."""
    names = "abcdefghij"
    lines = ['<!ENTITY a "aaaaaaaaaa">']
    lines += [f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise(names)]
    doctype = f"<!DOCTYPE feed [{''.join(lines)}]>\n<feed ".encode()

    def armed(body: bytes) -> bytes:
        return body.replace(b"<feed ", doctype, 1).replace(b"<summary>", b"<summary>&j;", 1)

    return _changed(armed)


def slow(seconds: float) -> Fault:
    """Answer properly after a while."""

    async def answer(_request: web.Request, proper: Callable[[], _Answer]) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return _response(proper())

    return answer


def dripping(pause_s: float) -> Fault:
    """Send the proper answer in pieces of ten bytes, with a pause after each."""

    async def answer(request: web.Request, proper: Callable[[], _Answer]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": ATOM})
        await response.prepare(request)
        body = proper().body
        for at in range(0, len(body), 10):
            await response.write(body[at : at + 10])
            await asyncio.sleep(pause_s)
        return response

    return answer


def oversized(byte_count: int) -> Fault:
    """Send blanks without an end in sight, compressed."""

    async def answer(request: web.Request, _proper: Callable[[], _Answer]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": ATOM})
        response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        for _ in range(byte_count // 2**20):
            await response.write(b" " * 2**20)
        return response

    return answer


def broken_off() -> Fault:
    """Announce the whole answer, send half of it and hang up."""

    async def answer(request: web.Request, proper: Callable[[], _Answer]) -> web.StreamResponse:
        body = proper().body
        response = web.StreamResponse(headers={"Content-Type": ATOM, "Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        _hang_up(request)
        return response

    return answer


def connection_reset() -> Fault:
    """Hang up without a word."""

    async def answer(request: web.Request, _proper: Callable[[], _Answer]) -> web.StreamResponse:
        _hang_up(request)
        return web.Response()

    return answer


def _hang_up(request: web.Request) -> None:
    if request.transport:
        request.transport.abort()


def _plain(status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> Fault:
    async def answer(_request: web.Request, _proper: Callable[[], _Answer]) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers={"Content-Type": content_type, **(headers or {})})

    return answer


def _changed(change: Callable[[bytes], bytes]) -> Fault:
    async def answer(_request: web.Request, proper: Callable[[], _Answer]) -> web.StreamResponse:
        return _response(_Answer(body=change(proper().body)))

    return answer


def _response(answer: _Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers={"Content-Type": f"{ATOM}; charset=utf-8"})


def _order_of(sort_by: str, words: frozenset[str]) -> Callable[[Record], Any]:
    if sort_by == "submittedDate":
        return lambda record: (record.published, record.paper_id)
    if sort_by == "lastUpdatedDate":
        return lambda record: (record.updated, record.paper_id)
    return lambda record: (len(words & words_of(record)), record.published, record.paper_id)


def _paging(given: Mapping[str, str]) -> tuple[int, int]:
    start = _number(given.get("start", ""), 0)
    max_results = _number(given.get("max_results", ""), DEFAULT_RESULTS)
    if start < 0:
        raise QueryError("start must be non-negative")
    if not 0 <= max_results <= MAX_RESULTS:
        raise QueryError(f"max_results must be at most {MAX_RESULTS}")
    return start, max_results


def _number(text: str, default: int) -> int:
    return int(text) if re.fullmatch(r"-?\d+", text) else default
