"""arXiv's API as a source: one query a search term, read page by page in turn with all other requests."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime
from functools import partial

from services.common.errors import UpstreamFailed
from services.retrieval.arxiv_client import ArxivClient, ArxivPage, PageUnreadable
from services.retrieval.request_gate import RequestGate
from services.retrieval.sources import Page, Waiting
from services.retrieval.words import plain_words

logger = logging.getLogger(__name__)

NAME = "arXiv"
PAGE_SIZE = 100
"""Records a request asks for; arXiv allows 2,000 and answers smaller pages sooner."""
MAX_TRIES = 3
"""Times one page is asked for."""
MAX_WAIT_S = 30.0
"""Longest pause that is sat out within a search; when arXiv asks for a longer one the search fails and says so."""
RETRY_LATER_S = 60.0
"""Wait that is advised when arXiv itself asks for none."""
DEADLINE_MARGIN_S = 0.5
"""Kept back of the caller's time, so that it hears what went wrong before its deadline."""

_LEFT_OUT_OF_QUERIES = frozenset(
    "a an and as at by for from in into is of on or the to via with".split()  # noqa: SIM905  # reads as one
)
"""Words that nearly every abstract holds: a search engine may not index them, and the filters look for them anyway."""


class ArxivSource:
    """Asks arXiv's API; all searches of a process share one of these, and so its pauses."""

    def __init__(self, client: ArxivClient, gate: RequestGate, request_timeout_s: float) -> None:
        self._client = client
        self._gate = gate
        self._request_timeout_s = request_timeout_s

    async def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float
    ) -> AsyncGenerator[Page | Waiting]:
        """Yield the newest papers that hold the term's words anywhere in their record, 100 a page.

        Raises:
            UpstreamFailed: arXiv cannot be reached, refuses, or does not send a whole page in three tries.
        """
        query = query_of(search_term, as_of, today=datetime.now(UTC).date())
        start, end, failed_tries = 0, max_results, 0
        while start < end:
            yield Waiting(waiting_for=f"{NAME} to answer again" if failed_tries else NAME)
            try:
                page = await self._page(query, start, min(PAGE_SIZE, end - start), deadline)
            except PageUnreadable as error:
                failed_tries += 1
                _give_up_unless_passing(error, failed_tries, deadline)
                logger.info("%s did not send a page: %s", NAME, error.problem)
                await asyncio.sleep(error.retry_after_s)
            else:
                failed_tries = 0
                start += page.entry_count
                end = min(max_results, page.total_count)
                yield Page(papers=page.papers, expected_count=end, answered_at=datetime.now(UTC))

    async def _page(self, query: str, start: int, size: int, deadline: float) -> ArxivPage:
        left_s = deadline - DEADLINE_MARGIN_S - time.monotonic()
        timeout_s = min(self._request_timeout_s, max(left_s, 0.001))
        request = partial(self._client.page, query, start=start, size=size, timeout_s=timeout_s)
        try:
            async with asyncio.timeout(None if left_s == float("inf") else max(left_s, 0)):
                page = await self._gate.run(request)
        except TimeoutError as error:
            raise PageUnreadable("no answer within the time the caller has", is_passing=False) from error
        if not page.entry_count and start < page.total_count:
            raise PageUnreadable(f"an empty page where {page.total_count:,} papers were announced", is_passing=True)
        return page


def query_of(search_term: str, as_of: date, *, today: date) -> str:
    """Return arXiv's query for records that hold all words of a term, submitted on `as_of` or before.

    Without a bound the newest results would all lie after an `as_of` in the past.
    Source: arXiv API user's manual, details of query construction.
    """
    words = tuple(dict.fromkeys(plain_words(search_term)))
    telling = [word for word in words if word not in _LEFT_OUT_OF_QUERIES] or words
    clauses = [f"all:{word}" for word in telling]
    if as_of < today:
        first = f"{min(as_of.year, 1991):04}01010000"  # arXiv began in 1991
        clauses.append(f"submittedDate:[{first} TO {as_of.isoformat().replace('-', '')}2359]")
    return " AND ".join(clauses)


def _give_up_unless_passing(error: PageUnreadable, failed_tries: int, deadline: float) -> None:
    wait_s = error.retry_after_s
    has_time = wait_s <= MAX_WAIT_S and time.monotonic() + wait_s < deadline - DEADLINE_MARGIN_S
    if error.is_passing and failed_tries < MAX_TRIES and has_time:
        return
    wait_s = wait_s or RETRY_LATER_S
    message = f"{error.problem}; wait {wait_s:.0f} s, or try --source sample"
    raise UpstreamFailed(NAME, message, retry_after_s=wait_s) from error
