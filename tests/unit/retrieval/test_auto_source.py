"""AUTO: who is asked, in which order, and whose answer stands."""

import math
import time
from datetime import UTC, date, datetime, timedelta

import pytest

from services.common.errors import NotReady, UpstreamFailed
from services.common.papers import Paper
from services.retrieval.arxiv_source import WaitTooLong
from services.retrieval.auto_source import AutoSource, Sources
from services.retrieval.sources import Limits, Match, Page, SourceName, StartingOver, Waiting

AS_OF = date(2026, 7, 1)
PAPER = Paper(paper_id="2601.00001", title="T", abstract="", published_at=datetime(2026, 1, 1, tzinfo=UTC))
DOWN = UpstreamFailed("arXiv", "gone", retry_after_s=60)
LONG_QUEUE = WaitTooLong("arXiv", "long", retry_after_s=30)
MISSING = NotReady("the index", "build one")


def page(*papers: Paper) -> Page:
    return Page(papers=papers, expected_count=len(papers), answered_at=datetime(2026, 6, 30, tzinfo=UTC))


class Scripted:
    """Yields its steps, raises what is an exception, and notes that it was asked."""

    def __init__(self, name: str, steps, log: list, newest_at: datetime | Exception = MISSING) -> None:
        self._name, self._steps, self._log, self._newest_at = name, steps, log, newest_at

    def newest_at(self) -> datetime:
        if isinstance(self._newest_at, Exception):
            raise self._newest_at
        return self._newest_at

    async def pages(self, search_term, **asked):
        self._log.append((self._name, asked))
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            yield step


class Run:
    def __init__(self, **scripts) -> None:
        self.log: list = []
        age_days = scripts.pop("index_age_days", None)
        newest_at = MISSING if age_days is None else datetime(2026, 7, 1, tzinfo=UTC) - timedelta(days=age_days)
        scripts = {"fresh": [DOWN], "kept": [DOWN], "arxiv": [DOWN], "store": [DOWN], "index": [page(PAPER)]} | scripts
        scripts.setdefault("impatient_arxiv", scripts["arxiv"])
        sources = {name: Scripted(name, steps, self.log, newest_at) for name, steps in scripts.items()}
        self._auto = AutoSource(Sources(**sources), max_index_age=timedelta(days=7))

    async def steps(self, deadline: float = math.inf, limits: Limits | None = None) -> list:
        asked = {"max_results": 9, "as_of": AS_OF, "deadline": deadline, "limits": limits or Limits()}
        return [step async for step in self._auto.pages("cats", **asked)]

    @property
    def asked(self) -> list[str]:
        return [name for name, _ in self.log]


@pytest.mark.parametrize(
    ("scripts", "asked", "source", "is_stale"),
    [
        pytest.param({"fresh": [page(PAPER)]}, ["fresh"], SourceName.ARXIV, False, id="fresh"),
        pytest.param({"index_age_days": 7}, ["fresh", "index"], SourceName.INDEX, False, id="young index"),
        pytest.param({"arxiv": [page(PAPER)]}, ["fresh", "arxiv"], SourceName.ARXIV, False, id="API"),
        pytest.param(
            {"arxiv": [page(PAPER)], "index_age_days": 8},
            ["fresh", "impatient_arxiv"],
            SourceName.ARXIV,
            False,
            id="API before an old index",
        ),
        pytest.param(
            {"kept": [page(PAPER)], "index_age_days": 8},
            ["fresh", "impatient_arxiv", "kept"],
            SourceName.ARXIV,
            True,
            id="old answer",
        ),
        pytest.param(
            {"index_age_days": 8}, ["fresh", "impatient_arxiv", "kept", "index"], SourceName.INDEX, True, id="old index"
        ),
        pytest.param(
            {"arxiv": [LONG_QUEUE], "kept": [page(PAPER)], "index_age_days": 8},
            ["fresh", "impatient_arxiv", "index"],
            SourceName.INDEX,
            True,
            id="a long queue is left for the index",
        ),
        pytest.param(
            {"store": [page(PAPER)]}, ["fresh", "arxiv", "kept", "store"], SourceName.STORE, True, id="store at last"
        ),
        pytest.param(
            {"index": [MISSING], "index_age_days": 1, "arxiv": [page(PAPER)]},
            ["fresh", "index", "impatient_arxiv"],
            SourceName.ARXIV,
            False,
            id="index that vanished",
        ),
        pytest.param({"arxiv": [page()]}, ["fresh", "arxiv"], SourceName.ARXIV, False, id="nothing found is an answer"),
    ],
)
async def test_first_that_answers(scripts, asked, source, is_stale):
    run = Run(**scripts)

    (step,) = await run.steps()

    assert run.asked == asked
    assert (step.source, step.is_stale) == (source, is_stale)


@pytest.mark.parametrize("store", [[DOWN], [MISSING], [page()]], ids=["down", "not ready", "empty"])
async def test_when_none_answers_it_says_what_arxiv_said(store):
    """An empty store is no answer: it would look as if there were no such papers."""
    with pytest.raises(UpstreamFailed) as failure:
        await Run(store=store).steps()

    assert failure.value is DOWN


async def test_pages_of_a_source_that_failed_half_way_are_void():
    run = Run(arxiv=[Waiting(waiting_for="arXiv"), page(PAPER), DOWN], kept=[page(PAPER)])

    steps = await run.steps()

    assert [type(step) for step in steps] == [Waiting, Page, StartingOver, Page]


async def test_arxiv_leaves_time_for_the_others():
    run = Run()
    deadline = time.monotonic() + 1_000
    limits = Limits(match=Match.NONE)
    with pytest.raises(UpstreamFailed):
        await run.steps(deadline, limits)

    left = {name: asked["deadline"] - deadline for name, asked in run.log}
    assert -300 < left["arxiv"] < -100
    assert left["store"] == 0
    assert all((each["max_results"], each["as_of"], each["limits"]) == (9, AS_OF, limits) for _, each in run.log)
