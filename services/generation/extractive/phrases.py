"""The engine's own words: what stands between the papers' sentences, in each language it has a pack for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

_CJK = r"\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
_GAP = re.compile(rf"(?<=[{_CJK}]) +(?=[{_CJK}])|(?<=[、。「」（）：・]) +| +(?=[、。「」（）：・])")

Choices = tuple[str, ...]
"""Phrases that say the same; one is chosen by the place in the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrases:
    """The phrases of one language. Placeholders are the same in every language; a sentence ends with its full stop."""

    language: str

    # Numbers, dates, lists.
    comma: str
    last_comma: str
    semicolon: str
    quoted_term: str
    number_words: tuple[str, ...]
    one_paper: str
    papers: str
    one_section: str
    sections: str
    one_chapter: str
    chapters: str
    months: tuple[str, ...]
    month: str
    span_one: str
    span: str
    term_count: str

    # A section.
    section_title: str
    narrates: bool
    """Whether a paper's sentence can be told with its key as subject; otherwise it is quoted."""
    quoted: Choices
    on_same_term: Choices
    in_same_vein: Choices
    by_contrast: Choices
    opening_one: Choices
    opening_all: Choices
    opening_most: Choices
    opening_some: Choices
    opening_none: Choices
    range_of: Choices
    next_all: Choices
    next_some: Choices

    # The frame.
    title: str
    title_without_topic: str
    untitled: str
    introduction_scope: str
    introduction_term: str
    introduction_terms: str
    introduction_categories: str
    introduction_category: str
    introduction_years: str
    year_count: str
    introduction_chapters: str
    chapter_item: str
    chapter_title: str
    chapter_one_section: Choices
    chapter_sections: Choices
    section_item: str
    chapter_without_papers: str
    chapter_centre: Choices
    closing_path: str
    closing_common: str
    closing_recent: str
    closing_rare: str
    closing_absent: str
    aspects: tuple[str, ...]
    """Names of `aspects.ASPECTS`, in its order."""

    def say(self, template: str, **values: str) -> str:
        """Return a template with its values, its first letter a capital, without gaps between Japanese words."""
        text = _GAP.sub("", template.format(**values))
        return text[:1].upper() + text[1:] if template[:1] == "{" else text

    def joined(self, items: Sequence[str]) -> str:
        """Return "a, b and c"."""
        *before, last = items
        return self.comma.join(before) + self.last_comma + last if before else last

    def number(self, count: int) -> str:
        """Return a number as it stands in a sentence: small ones as words where the language does so."""
        return self.number_words[count] if count < len(self.number_words) else f"{count:,}"

    def counted(self, count: int, one: str, many: str) -> str:
        """Return "one paper" or "six papers" of such templates."""
        return one if count == 1 else many.format(count=self.number(count))

    def paper_count(self, count: int) -> str:
        """Return "six papers"."""
        return self.counted(count, self.one_paper, self.papers)

    def month_of(self, moment: datetime) -> str:
        """Return "July 2025"."""
        return self.month.format(month=self.months[moment.month - 1], year=moment.year)

    def span_of(self, moments: Sequence[datetime]) -> str:
        """Return "in July 2025" or "between July 2025 and March 2026"."""
        first, last = self.month_of(min(moments)), self.month_of(max(moments))
        return self.span_one.format(first=first) if first == last else self.span.format(first=first, last=last)


def chosen(choices: Choices, turn: int) -> str:
    """Return the phrase whose turn it is, so that neighbours do not say the same."""
    return choices[turn % len(choices)]


def phrases_of(language: str) -> Phrases:
    """Return the phrases of a language; English where there are none."""
    from services.generation.extractive.phrases_en import ENGLISH
    from services.generation.extractive.phrases_ja import JAPANESE

    return JAPANESE if language == JAPANESE.language else ENGLISH
