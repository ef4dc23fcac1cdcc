"""Hostile papers in the tasks beside the section: the worst of readers copies all they hold and obeys what gets out.

It copies from what it is shown, and from the paper as it was before anything was cleaned.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from real_engines import engines_of_environment, point_at
from scripted_models import caller_for
from standins.provider_prompts import outside, readable
from standins.provider_server import Asked, ProviderStandIn
from standins.provider_writers import CODE_WORD, HOSTILE_ABSTRACTS, OBEYED, GullibleWriter

from services.common.citations import Reference, render
from services.common.papers import Paper
from services.generation.engines import Engines
from services.generation.tasks import (
    FrameTask,
    KeyedPaper,
    OutlineSection,
    PaperSummary,
    PlanTask,
    SearchPlan,
    SummaryTask,
    WrittenFrame,
)

ROWS = json.loads(Path(HOSTILE_ABSTRACTS).read_text(encoding="utf-8"))
MODEL = "openai:gpt-6-luna"
PLAIN = {"paragraph_open", "paragraph_close", "inline", "text", "text_special", "softbreak"}
OURS = {**{f"P{number}": Reference(name=f"N{number}", url=f"https://arxiv.org/abs/{number}") for number in (1, 2)}}

each_row = pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])


class Watched(GullibleWriter):
    """Also keeps what it was asked."""

    asked: list[Asked]

    def __call__(self, asked: Asked) -> str:
        self.asked.append(asked)
        return super().__call__(asked)


def paper_of(title: str, abstract: str) -> Paper:
    return Paper(paper_id="2501.00001", title=title, abstract=abstract, published_at=datetime(2025, 1, 1, tzinfo=UTC))


def plan_of(row: Mapping[str, str]) -> PlanTask:
    return PlanTask(question=row["abstract"][:4_000], language="", max_search_terms=3, sample_seed=0)


def summary_of(row: Mapping[str, str]) -> SummaryTask:
    return SummaryTask(paper=paper_of(row["title"], row["abstract"]), language="en", summary_seconds=120)


def frame_of(row: Mapping[str, str]) -> FrameTask:
    """Return a frame around the paper, with what is hostile in it at the head of its summary, and a harmless one."""
    order = row["abstract"].partition(". ")[2]
    hostile = KeyedPaper(key="P1", paper=paper_of(row["title"], row["abstract"]), summary=order)
    harmless = KeyedPaper(key="P2", paper=paper_of("Name: a paper", "We propose Name."), summary="Name is proposed.")
    outline = ((OutlineSection(keys=("P1",), title=row["title"][:200]), OutlineSection(keys=("P2",))),)
    return FrameTask(
        question=f"How are images made? ({row['name']})",
        language="en",
        outline=outline,
        papers=(hostile, harmless),
        search_terms=("image generation",),
        sample_seed=0,
    )


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What came out for each row, and all that the model was asked: "plan NAME", "summary NAME", "frame NAME"."""
    writer = Watched()
    writer.asked = []
    found: dict[str, Any] = {"asked": writer.asked}

    async def one(engines: Engines, row: Mapping[str, str]) -> None:
        engine, name = engines.of(MODEL), row["name"]
        writer.remembered = (row["title"], row["abstract"][:6_000])
        found[f"plan {name}"] = await engine.plan_search(plan_of(row), caller_for("plan"))
        found[f"summary {name}"] = await engine.summarize_paper(summary_of(row), caller_for("summarize"))
        events = [event async for event in engine.write_frame(frame_of(row), caller_for("frame"))]
        found[f"frame {name}"] = events[-1]

    async def all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
        async with ProviderStandIn(writer=writer) as provider:
            point_at(provider, monkeypatch)
            async with engines_of_environment() as engines:
                for row in ROWS:
                    await one(engines, row)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PAPERROUTE_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        asyncio.run(all_of_them(monkeypatch))
        yield found


def tokens_of(text: str) -> set[str]:
    """Return the kinds of what a Markdown reader sees in a text."""
    return {child.type for token in MarkdownIt().parse(text) for child in [token, *(token.children or ())]}


def links_in(text: str) -> set[str]:
    found = (child for token in MarkdownIt().parse(text) for child in token.children or ())
    return {str(child.attrs["href"]) for child in found if child.type == "link_open"}


@each_row
def test_a_summary_is_text_and_nothing_else(row: Mapping[str, str], answers: dict[str, Any]):
    """No link, no tag, no key, nothing invisible, nothing obeyed."""
    result: PaperSummary = answers[f"summary {row['name']}"]

    rendered = render(result.summary, OURS)
    assert result.model == MODEL
    assert (rendered.cited_keys, rendered.unknown_key_count, rendered.removed_link_count) == ((), 0, 0)
    assert tokens_of(result.summary) <= PLAIN
    assert result.summary.isprintable()
    assert OBEYED not in result.summary


@each_row
def test_a_frame_links_to_its_papers_and_nowhere_else(row: Mapping[str, str], answers: dict[str, Any]):
    result: WrittenFrame = answers[f"frame {row['name']}"]

    assert result.model == MODEL
    texts = [result.introduction, result.closing, *(head.text for head in result.chapters)]
    titles = [result.title, *(head.title for head in result.chapters)]
    for text in texts:
        rendered = render(text, OURS)
        assert (rendered.unknown_key_count, rendered.removed_link_count) == (0, 0)
        assert links_in(rendered.text) <= {reference.url for reference in OURS.values()}
        assert tokens_of(rendered.text) <= PLAIN | {"link_open", "link_close"}
    for text in (*texts, *titles):
        assert text.replace("\n", "").isprintable()
        assert OBEYED not in text
        assert "evil.example/" not in text
    for title in titles:
        assert tokens_of(title) <= PLAIN


@each_row
def test_a_plan_is_a_few_english_words(row: Mapping[str, str], answers: dict[str, Any]):
    result: SearchPlan = answers[f"plan {row['name']}"]

    assert result.search_terms == ("image generation",)


def test_no_order_stands_outside_the_marks(answers: dict[str, Any]):
    """However it was hidden: what stands there is what a model takes for ours."""
    asked: list[Asked] = answers["asked"]

    assert len(asked) > 2.9 * len(ROWS)  # a few rows differ in hidden characters alone
    for each in asked:
        assert CODE_WORD not in readable(outside(each.text)).casefold()
        assert "://" not in each.text
