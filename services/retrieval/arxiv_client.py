"""One page of arXiv's API over HTTP. It blocks; spacing, retries and paging are left to the caller.

The `arxiv` package writes the query's address and reads the entries. By itself it takes a page that is no feed, that
breaks off or that is an error for an empty one, waits for ever and reads answers of any size; the checks here are
made on what its HTTP session returns, before it reads it.
"""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from services.common.papers import PAPER_ID, Paper

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 20 * 1024 * 1024
"""A page of 100 records is about 0.25 MB."""
MAX_WAIT_S = 86_400.0
"""Longest wait that is believed, in seconds."""
CHUNK_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 10.0

_ATOM = "{http://www.w3.org/2005/Atom}"
_ATOM_NAMESPACE = b"http://www.w3.org/2005/Atom"
_OPENSEARCH = "{http://a9.com/-/spec/opensearch/1.1/}"
_ERROR_ID = "/api/errors#"
_VERSIONED_ID = re.compile(rf"({PAPER_ID.pattern})(?:v(\d+))?")


class Fault(Enum):
    """What can be wrong with an answer; each fault has one reaction."""

    THROTTLED = 'hard throttling: 429, 503, or "Rate exceeded." as a text'
    NO_FEED = "something else than a feed; how arXiv's front throttles softly"
    EMPTY = "a page without papers where there are some; how arXiv's back end throttles softly"
    BROKEN = "an answer that breaks off, or a server in trouble"
    TIMED_OUT = "no whole answer in time"
    UNREACHABLE = "nobody to ask"
    REFUSED = "an answer that says that the query is wrong"
    TOO_BIG = "an answer that is too big to be one"


_THROTTLING = frozenset({Fault.THROTTLED, Fault.NO_FEED, Fault.EMPTY})
"""Nobody asks for a while."""
_PASSING = _THROTTLING | {Fault.BROKEN, Fault.TIMED_OUT}
"""The same request may do better later."""


class PageUnreadable(Exception):
    """There is no page to read; says why."""

    def __init__(self, problem: str, *, fault: Fault, retry_after_s: float = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.is_passing = fault in _PASSING
        self.is_throttling = fault in _THROTTLING
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, kw_only=True, slots=True)
class ArxivPage:
    """One page of an answer."""

    papers: tuple[Paper, ...]
    entry_count: int
    """Entries on the page, those included that were left out of `papers` because they are no whole record."""
    total_count: int
    """Entries of all pages."""


class ArxivClient:
    """Asks one arXiv-like API; not for use by two threads at a time."""

    def __init__(self, url: str, user_agent: str) -> None:
        """Make a client of the API at `url`; nothing is sent yet."""
        self._url = url
        self._user_agent = user_agent

    @cached_property
    def _http(self) -> "requests.Session":
        import requests

        return requests.Session()

    def page(self, query: str, *, by_relevance: bool, start: int, size: int, timeout_s: float) -> ArxivPage:
        """Return the records `start` to `start + size - 1` of the answer, fewer when arXiv sends fewer.

        They come in the order of arXiv's relevance or newest first. Exactly one request is sent; it may take
        `timeout_s` seconds.

        Raises:
            PageUnreadable: arXiv cannot be reached, refuses, or sends something else than a whole page.
        """
        import arxiv

        exchange = _Exchange(self._http, self._user_agent, timeout_s)
        client = arxiv.Client(page_size=size, delay_seconds=0, num_retries=0)
        client.query_url_format = self._url + "?{}"
        client._session = exchange  # noqa: SLF001  # its one way to a user agent, a time limit and a size limit
        search = arxiv.Search(
            query=query,
            max_results=start + size,
            sort_by=arxiv.SortCriterion.Relevance if by_relevance else arxiv.SortCriterion.SubmittedDate,
            sort_order=arxiv.SortOrder.Descending,
        )
        papers = []
        try:
            for result in client.results(search, offset=start):
                paper = _paper_of(result)
                if paper:
                    papers.append(paper)
        except _SecondRequest:
            pass  # a short page: the client asks for the rest at once, but that request has to wait for its turn
        except (arxiv.ArxivError, ValueError) as error:  # ValueError: a date that is none
            raise PageUnreadable(f"a page that cannot be read ({error})", fault=Fault.BROKEN) from error
        if not exchange.entry_count and start < exchange.total_count:
            problem = f"an empty page where {exchange.total_count:,} papers were announced"
            raise PageUnreadable(problem, fault=Fault.EMPTY)
        entry_count = min(exchange.entry_count, size)  # the arxiv package reads no more than it asked for
        return ArxivPage(papers=tuple(papers), entry_count=entry_count, total_count=exchange.total_count)


class _SecondRequest(Exception):
    """The arxiv package wants another page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What the arxiv package reads of a response."""

    status_code: int
    content: bytes


