"""Packs of phrases: the same things can be said in each language."""

import dataclasses
import re
import string
from datetime import UTC, datetime
from typing import Any

import pytest

from services.generation.extractive.aspects import ASPECTS
from services.generation.extractive.phrases import Phrases, phrases_of
from services.generation.extractive.phrases_en import ENGLISH
from services.generation.extractive.phrases_ja import JAPANESE

FIELDS = [field.name for field in dataclasses.fields(Phrases)]
KANA_OR_HAN = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
WITHOUT_JAPANESE = {"language", "number_words", "months", "narrates", "comma", "last_comma", "semicolon", "quoted_term",
                    "span_one", "section_item", "month"}  # fmt: skip


def phrases_in(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else []


def placeholders(phrase: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(phrase) if name}


@pytest.mark.parametrize("field", FIELDS)
def test_placeholders_are_the_same(field: str):
    """A phrase that lacks a value would say less in one language; one too many would fail when it is written."""
    english, japanese = (phrases_in(getattr(pack, field)) for pack in (ENGLISH, JAPANESE))
    wanted = [placeholders(phrase) for phrase in english]

    assert all(placeholders(phrase) == wanted[0] for phrase in english + japanese)


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in WITHOUT_JAPANESE])
def test_the_japanese_pack_is_japanese(field: str):
    """No English sentence is left in it; "arXiv" is a name."""
    for phrase in phrases_in(getattr(JAPANESE, field)):
        own = re.sub(r"\{\w+\}|arXiv", "", phrase)

        assert KANA_OR_HAN.search(own), phrase
        assert not re.search(r"[A-Za-z]", own), phrase


@pytest.mark.parametrize("pack", [ENGLISH, JAPANESE], ids=["en", "ja"])
def test_sentences_end(pack: Phrases):
    """What is a sentence of its own ends as one, so that the next can follow."""
    fields = ("opening_one", "opening_all", "opening_most", "opening_some", "opening_none", "range_of", "next_all",
              "next_some", "chapter_one_section", "chapter_sections", "chapter_centre", "introduction_scope",
              "introduction_term", "introduction_terms", "introduction_chapters", "closing_path", "closing_common",
              "closing_recent", "closing_rare", "closing_absent")  # fmt: skip
    for field in fields:
        for phrase in phrases_in(getattr(pack, field)):
            assert phrase.endswith((".", "。")), phrase


@pytest.mark.parametrize("pack", [ENGLISH, JAPANESE], ids=["en", "ja"])
def test_every_aspect_has_a_name(pack: Phrases):
    assert len(pack.aspects) == len(ASPECTS)
    assert len(set(pack.aspects)) == len(ASPECTS)
    assert len(pack.months) == 12


@pytest.mark.parametrize(("language", "pack"), [("en", ENGLISH), ("ja", JAPANESE), ("fr", ENGLISH), ("zh", ENGLISH)])
def test_other_languages_fall_back_to_english(language: str, pack: Phrases):
    assert phrases_of(language) is pack


@pytest.mark.parametrize(
    ("pack", "moments", "span"),
    [
        (ENGLISH, [(2025, 7)], "in July 2025"),
        (ENGLISH, [(2026, 3), (2025, 7), (2025, 12)], "between July 2025 and March 2026"),
        (JAPANESE, [(2025, 7)], "2025年7月"),
        (JAPANESE, [(2026, 3), (2025, 7)], "2025年7月から2026年3月"),
    ],
)
def test_spans(pack: Phrases, moments: list[tuple[int, int]], span: str):
    assert pack.span_of([datetime(year, month, 1, tzinfo=UTC) for year, month in moments]) == span


def test_numbers_and_lists_read_naturally():
    assert [ENGLISH.paper_count(count) for count in (1, 2, 12, 13)] == [
        "one paper", "two papers", "twelve papers", "13 papers",
    ]  # fmt: skip
    assert JAPANESE.paper_count(3) == "3本"
    assert ENGLISH.joined(["a"]) == "a"
    assert ENGLISH.joined(["a", "b", "c"]) == "a, b and c"
    assert JAPANESE.joined(["a", "b"]) == "a、b"


def test_no_gaps_are_left_between_japanese_words():
    """Spaces part English terms from Japanese words and nothing else."""
    assert JAPANESE.say("{papers} が {term} に触れる。", papers="3本", term="style") == "3本が style に触れる。"
    assert JAPANESE.say("順に {term} である。", term="「style」") == "順に「style」である。"
