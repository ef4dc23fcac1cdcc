"""The summaries of one survey as they come in, for the sections that wait for theirs."""

import asyncio
from collections.abc import Sequence


class SummaryBoard:
    """Holds a place for each paper; a section waits for its own papers only."""

    def __init__(self, paper_ids: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        self._places: dict[str, asyncio.Future[str | None]] = {each: loop.create_future() for each in paper_ids}

    def post(self, paper_id: str, summary: str | None) -> None:
        """Fill in a paper's place, once; None says that there will be no summary."""
        place = self._places[paper_id]
        if not place.done():
            place.set_result(summary)

    async def all_of(self, paper_ids: Sequence[str]) -> dict[str, str]:
        """Return the summaries of these papers once all have been decided; papers without one are left out."""
        summaries = [await asyncio.shield(self._places[paper_id]) for paper_id in paper_ids]
        return {paper_id: text for paper_id, text in zip(paper_ids, summaries, strict=True) if text is not None}
