"""The frame of the extractive engine: real counts and dates, in the language asked for."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.papers import Paper
from services.generation.extractive.engine import ExtractiveEngine
from services.generation.tasks import FramePart, FramePartKind, FrameTask, OutlineSection, WrittenFrame

KEY = re.compile(r"(?<!\\)\[(P\d+(?:, P\d+)*)\]")


async def written(task: FrameTask) -> tuple[list[FramePart], WrittenFrame]:
    events = [event async for event in ExtractiveEngine().write_frame(task)]
    parts = [event for event in events[:-1] if isinstance(event, FramePart)]
    assert len(parts) == len(events) - 1, "the frame comes last and once"
    assert isinstance(events[-1], WrittenFrame)
    return parts, events[-1]


def texts_of(frame: WrittenFrame) -> list[str]:
    return [frame.introduction, frame.closing, *(head.text for head in frame.chapters)]


async def test_parts_come_once_and_make_up_the_frame(lora: Any):
    parts, frame = await written(lora.frame())
    chapters = range(1, len(lora.outline) + 1)

    assert Counter((part.kind, part.chapter_number) for part in parts) == Counter(
        [
            (FramePartKind.TITLE, 0),
            (FramePartKind.INTRODUCTION, 0),
            (FramePartKind.CLOSING, 0),
            *((FramePartKind.CHAPTER_TITLE, number) for number in chapters),
            *((FramePartKind.CHAPTER_TEXT, number) for number in chapters),
        ]
    )
    told = {(part.kind, part.chapter_number): part.text for part in parts}
    assert told[FramePartKind.INTRODUCTION, 0] == frame.introduction
    assert [told[FramePartKind.CHAPTER_TEXT, number] for number in chapters] == [head.text for head in frame.chapters]


async def test_counts_and_dates_are_real(lora: Any):
    _, frame = await written(lora.frame())
    years = Counter(each.paper.published_at.year for each in lora.papers)
    categories = Counter(each.paper.primary_category for each in lora.papers)

    assert frame.title == "LoRA image generation, 2025–2026: a survey of 36 papers"
    assert "36 papers published between April 2025 and June 2026" in frame.introduction
    assert all(f"{count} from {year}" in frame.introduction for year, count in years.items())
    assert all(f"{name} ({count})" in frame.introduction for name, count in categories.most_common(2))
    assert "“LoRA image generation” and “low-rank adaptation”" in frame.introduction
    assert "three chapters" in frame.introduction
    for number, chapter in enumerate(lora.outline, start=1):
        assert f"chapter {number} on " in frame.introduction
        assert f"{len(chapter)}" in frame.chapters[number - 1].text or "two sections" in frame.chapters[number - 1].text


async def test_the_newest_papers_close_the_survey(lora: Any):
    _, frame = await written(lora.frame())
    newest = max(each.paper.published_at for each in lora.papers)
    cited = KEY.findall(frame.closing)
    keys = cited[0].split(", ")

    assert len(cited) == 1
    assert {each.paper.published_at for each in lora.papers if each.key in keys} == {newest}


async def test_rare_aspects_are_counted(route_of: Callable[..., Any], paper: Callable[..., Paper]):
    """What few abstracts mention is a finding a reader can use, so it must be a count."""
    papers = [paper(f"Name{number}: On Ropes", "A dataset of ropes.") for number in range(9)]
    papers.append(paper("Last: On Ropes", "A dataset of ropes and a theorem about safety."))

    _, frame = await written(route_of(papers, most=5).frame())
    rare, absent = frame.closing.split("\n\n")[1].split(". ")

    assert "theory or proofs (1) and safety, privacy or fairness (1)" in rare
    assert "dataset" not in rare + absent
    assert "evaluation by people" in absent


async def test_keys_are_those_of_the_papers(lora: Any):
    """A chapter's text names a paper of the chapter."""
    _, frame = await written(lora.frame())
    for head, chapter in zip(frame.chapters, lora.outline, strict=True):
        keys = {key for section in chapter for key in section.keys}

        assert len(KEY.findall(head.text)) == 1
        assert set(KEY.findall(head.text)) <= keys
    assert not KEY.findall(frame.introduction)


