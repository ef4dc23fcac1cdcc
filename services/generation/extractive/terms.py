"""Terms: noun phrases of one to four words, taken from titles, that name what a group of papers is about.

A term's weight follows class-based TF-IDF: how often the group's titles and abstracts hold it, times how rare it is on
the route. Source: M. Grootendorst, "BERTopic: Neural topic modeling with a class-based TF-IDF procedure" (2022),
arXiv:2203.05794. A term belongs to one group only, the one whose titles hold it most, so no two groups are named alike.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.generation.extractive.latex import readable
from services.generation.extractive.words import (
    ADJECTIVES,
    COUNTABLE,
    FUNCTION_WORDS,
    GENERIC_WORDS,
    HEADS,
    NOUNS,
    PROPER_WORDS,
    WORD,
    folded,
    words_in,
)

Key = tuple[str, ...]
"""A term as it is compared: its words folded, compounds taken apart."""

MAX_WORDS = 4
MAX_KEY_PARTS = 7
ABSTRACT_WEIGHT = 0.4  # of a mention in an abstract, where one in a title counts 1
_LENGTH_BONUS = {1: 1.0, 2: 1.5, 3: 1.4, 4: 1.2}
_COMMON_SHARE = 1 / 3  # of a route's titles: a term this common tells nothing apart
_SMALL_ROUTE = 6  # papers; on fewer, what all share is what there is to say
_COVERED_WEIGHT = 0.3  # of a paper an earlier term already speaks for
_FRAGMENT_SHARE = 0.7  # of a term's occurrences within a longer one: then only the longer one is a term
_ALONE_WEIGHT = 0.5  # of a term that one paper of a group holds

_BREAK = re.compile(r"[:;,.!?]+(?=\s|$)|\s[-–—]+\s|[()“”\"\[\]|–—]")
_BEFORE_INFINITIVES = words_in("learning how when where what need ready able easy hard trying way ways")
_NUMBER = re.compile(r"p?\d[\d.]*")  # "P3" names a paper, and nothing else
_ONLY_LAST = words_in("generation learning modeling modelling splatting understanding")
_STEM = 7  # letters
_SAY_LITTLE = words_in("2d 3d model method approach based")
_ADJECTIVE = re.compile(r"(?:able|ible|ive|ous|ful|less|ed|ly|ary|ish|ant|ent|al|ic|ar|ory|en|est)$")
_NOUN_ENDING = re.compile(r"(?:tion|sion|ment|ness|ity|ing|ance|ence|ism|or|ics|off|graphy|logy|sis|ship|ure)s?$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A term as one title writes it."""

    key: Key
    words: tuple[str, ...]
    is_coined: bool
    """Whether it stands before the title's colon, where papers name what they made."""
    is_longest: bool
    """Whether its noun phrase has no longer term: it is the whole phrase, or its last four words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """The terms of a route's titles and the groups they belong to."""

    terms: tuple[Mapping[Key, Term], ...]
    """Of each title."""
    runs: tuple[frozenset[Key], ...]
    """All that each title mentions."""
    rarity: Mapping[Key, float]
    common: frozenset[Key]
    """Terms so many titles hold that they tell nothing apart."""
    owner: Mapping[Key, int]
    """Group each other term belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The title and abstract of a paper, and which terms they mention."""

    plain: str
    """LaTeX read out."""
    _words: frozenset[str]
    _line: str

    @classmethod
    def of(cls, title: str, abstract: str) -> "Text":
        """Return the text of a paper."""
        plain = f"{readable(title)}. {readable(abstract)}"
        parts = key_of(match.group(0) for match in WORD.finditer(plain))
        return cls(plain=plain, _words=frozenset(parts), _line=f" {' '.join(parts)} ")

    def mentions(self, key: Key) -> bool:
        """Return whether the words of a term stand in the text one after the other, in whatever spelling."""
        return key[0] in self._words and (len(key) == 1 or f" {' '.join(key)} " in self._line)


Texts = Mapping[int, Text]
"""Of the papers at hand, by place on the route."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A term that names a group, in readable casing."""

    text: str
    key: Key
    places: frozenset[int]
    """Papers of the group that mention it."""


def terms_of(title: str) -> dict[Key, Term]:
    """Return the terms of a title, LaTeX read out: ends of noun phrases, so that each has its head."""
    name, colon, rest = readable(title).partition(": ")
    found: dict[Key, Term] = {}
    for text, is_coined in ((rest, False), (name, bool(colon))):
        for segment in _BREAK.split(text):
            for run in _runs([match.group(0) for match in WORD.finditer(segment)]):
                for size in range(1, min(MAX_WORDS, len(run)) + 1):
                    words = tuple(run[-size:])
                    term = Term(
                        key=key_of(words), words=words, is_coined=is_coined, is_longest=size == min(MAX_WORDS, len(run))
                    )
                    if _can_name(term.words) and len(term.key) <= MAX_KEY_PARTS:
                        found.setdefault(term.key, term)
    return found