class _Exchange:
    """Stands in for the HTTP session of the arxiv package for one request; checks the answer, counts its entries."""

    def __init__(self, http: "requests.Session", user_agent: str, timeout_s: float) -> None:
        self._http = http
        self._user_agent = user_agent
        self._timeout_s = timeout_s
        self._is_used = False
        self.entry_count = 0
        self.total_count = 0

    def get(self, url: str, headers: Mapping[str, str]) -> _Answer:
        """Return a whole page; `headers` of the arxiv package hold only its own user agent."""
        del headers
        if self._is_used:
            raise _SecondRequest
        self._is_used = True
        body = self._body(url)
        self.entry_count, self.total_count = _counts_in(body)
        return _Answer(status_code=HTTPStatus.OK, content=body)

    def _body(self, url: str) -> bytes:
        import requests

        give_up_at = time.monotonic() + self._timeout_s
        try:
            with self._http.get(
                url,
                headers={"User-Agent": self._user_agent},
                timeout=(min(CONNECT_TIMEOUT_S, self._timeout_s), self._timeout_s),
                stream=True,
            ) as response:
                body = _limited_body(response, give_up_at)
        except requests.ConnectTimeout as error:
            raise PageUnreadable("it cannot be reached in time", fault=Fault.TIMED_OUT) from error
        except requests.Timeout as error:
            raise PageUnreadable(f"no answer within {self._timeout_s:.0f} s", fault=Fault.TIMED_OUT) from error
        except requests.ConnectionError as error:
            if _was_never_connected(error):
                raise PageUnreadable("it cannot be reached", fault=Fault.UNREACHABLE) from error
            raise PageUnreadable("the connection broke off", fault=Fault.BROKEN) from error
        except requests.RequestException as error:
            raise PageUnreadable(f"the answer broke off ({type(error).__name__})", fault=Fault.BROKEN) from error
        _check_status(response.status_code, response.headers.get("Retry-After", ""), body)
        return body


def _limited_body(response: "requests.Response", give_up_at: float) -> bytes:
    """Return the body, decompressed; an answer that is too big or drips in too slowly is not read to its end."""
    import requests

    body = bytearray()
    for chunk in response.iter_content(CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise PageUnreadable(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes", fault=Fault.TOO_BIG)
        if time.monotonic() > give_up_at:
            raise requests.Timeout
    return bytes(body)


def _was_never_connected(error: Exception) -> bool:
    from urllib3.exceptions import NewConnectionError

    return any(isinstance(getattr(each, "reason", None), NewConnectionError) for each in error.args)


def _check_status(status: int, retry_after: str, body: bytes) -> None:
    """Pass an answer that may hold a page: 200, or an error feed, which explains itself better than its status."""
    if status == HTTPStatus.OK or _ERROR_ID.encode() in body:
        return
    wait_s = seconds_of(retry_after)
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        raise PageUnreadable(f"it asks for a pause ({status})", fault=Fault.THROTTLED, retry_after_s=wait_s)
    fault = Fault.BROKEN if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Fault.REFUSED
    raise PageUnreadable(f"it answered with status {status}", fault=fault, retry_after_s=wait_s)


def seconds_of(retry_after: str) -> float:
    """Return the seconds a Retry-After header asks for, a number or a date; 0 when it is absent or no sense."""
    try:
        if retry_after.strip().isdecimal():
            wait_s = float(retry_after)
        else:
            wait_s = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait_s, 0.0), MAX_WAIT_S)


def _counts_in(body: bytes) -> tuple[int, int]:
    """Return the entries on a page and those of all pages.

    Raises:
        PageUnreadable: the body is no whole feed, or a feed that reports an error.
    """
    from lxml import etree  # type: ignore[import-untyped]  # has no types

    if body.strip().lower().startswith(b"rate exceeded"):
        raise PageUnreadable("it asks for a pause", fault=Fault.THROTTLED)
    try:
        feed = etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False))
    except etree.XMLSyntaxError as error:
        if _ATOM_NAMESPACE in body and b"<!DOCTYPE" not in body:
            raise PageUnreadable("a feed that breaks off", fault=Fault.BROKEN) from error
        raise PageUnreadable("an answer that is no feed", fault=Fault.NO_FEED) from error
    total = feed.findtext(f"{_OPENSEARCH}totalResults", "").strip()
    has_doctype = bool(feed.getroottree().docinfo.doctype)  # arXiv sends none; it could define entities that explode
    if feed.tag != f"{_ATOM}feed" or has_doctype or not total.isdecimal():
        raise PageUnreadable("an answer that is no feed", fault=Fault.NO_FEED)
    entries = feed.findall(f"{_ATOM}entry")
    for entry in entries:
        if _ERROR_ID in entry.findtext(f"{_ATOM}id", ""):
            reason = _line(entry.findtext(f"{_ATOM}summary", ""))[:200]
            raise PageUnreadable(f"it refused the query ({reason})", fault=Fault.REFUSED)
    return len(entries), int(total)


def _paper_of(result: Any) -> Paper | None:  # Any: the arxiv package has no types
    """Return the paper of an entry; None when it has no identifier or no title, which a Paper must have."""
    found = _VERSIONED_ID.fullmatch(result.get_short_id())
    title = _line(result.title)
    if found is None or not title:
        logger.warning("left out the entry %r: no whole record", result.entry_id)
        return None
    paper_id, version = found.group(1), found.groups()[-1]
    return Paper(
        paper_id=paper_id,
        version=int(version) if version else None,
        title=title,
        abstract=_line(result.summary),
        authors=tuple(name for name in (_line(author.name) for author in result.authors) if name),
        primary_category=result.primary_category,
        categories=tuple(dict.fromkeys(filter(None, (result.primary_category, *result.categories)))),
        published_at=result.published,
        updated_at=result.updated,
        comment=_line(result.comment or ""),
        doi=_line(result.doi or "").removeprefix("https://doi.org/"),
        journal_ref=_line(result.journal_ref or ""),
    )


def _line(text: str) -> str:
    return " ".join(text.split())