async def test_titles_are_one_plain_line(lora: Any):
    for language in ("en", "ja"):
        _, frame = await written(lora.frame(language=language))
        for title in (frame.title, *(head.title for head in frame.chapters)):
            assert title
            assert not re.search(r"[\n\[\]\\*_<>`#]", title)
    assert len({head.title for head in frame.chapters}) == len(frame.chapters)


async def test_japanese_is_japanese(lora: Any):
    """Every sentence has kana, and no English word is left but terms, names and categories."""
    _, frame = await written(lora.frame(language="ja"))

    assert frame.title == "LoRA image generation に関する研究動向（2025–2026）：36本の論文から"
    for text in texts_of(frame):
        for sentence in filter(None, re.split(r"(?<=。)|\n\n", text)):
            assert re.search(r"[\u3040-\u309f]", sentence), sentence
            assert not re.search(r"\b(?:the|papers|chapter|survey|published|of|is|are)\b", sentence)
    assert all(head.title.endswith("の研究動向") for head in frame.chapters)


async def test_given_titles_of_sections_are_used(lora: Any):
    """Sections that another engine wrote keep the names it gave them."""
    first = (OutlineSection(keys=lora.outline[0][0].keys, title="A *given* title"), *lora.outline[0][1:])

    _, frame = await written(lora.frame(outline=(first, *lora.outline[1:])))

    assert "“A \\*given\\* title”" in frame.chapters[0].text


async def test_a_chapter_whose_papers_were_dropped_still_has_a_head(lora: Any):
    left = tuple(each for each in lora.papers if each.key not in {k for s in lora.outline[1] for k in s.keys})

    for language in ("en", "ja"):
        _, frame = await written(lora.frame(papers=left, language=language))

        assert len(frame.chapters) == len(lora.outline)
        assert all(head.title and head.text for head in frame.chapters)
        assert "24" in frame.introduction


async def test_a_section_whose_papers_were_dropped_is_not_told_of(lora: Any):
    left = tuple(each for each in lora.papers if each.key not in lora.outline[0][0].keys)

    _, frame = await written(lora.frame(papers=left))

    assert frame.chapters[0].text.startswith("This chapter has four papers in one section, on ")


@pytest.mark.parametrize("language", ["en", "ja", "ko"])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_small_surveys_have_whole_frames(
    count: int, language: str, library: dict[str, list[Paper]], route_of: Callable[..., Any]
):
    _, frame = await written(route_of(library["lora"][:count]).frame(language=language, search_terms=()))

    assert all([frame.title, frame.introduction, frame.closing, *(head.text for head in frame.chapters)])
    assert not re.search(r" {2}|\(\)|“”|\bone papers\b| ,", " ".join(texts_of(frame)))


async def test_the_same_request_gives_the_same_frame(lora: Any):
    assert await written(lora.frame()) == await written(lora.frame())


async def test_another_seed_changes_phrases_only(lora: Any):
    _, first = await written(lora.frame())
    _, second = await written(lora.frame(sample_seed=1))

    assert first != second
    assert [head.title for head in first.chapters] == [head.title for head in second.chapters]
    assert (first.title, first.introduction, first.closing) == (second.title, second.introduction, second.closing)


async def test_one_year_is_told_once(route_of: Callable[..., Any], paper: Callable[..., Paper]):
    papers = [paper(f"N{n}: x", "y.", published_at=datetime(2024, n, 1, tzinfo=UTC)) for n in (1, 2)]

    _, frame = await written(route_of(papers).frame())

    assert "2024:" in frame.title
    assert "By year" not in frame.introduction


async def test_sections_are_told_by_the_terms_of_their_titles(lora: Any):
    """The frame runs beside the sections, and still names them as they name themselves."""
    engine = ExtractiveEngine()
    _, frame = await written(lora.frame())
    for task in lora.sections():
        events = [event async for event in engine.write_section(replace(task))]
        title = events[-1].title

        assert title[1:] in frame.chapters[task.chapter_number - 1].text