def key_of(words: Iterable[str]) -> Key:
    """Return the key of a term."""
    return tuple(part for word in words for part in _parts(word))


@lru_cache(maxsize=20_000)
def _parts(word: str) -> Key:
    return tuple(folded(part) for part in re.split(r"[-/]", word) if part)


def _runs_in(text: str) -> frozenset[Key]:
    """Return all runs of up to seven words of a title; compounds count as their parts."""
    parts = key_of(match.group(0) for match in WORD.finditer(text))
    ends = range(1, MAX_KEY_PARTS + 1)
    return frozenset(parts[start : start + size] for size in ends for start in range(len(parts) - size + 1))


@lru_cache(maxsize=8)  # two a survey: its sections and its chapters
def grouped(titles: tuple[str, ...], groups: tuple[tuple[int, ...], ...]) -> Grouping:
    """Return the terms of all titles and the group each belongs to.

    Args:
        titles: of all papers on the route, in order.
        groups: places in `titles`, each in one group at most.
    """
    terms = tuple(terms_of(title) for title in titles)
    vocabulary = {key for each in terms for key in each}
    runs = tuple(_runs_in(readable(title)) & vocabulary for title in titles)
    frequency = Counter(key for each in runs for key in each)
    average = sum(frequency.values()) / max(1, len(groups))
    is_large = len(titles) > _SMALL_ROUTE and len(groups) > 1
    common = {key for key, count in frequency.items() if is_large and count >= _COMMON_SHARE * len(titles)}
    shares: dict[Key, list[float]] = defaultdict(lambda: [0.0] * len(groups))
    for number, group in enumerate(groups):
        for place in group:
            for key in runs[place]:
                shares[key][number] += 1 / len(group)
    fragments = _fragments(frequency)
    owner = {
        key: max(range(len(groups)), key=lambda number: (share[number], -number))
        for key, share in shares.items()
        if key not in fragments and key not in common
    }
    rarity = {key: math.log(1 + average / count) for key, count in frequency.items()}
    return Grouping(terms=terms, runs=runs, rarity=rarity, common=frozenset(common), owner=owner)


def naming_terms(
    grouping: Grouping,
    group: Sequence[int],
    number: int,
    texts: Texts,
    *,
    asked: Collection[str] = (),
    most: int,
) -> list[Named]:
    """Return the terms that name a group, best first; none shares a word with another.

    Args:
        grouping: of the route.
        group: places of the group's papers.
        number: the group's number in the grouping.
        texts: of the group's papers; those that are missing count by their titles alone.
        asked: folded words of the question; a term made of them alone says nothing new.
        most: most terms.
    """
    held: dict[Key, dict[int, float]] = {}
    for key in {key for place in group for key in grouping.terms[place]}:
        if grouping.owner.get(key) == number and is_new(key, asked) and _is_shown(grouping, group, key):
            weights = {place: _weight(grouping, texts, place, key) for place in group}
            held[key] = {place: weight for place, weight in weights.items() if weight}
    named: list[Named] = []
    covered: set[int] = set()
    own = [texts[place] for place in group if place in texts]
    while held and len(named) < most:
        worth = {key: _worth(grouping, key, weights, covered, own) for key, weights in held.items()}
        best = max(held, key=lambda key: (worth[key], key))
        covered |= set(held[best])
        text = cased(_written(grouping, group, best), own)
        named.append(Named(text=text, key=best, places=frozenset(held[best])))
        held = {key: weights for key, weights in held.items() if not overlap(key, best)}
    return named


def overlap(one: Key, other: Key) -> bool:
    """Return whether two terms share a word or its stem: "control" and "controllable video"."""
    stems = {word[:_STEM] for word in one}
    return any(word[:_STEM] in stems for word in other)


def is_new(key: Key, asked: Collection[str]) -> bool:
    """Return whether a term says more than the question did."""
    return not set(key) - _SAY_LITTLE <= set(asked)


