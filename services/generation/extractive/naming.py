"""Titles of sections and chapters, alike whether a section or the frame asks for them."""

import re
from collections.abc import Sequence

from services.generation.extractive.latex import readable
from services.generation.extractive.phrases import Phrases
from services.generation.extractive.search_terms import search_terms
from services.generation.extractive.terms import Key, Named, Texts, grouped, is_new, key_of, naming_terms, overlap
from services.generation.extractive.words import WORD
from services.generation.tasks import Outline, place_of

_MOST_TERMS = 3
_FEWEST_TERMS = 2  # of a chapter of several sections, where they can be had
_CANDIDATES = 8  # terms of a chapter that are looked at for reaching over its sections
_FEWEST_WIDE = 3  # papers a term of a whole chapter is mentioned by
_NAMES = 2  # short names a title has when its papers share no words
_MAX_NAME_CHARACTERS = 60
_MAX_QUESTION_WORDS = 400

Groups = tuple[tuple[int, ...], ...]


class Namer:
    """Names the sections and chapters of one outline."""

    def __init__(self, question: str, outline: Outline, titles: Sequence[str], texts: Texts) -> None:
        """Keep what names are made of.

        Args:
            question: its words alone name nothing.
            outline: all chapters and sections.
            titles: of all places on the route.
            texts: of the papers at hand, at least those of what is to be named.
        """
        self.asked = asked_words(question)
        self._outline = outline
        self._titles = tuple(titles)
        self._texts = texts
        self._sections: Groups = tuple(
            tuple(place_of(key) for key in section.keys) for chapter in outline for section in chapter
        )
        self._chapters: Groups = tuple(
            tuple(place_of(key) for section in chapter for key in section.keys) for chapter in outline
        )

    def is_news(self, key: Key) -> bool:
        """Return whether a term says something that neither the question nor most titles of the route say."""
        return is_new(key, self.asked) and key not in grouped(self._titles, self._sections).common

    def section_terms(self, number: int) -> list[str]:
        """Return up to three terms that name a section, counted through from 0; no other section has any of them."""
        named = self._named(self._sections, number, most=_MOST_TERMS)
        # Two terms that papers share say more than a third that one paper has.
        terms = [term.text for place, term in enumerate(named) if place <= 1 or len(term.places) > 1]
        return terms or self._names(self._sections[number])

    def chapter_terms(self, number: int) -> list[str]:
        """Return up to three terms that name a chapter: what reaches over its sections, then the sections' first."""
        first = sum(len(chapter) for chapter in self._outline[:number])
        numbers = range(first, first + len(self._outline[number]))
        if len(numbers) == 1:
            return self.section_terms(first)[:1]  # the section's own title says the rest
        wide = [
            term
            for term in self._named(self._chapters, number, most=_CANDIDATES)
            if len(term.places) >= _FEWEST_WIDE
            and sum(bool(term.places & set(self._sections[each])) for each in numbers) > 1
        ]
        sections = [self._named(self._sections, each, most=_FEWEST_TERMS) for each in numbers]
        leading = sorted((terms[0] for terms in sections if terms), key=lambda term: -len(term.places))
        others = [term for terms in sections for term in terms[1:]]
        chosen: list[Named] = []
        for term in [*wide[: _MOST_TERMS - 1], *leading, *others]:
            most = _FEWEST_TERMS if term in others else _MOST_TERMS
            if len(chosen) < most and not any(overlap(term.key, other.key) for other in chosen):
                chosen.append(term)
        return [term.text for term in chosen] or self._names(self._chapters[number])

    def _named(self, groups: Groups, number: int, *, most: int) -> list[Named]:
        grouping = grouped(self._titles, groups)
        return naming_terms(grouping, groups[number], number, self._texts, asked=self.asked, most=most)

    def _names(self, group: Sequence[int]) -> list[str]:
        names = (_short_name(self._titles[place]) for place in group[:_NAMES])
        return [name for name in names if name]


def headed(template: str, phrases: Phrases, terms: Sequence[str]) -> str:
    """Return a title made of terms, its first letter a capital where that is no name's own spelling."""
    if not terms:
        return phrases.untitled
    title = phrases.say(template, terms=phrases.joined(terms))
    first = terms[0].split(" ")[0]
    is_spelled = first != first.lower() or not first[:1].isalpha()
    return terms[0][:1] + title[1:] if is_spelled else title


def asked_words(question: str) -> frozenset[str]:
    """Return the folded words of a question, and of the English terms it is searched with."""
    english = re.findall(r"[A-Za-z][A-Za-z0-9-]*", question)[:_MAX_QUESTION_WORDS]
    return frozenset(key_of([*english, *(word for term in search_terms(question) for word in WORD.findall(term))]))


def _short_name(title: str) -> str:
    whole = readable(title)
    name = whole.partition(":")[0].strip() or whole
    return name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[:_MAX_NAME_CHARACTERS].rsplit(' ', 1)[0]}…"
