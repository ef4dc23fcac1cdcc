"""What the search needs of a source of papers."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from services.common.papers import Paper


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The next papers of an answer."""

    papers: Sequence[Paper]
    expected_count: int
    """Papers the whole answer will hold, those before this page included."""
    answered_at: datetime
    """Moment the source gave the page, UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """The source waits for something outside before it can go on."""

    waiting_for: str
    """A few English words: "arXiv"."""


class Source(Protocol):
    """Gives the papers for one search term after the other."""

    def pages(
        self, search_term: str, *, max_results: int, as_of: date, deadline: float
    ) -> AsyncGenerator[Page | Waiting]:
        """Yield the answer in pages, at least one; an answer without papers is a page without papers.

        Args:
            search_term: holds at least one word.
            max_results: most papers over all pages.
            as_of: last day of interest, UTC; a source may leave later papers out.
            deadline: `time.monotonic()` by which the caller needs the whole answer; infinite for none.

        Raises:
            UpstreamFailed: the source cannot be reached or does not answer as it should.
        """
        ...