def shown_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a term as a heading wants them: "diffusion model" in the plural."""
    *before, last = words
    return (*before, f"{last}s" if last.lower() in COUNTABLE else last)


def cased(words: Sequence[str], texts: Iterable[Text]) -> str:
    """Return a term as it stands inside a sentence: "LoRA" and "3D" as they are, "Image" as "image".

    Titles begin words with capitals; whether one is a name is told by the texts, the abstracts it stands in.
    """
    running = " ".join(text.plain for text in texts)
    return " ".join("".join(_cased_part(part, running) for part in re.split(r"(-)", word)) for word in words)


def _cased_part(part: str, running: str) -> str:
    if part[1:] != part[1:].lower() or any(character.isdigit() for character in part):
        return part  # LoRA, SDXL, 3D
    if part.lower() in PROPER_WORDS:
        return part[:1].upper() + part[1:]
    if part.lower() in running or part not in running or _NOUN_ENDING.search(part):
        return part.lower()
    is_name = re.search(rf"\b[a-z]+,? {re.escape(part)}(?= [a-z]|[,.;])", running)
    return part if is_name else part.lower()


def _runs(words: Sequence[str]) -> list[list[str]]:
    """Return the noun phrases of a segment: the stretches between function words and generic words."""
    runs: list[list[str]] = [[]]
    for position, word in enumerate(words):
        small = word.lower()
        is_verb = len(words) > 1 and (
            (position == 0 and small.endswith("ing") and small not in NOUNS)
            or (position > 0 and words[position - 1].lower() == "to" and words[0].lower() in _BEFORE_INFINITIVES)
        )
        if is_verb or small in FUNCTION_WORDS or small in GENERIC_WORDS or _NUMBER.fullmatch(small):
            runs.append([])
        else:
            runs[-1].append(word)
    return [run for run in runs if run]


def _can_name(words: tuple[str, ...]) -> bool:
    """Return whether the words make a noun phrase that names something."""
    last = words[-1].lower()
    if len(words) == 1:
        shortest = 2 if words[-1].isupper() or not last.isascii() else 3
        is_enough = last not in HEADS and len(last) >= shortest
    else:  # a plural within would be a verb: "transformer subsumes convolution"
        is_enough = words[0].lower() not in _ONLY_LAST and not any(_is_plural(word) for word in words[:-1])
    return is_enough and last not in ADJECTIVES and last.removesuffix("s") not in ADJECTIVES and _is_noun(words[-1])


def _is_noun(word: str) -> bool:
    small = word.lower()
    head = re.split(r"[-/]", small)[-1]
    if small in NOUNS or head in NOUNS:
        return True
    if "-" in word:
        return _NOUN_ENDING.search(head) is not None
    return word[1:] != word[1:].lower() or _ADJECTIVE.search(small) is None


def _is_plural(word: str) -> bool:
    small = word.lower()
    return (
        small.endswith("s")
        and not small.endswith(("ss", "us", "is", "ics"))
        and small not in NOUNS
        and word == word.capitalize()
    )


def _fragments(frequency: Mapping[Key, int]) -> set[Key]:
    """Return the terms that hardly occur but within one longer term: "augmented generation"."""
    return {
        longer[start:]
        for longer, count in frequency.items()
        if count > 1
        for start in range(1, len(longer))
        if count >= _FRAGMENT_SHARE * frequency.get(longer[start:], math.inf)
    }


def _weight(grouping: Grouping, texts: Texts, place: int, key: Key) -> float:
    if key in grouping.runs[place]:
        return 1.0
    return ABSTRACT_WEIGHT if place in texts and texts[place].mentions(key) else 0.0


def _is_shown(grouping: Grouping, group: Sequence[int], key: Key) -> bool:
    """Return whether the term is more than a name of one paper's own making or the end of one paper's phrase."""
    own = [grouping.terms[place][key] for place in group if key in grouping.terms[place]]
    if sum(key in grouping.runs[place] for place in group) > 1:
        return True
    return any(not term.is_coined and term.is_longest for term in own)


def _worth(
    grouping: Grouping,
    key: Key,
    weights: Mapping[int, float],
    covered: set[int],
    own: Sequence[Text],
) -> float:
    weight = sum(each * (_COVERED_WEIGHT if place in covered else 1.0) for place, each in weights.items())
    if len(weights) == 1:  # at least its words should be the group's
        echoes = sum(text.mentions((part,)) for part in key for text in own) / (len(key) * max(1, len(own)))
        weight *= _ALONE_WEIGHT * (0.5 + echoes)
    return weight * grouping.rarity[key] * _LENGTH_BONUS[min(len(key), MAX_WORDS)]


def _written(grouping: Grouping, group: Sequence[int], key: Key) -> tuple[str, ...]:
    """Return the words of a term as the group's titles write it most often."""
    found = Counter(grouping.terms[place][key].words for place in group if key in grouping.terms[place])
    return shown_words(max(found, key=lambda words: (found[words], words)))
