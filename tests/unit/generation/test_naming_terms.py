"""Titles of sections and chapters: sensible, true to the papers, and no two alike."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from services.common.papers import Paper
from services.generation.extractive import section
from services.generation.extractive.naming import Namer, asked_words
from services.generation.extractive.terms import Text, key_of, terms_of

GENERIC = {"method", "methods", "framework", "approach", "novel", "via", "towards", "efficient", "model", "the", "for"}
TOPICS = ["lora", "rag-eval", "splatting", "video"]


def namer_of(route: Any) -> Namer:
    texts = {each.place: Text.of(each.paper.title, each.paper.abstract) for each in route.papers}
    titles = [each.paper.title for each in route.papers]
    return Namer(route.question, route.outline, titles, texts)


def titles_of(route: Any, language: str = "en") -> list[str]:
    return [section.drafted(task).title for task in route.sections(language=language)]


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("most", [3, 5, 8])
@pytest.mark.parametrize("language", ["en", "ja"])
def test_titles_are_unique_among_sections(
    library: dict[str, list[Paper]], route_of: Callable[..., Any], topic: str, most: int, language: str
):
    """A reader must be able to tell sections apart by their titles alone."""
    titles = titles_of(route_of(library[topic], chapters=3, most=most), language)

    assert len(set(titles)) == len(titles)
    assert all(titles)


def test_no_two_sections_share_a_term(library: dict[str, list[Paper]], route_of: Callable[..., Any]):
    """A term names the section that holds it most."""
    papers = [paper for topic in TOPICS for paper in library[topic]]
    route = route_of(papers, chapters=4)
    namer = namer_of(route)
    count = sum(len(chapter) for chapter in route.outline)
    keys = [key_of(term.split()) for number in range(count) for term in namer.section_terms(number)]

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("topic", TOPICS)
def test_terms_are_noun_phrases_of_the_sections_titles(
    library: dict[str, list[Paper]], route_of: Callable[..., Any], topic: str
):
    """Nothing is named by a word its titles do not hold, by a generic word, a number, or a word within another term."""
    route = route_of(library[topic], chapters=3)
    namer = namer_of(route)
    for number, task in enumerate(route.sections()):
        terms = namer.section_terms(number)
        words = {key for each in task.papers for term in terms_of(each.paper.title).values() for key in term.key}

        assert 1 <= len(terms) <= 3
        for term in terms:
            assert set(key_of(term.split())) <= words
            assert term.lower() not in GENERIC
            assert not re.fullmatch(r"[\d.]+", term)
            assert not any(term != other and f" {term} " in f" {other} " for other in terms)


def test_words_of_the_question_name_nothing_alone(library: dict[str, list[Paper]], route_of: Callable[..., Any]):
    """Every section of a survey on LoRA is about LoRA."""
    route = route_of(library["lora"], chapters=3, question="画像生成のLoRA周りの技術トレンドを網羅的に知りたいです")
    namer = namer_of(route)
    terms = [term for number in range(len(route.sections())) for term in namer.section_terms(number)]

    assert {"lora", "image", "generation"} <= asked_words(route.question)
    assert not {"lora", "image generation"} & {term.lower() for term in terms}


def test_what_several_papers_share_comes_first(route_of: Callable[..., Any], paper: Callable[..., Paper]):
    route = route_of(
        [
            paper("A: Style Transfer with Diffusion", "Style transfer is hard."),
            paper("B: Fast Style Transfer for Video", "Style transfer of video."),
            paper("C: Rain Removal by Attention", "Rain on lenses."),
            paper("D: Night Segmentation for Cars", "Seeing at night."),
            paper("E: Night Segmentation with LiDAR", "LiDAR at night."),
            paper("F: Fog Simulation", "Fog is made."),
            paper("G: Snow Simulation", "Snow is made."),
        ],
        most=3,
    )

    first, second, third = titles_of(route)

    assert first.startswith("Style transfer")
    assert second.startswith("Night segmentation")
    assert "simulation" in third.lower()


@pytest.mark.parametrize(
    ("titles", "start"),
    [
        pytest.param(["X: LoRA Fusion", "Y: LoRA Fusion Again"], "LoRA fusion", id="interior-capitals"),
        pytest.param(["X: NeRF Editing", "Y: Fast NeRF Editing"], "NeRF editing", id="nerf"),
        pytest.param(["X: 3D Gaussian Splatting", "Y: 3D Gaussian Splatting"], "3D Gaussian splatting", id="3d"),
        pytest.param(["X: iOS Malware", "Y: iOS Malware"], "iOS malware", id="small-first"),
    ],
)
def test_casing_is_readable(titles: list[str], start: str, route_of: Callable[..., Any], paper: Callable[..., Paper]):
    """Names keep their spelling; the capitals of a title are not kept."""
    assert titles_of(route_of([paper(title, "") for title in titles]))[0].startswith(start)


def test_british_and_american_words_are_one(route_of: Callable[..., Any], paper: Callable[..., Paper]):
    papers = [paper(f"{name}: {term}", "") for name, term in (("A", "Video Stylisation"), ("B", "Video stylizations"))]

    assert titles_of(route_of(papers))[0].lower().startswith("video styli")


def test_papers_without_common_words_give_their_names(route_of: Callable[..., Any], paper: Callable[..., Paper]):
    """Titles of stop words alone still get a title, and no number."""
    assert titles_of(route_of([paper("Why: the", ""), paper("How and when", "")])) == ["Why and How and when"]


@pytest.mark.parametrize("title", ["{}", ": after a colon", "$$", "12 34", "P3", "…"])
def test_a_title_is_never_empty(title: str, route_of: Callable[..., Any], paper: Callable[..., Paper]):
    """Whatever a paper is called."""
    for language in ("en", "ja"):
        assert titles_of(route_of([paper(title, "")]), language)[0].strip()


def test_japanese_titles_frame_the_english_terms(lora: Any):
    for title in titles_of(lora, "ja"):
        assert re.fullmatch(r"[^\u3040-\u30ff]+ に関する研究", title), title


def test_chapters_are_named_by_what_reaches_over_their_sections(lora: Any):
    """A chapter's title is not that of one of its sections."""
    namer = namer_of(lora)
    number = 0
    for chapter_number, chapter in enumerate(lora.outline):
        terms = namer.chapter_terms(chapter_number)
        sections = [namer.section_terms(number + place) for place in range(len(chapter))]
        number += len(chapter)

        assert 1 <= len(terms) <= 3
        assert terms not in sections


def test_a_chapter_of_one_section_takes_its_first_term(library: dict[str, list[Paper]], route_of: Callable[..., Any]):
    namer = namer_of(route_of(library["lora"][:12], chapters=2, most=6))

    assert namer.chapter_terms(0) == namer.section_terms(0)[:1]
