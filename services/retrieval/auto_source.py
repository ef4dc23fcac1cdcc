"""The best source that answers: what is fresh and at hand before what is slow, what is slow before what is old."""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, date, timedelta

from opentelemetry import trace

from services.common.errors import NotReady, UpstreamFailed
from services.common.telemetry import names
from services.retrieval.arxiv_source import WaitTooLong
from services.retrieval.sources import (
    NO_LIMITS,
    DatedSource,
    Limits,
    Page,
    Source,
    SourceName,
    StartingOver,
    Step,
)

logger = logging.getLogger(__name__)

API_SHARE = 0.8
"""Share of the caller's time that arXiv may take; the rest is for those who answer in its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where AUTO looks."""

    fresh: Source
    """Kept answers of arXiv that are young enough."""
    kept: Source
    """Kept answers of arXiv of any age."""
    arxiv: Source
    impatient_arxiv: Source
    """arXiv as it is asked when there is an index: a long queue before it fails."""
    store: Source
    index: DatedSource
    """The local index, which may not have been built."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    source: Source
    name: SourceName
    is_stale: bool = False


class AutoSource:
    """Asks one source after the other until one answers; never the sample library."""

    def __init__(self, sources: Sources, max_index_age: timedelta) -> None:
        self._sources = sources
        self._max_index_age = max_index_age

    async def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float, limits: Limits = NO_LIMITS
    ) -> AsyncGenerator[Step]:
        """Yield the answer of the first source that has one; where one failed half-way, `StartingOver` stands.

        Raises:
            UpstreamFailed: none has; it says what arXiv's API said.
            NotReady: likewise, when the API could not even be asked.
        """
        index = await self._index(as_of)
        choices = self._before_failure(index)
        failure: UpstreamFailed | NotReady | None = None
        while choices:
            choice = choices.pop(0)
            has_pages = False
            pages = choice.source.pages(
                search_term,
                max_results=max_results,
                as_of=as_of,
                deadline=deadline if failure else _earlier(deadline),
                limits=limits,
            )
            try:
                async with contextlib.aclosing(pages):
                    async for step in pages:
                        if isinstance(step, Page):
                            _check_not_empty_handed(choice, step)
                            has_pages = True
                            yield dataclasses.replace(step, source=choice.name, is_stale=choice.is_stale)
                        else:
                            yield step
            except (UpstreamFailed, NotReady) as error:
                self._note(choice, error)
                if not choices and failure is None:  # the API was the last of the first choices
                    failure = error
                    choices = self._after_failure(index, error)
                if has_pages:
                    yield StartingOver()
            else:
                return
        if failure:
            raise failure

    def _note(self, choice: _Choice, error: UpstreamFailed | NotReady) -> None:
        """Tell that a source did not answer; that the cache holds no answer is nothing to tell of."""
        logger.info("AUTO goes on: %s", error.message)
        if choice.source in (self._sources.fresh, self._sources.kept):
            return
        told = {names.SOURCE: choice.name.name.lower(), names.ERROR_TYPE: type(error).__name__}
        trace.get_current_span().add_event(names.FALLBACK, told)

    async def _index(self, as_of: date) -> _Choice | None:
        """Return the local index and whether it is too old for the day; None when there is none."""
        try:
            newest_at = await asyncio.to_thread(self._sources.index.newest_at)
        except NotReady:
            return None
        is_stale = as_of - newest_at.astimezone(UTC).date() > self._max_index_age
        return _Choice(source=self._sources.index, name=SourceName.INDEX, is_stale=is_stale)

    def _before_failure(self, index: _Choice | None) -> list[_Choice]:
        """Return whom to ask first; arXiv's API is the last of them."""
        fresh = _Choice(source=self._sources.fresh, name=SourceName.ARXIV)
        young = [index] if index and not index.is_stale else []
        arxiv = self._sources.impatient_arxiv if index else self._sources.arxiv
        return [fresh, *young, _Choice(source=arxiv, name=SourceName.ARXIV)]

    def _after_failure(self, index: _Choice | None, failure: Exception) -> list[_Choice]:
        """Return whom to ask when arXiv's API did not answer; when only its queue is too long the index comes first."""
        choices = [_Choice(source=self._sources.kept, name=SourceName.ARXIV, is_stale=True)]
        if index:
            choices.insert(0 if isinstance(failure, WaitTooLong) else 1, index)
        return [*choices, _Choice(source=self._sources.store, name=SourceName.STORE, is_stale=True)]


def _earlier(deadline: float) -> float:
    now = time.monotonic()
    return now + (deadline - now) * API_SHARE


def _check_not_empty_handed(choice: _Choice, page: Page) -> None:
    """Refuse an answer without papers of a store that only knows what it was shown."""
    if choice.name is SourceName.STORE and not page.papers:
        raise UpstreamFailed("the store of embedded papers", "it is empty")
