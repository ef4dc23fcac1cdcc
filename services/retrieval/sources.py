"""What the search needs of a source of papers."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum, auto
from typing import Protocol

from paperroute.v1 import usage_pb2

from services.common.papers import Paper


class SourceName(Enum):
    """Where papers come from; the names are those of the enum `paperroute.v1.Source`."""

    AUTO = auto()
    ARXIV = auto()
    SAMPLE = auto()
    INDEX = auto()
    STORE = auto()


class Match(Enum):
    """Which papers hold a search term; the names are those of the enum `paperroute.v1.MatchMode`."""

    ALL_WORDS = auto()
    ARTICLE = auto()
    NONE = auto()


class CapBy(Enum):
    """Which papers are kept when there are too many; the names are those of the enum `paperroute.v1.CapBy`."""

    NEWEST = auto()
    RELEVANCE = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a search asks for besides the words of its terms; what a source gives beyond that the filters drop."""

    match: Match = Match.ALL_WORDS
    cap_by: CapBy = CapBy.NEWEST
    """Which papers to give when there are more than `max_results`, and in which order."""
    categories: tuple[str, ...] = ()
    """Only papers with at least one of these; none means all."""
    published_from: datetime | None = None
    """Only papers published at this moment or later, UTC."""
    call: usage_pb2.CallContext | None = None
    """For whom vectors of a term are made, and what they may cost; None for nobody in particular."""


NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The next papers of an answer."""

    papers: Sequence[Paper]
    expected_count: int
    """Papers the whole answer will hold, those before this page included."""
    answered_at: datetime
    """Moment the source gave the page, UTC; of the index, that of its newest record."""
    source: SourceName | None = None
    """The source it comes from, where that was chosen on the way; None means the one that was asked."""
    is_cached: bool = False
    """Whether it was kept from an earlier search."""
    is_stale: bool = False
    """Whether it is older than wanted."""
    usage: tuple[usage_pb2.ModelUsage, ...] = ()
    """What an encoder took for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """The source waits for something outside before it can go on."""

    waiting_for: str
    """A few English words: "arXiv"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartingOver:
    """The pages so far are void: another source answers from the beginning."""


Step = Page | Waiting | StartingOver


class Source(Protocol):
    """Gives the papers for one search term after the other."""

    def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float, limits: Limits = NO_LIMITS
    ) -> AsyncGenerator[Step]:
        """Yield the answer in pages, at least one; an answer without papers is a page without papers.

        Args:
            search_term: holds at least one word.
            max_results: most papers over all pages.
            as_of: last day of interest, UTC; a source may leave later papers out.
            deadline: `time.monotonic()` by which the caller needs the whole answer; infinite for none.
            limits: further wishes; what a source cannot do is left to the filters.

        Raises:
            UpstreamFailed: the source cannot be reached or does not answer as it should.
            NotReady: the source has to be set up first.
        """
        ...


class DatedSource(Source, Protocol):
    """A source that says how young its papers are."""

    def newest_at(self) -> datetime:
        """Return the moment of the newest record, UTC."""
        ...
