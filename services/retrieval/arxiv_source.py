"""arXiv's API as a source: one query a search term, page by page, each from the cache or in its turn at the gate."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime
from functools import partial

from services.common.errors import UpstreamFailed
from services.retrieval.arxiv_client import ArxivClient, ArxivPage, Fault, PageUnreadable
from services.retrieval.arxiv_query import is_by_relevance, query_of, result_count
from services.retrieval.page_cache import FoundPage, PageCache, PageRequest
from services.retrieval.request_gate import Place, QueueWait, RequestGate
from services.retrieval.sources import NO_LIMITS, Limits, Page, SourceName, Step, Waiting

logger = logging.getLogger(__name__)

NAME = "arXiv"
PAGE_SIZE = 100
"""Records a request asks for; arXiv allows 2,000 and answers smaller pages sooner."""
MAX_TRIES = 3
"""Times one page is asked for."""
MAX_PAUSE_S = 30.0
"""Longest cooldown that is sat out within a search; when a longer one runs the search fails and says so."""
RETRY_LATER_S = 60.0
"""Wait that is advised when arXiv itself asks for none."""
DEADLINE_MARGIN_S = 0.5
"""Kept back of the caller's time, so that it hears what went wrong before its deadline."""
ADVICE = "try --source sample, or build an index with `paperroute index build`"


class WaitTooLong(UpstreamFailed):
    """The queue before arXiv is longer than the caller likes."""


class ArxivSource:
    """Asks arXiv's API, unless it gave the same page a while ago."""

    def __init__(
        self,
        client: ArxivClient,
        gate: RequestGate,
        cache: PageCache,
        *,
        request_timeout_s: float,
        fresh_s: float,
        max_wait_s: float = float("inf"),
    ) -> None:
        """Make a source.

        Args:
            client: asks the API.
            gate: shared by all who ask the same API.
            cache: likewise.
            request_timeout_s: longest a request may take.
            fresh_s: how old a kept page may be.
            max_wait_s: longest expected wait in the queue, see WaitTooLong.
        """
        self._client = client
        self._gate = gate
        self._cache = cache
        self._request_timeout_s = request_timeout_s
        self._fresh_s = fresh_s
        self._max_wait_s = max_wait_s

    async def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float, limits: Limits = NO_LIMITS
    ) -> AsyncGenerator[Step]:
        """Yield the papers that hold the term's words anywhere in their record, 100 a page.

        Raises:
            UpstreamFailed: arXiv cannot be reached, refuses, or does not send a whole page in three tries; or its
                cooldown is too long to be sat out.
            WaitTooLong: too many wait for arXiv.
            NotReady: the store of the gate cannot be opened.
        """
        query = query_of(search_term, as_of, limits, today=datetime.now(UTC).date())
        start, end = 0, result_count(max_results, limits)
        answered_at: datetime | None = None
        while start < end:
            size = min(PAGE_SIZE, end - start)
            asked = PageRequest(query=query, by_relevance=is_by_relevance(limits), start=start, size=size)
            # A page that is older than the one before it may lack what new papers pushed from one to the other.
            async with contextlib.aclosing(self._page(asked, answered_at, deadline)) as steps:
                async for step in steps:
                    if isinstance(step, Waiting):
                        yield step
                    else:
                        found = step
            answered_at = found.answered_at
            start += found.page.entry_count
            end = min(end, found.page.total_count)
            yield Page(
                papers=found.page.papers,
                expected_count=end,
                answered_at=answered_at,
                source=SourceName.ARXIV,
                is_cached=found.is_cached,
            )

    async def _page(
        self, asked: PageRequest, not_before: datetime | None, deadline: float
    ) -> AsyncGenerator[Waiting | FoundPage]:
        """Yield what is waited for, whenever that changes, and in the end the page."""
        kept = await self._cache.find(asked, max_age_s=self._fresh_s, not_before=not_before)
        if kept:
            yield kept
            return
        yield Waiting(waiting_for=NAME)
        said, failed_tries = NAME, 0
        while True:
            async with self._gate.place() as place:
                while wait := await place.wait():
                    _check(wait, self._max_wait_s, deadline)
                    if said != (said := _text_of(wait)):
                        yield Waiting(waiting_for=said)
                    await asyncio.sleep(wait.poll_s)
                    kept = await self._cache.find(asked, max_age_s=self._fresh_s, not_before=not_before)
                    if kept:
                        yield kept
                        return
                # Another replica may have asked for the same page while this search stood in the queue.
                kept = await self._cache.find(asked, max_age_s=self._fresh_s, not_before=not_before)
                if not kept:
                    try:
                        kept = await self._request(place, asked, deadline)
                    except PageUnreadable as error:
                        failed_tries += 1
                        _give_up_unless_passing(error, failed_tries, deadline)
                        logger.info("%s did not send a page: %s", NAME, error.problem)
            if kept:
                yield kept
                return

    async def _request(self, place: Place, asked: PageRequest, deadline: float) -> FoundPage:
        left_s = deadline - DEADLINE_MARGIN_S - time.monotonic()
        request = partial(
            self._client.page,
            asked.query,
            by_relevance=asked.by_relevance,
            start=asked.start,
            size=asked.size,
            timeout_s=min(self._request_timeout_s, max(left_s, 0.001)),
        )
        answered_at = datetime.now(UTC)

        async def keep(page: ArxivPage) -> None:
            nonlocal answered_at
            answered_at = await self._cache.keep(asked, page)

        try:
            async with asyncio.timeout(None if left_s == float("inf") else max(left_s, 0)):
                page = await place.run(request, keep)
        except TimeoutError as error:
            raise PageUnreadable("no answer within the time the caller has", fault=Fault.TIMED_OUT) from error
        return FoundPage(page=page, answered_at=answered_at, is_cached=False)


def _check(wait: QueueWait, max_wait_s: float, deadline: float) -> None:
    """Give up on a queue that is too long."""
    seconds = f"{wait.expected_s:.0f} s"
    if wait.cooldown_s > MAX_PAUSE_S:
        message = f"it asked for a pause; wait {seconds}, {ADVICE}"
        raise UpstreamFailed(NAME, message, retry_after_s=wait.cooldown_s)
    if wait.expected_s > max_wait_s:
        raise WaitTooLong(NAME, f"{seconds} of waiting before it; {ADVICE}", retry_after_s=wait.expected_s)
    if time.monotonic() + wait.expected_s > deadline - DEADLINE_MARGIN_S:
        message = f"{seconds} of waiting before it, more than the caller has; {ADVICE}"
        raise UpstreamFailed(NAME, message, retry_after_s=wait.expected_s)


def _text_of(wait: QueueWait) -> str:
    if wait.cooldown_s:
        return f"{NAME} to answer again"
    return NAME if wait.position == 1 else f"{NAME}, {_ordinal(wait.position)} in the queue"


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    is_teen = 10 < number % 100 < 14  # noqa: PLR2004  # 11th, 12th, 13th
    return f"{number}{'th' if is_teen else endings.get(number % 10, 'th')}"


def _give_up_unless_passing(error: PageUnreadable, failed_tries: int, deadline: float) -> None:
    wait_s = error.retry_after_s
    has_time = wait_s <= MAX_PAUSE_S and time.monotonic() + wait_s < deadline - DEADLINE_MARGIN_S
    if error.is_passing and failed_tries < MAX_TRIES and has_time:
        return
    wait_s = wait_s or RETRY_LATER_S
    raise UpstreamFailed(NAME, f"{error.problem}; wait {wait_s:.0f} s, {ADVICE}", retry_after_s=wait_s) from error


class KeptAnswers:
    """Answers that arXiv gave before, without asking it."""

    def __init__(self, cache: PageCache, *, max_age_s: float) -> None:
        self._cache = cache
        self._max_age_s = max_age_s

    async def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float, limits: Limits = NO_LIMITS
    ) -> AsyncGenerator[Step]:
        """Yield the papers of one whole answer.

        Raises:
            UpstreamFailed: no whole answer of that age is kept.
            NotReady: the store cannot be opened.
        """
        del deadline
        query = query_of(search_term, as_of, limits, today=datetime.now(UTC).date())
        start, end = 0, result_count(max_results, limits)
        pages: list[FoundPage] = []
        while start < end:
            size = min(PAGE_SIZE, end - start)
            asked = PageRequest(query=query, by_relevance=is_by_relevance(limits), start=start, size=size)
            found = await self._cache.find(
                asked, max_age_s=self._max_age_s, not_before=pages[-1].answered_at if pages else None
            )
            if not found:
                raise UpstreamFailed("the cache of arXiv's answers", "it does not hold this one")
            pages.append(found)
            start += found.page.entry_count
            end = min(end, found.page.total_count)
        for found in pages:
            yield Page(
                papers=found.page.papers,
                expected_count=end,
                answered_at=found.answered_at,
                source=SourceName.ARXIV,
                is_cached=True,
            )
