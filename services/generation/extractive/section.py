"""One section: what its papers share and how they differ, then each paper in the order of the route.

A connecting phrase is put where it is true: "also on X" where both papers mention X, "along similar lines" and "by
contrast" where two neighbours share clearly more or fewer words than the section's papers do on average.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from services.generation.extractive.likeness import likeness, vectors_of
from services.generation.extractive.markup import safe
from services.generation.extractive.naming import Namer, headed
from services.generation.extractive.narration import quoted, told
from services.generation.extractive.phrases import Phrases, chosen, phrases_of
from services.generation.extractive.terms import Key, Term, Text, cased, shown_words, terms_of
from services.generation.tasks import KeyedPaper, SectionTask

_MOST = 0.6  # of a section's papers: from here on it is said of most of them
_SOME = 0.35
_MAX_SHARED = 2
_PAPERS_A_PARAGRAPH = 3
_MAX_PARAGRAPHS = 3
_FEWEST_A_PARAGRAPH = 2
_MAX_CONTRASTS = 2
_CLEARLY = 0.5  # standard deviations from the mean likeness of all pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftedSection:
    """A section before it is sent: Markdown sentences, paragraph by paragraph."""

    title: str
    paragraphs: tuple[tuple[str, ...], ...]


def drafted(task: SectionTask) -> DraftedSection:
    """Return the section; each paper of the task is cited exactly once, in order."""
    phrases = phrases_of(task.language)
    number = sum(len(chapter) for chapter in task.outline[: task.chapter_number - 1]) + task.section_number - 1
    texts = {each.place: Text.of(each.paper.title, each.paper.abstract) for each in task.papers}
    namer = Namer(task.question, task.outline, task.route_titles, texts)
    writer = _Writer(task.papers, list(texts.values()), phrases, namer, turn=task.sample_seed + number)
    return DraftedSection(
        title=headed(phrases.section_title, phrases, namer.section_terms(number)),
        paragraphs=(writer.opening(), *writer.body()),
    )


class _Writer:
    """Writes one section; remembers which terms it has used up."""

    def __init__(
        self, papers: Sequence[KeyedPaper], texts: Sequence[Text], phrases: Phrases, namer: Namer, *, turn: int
    ) -> None:
        self._papers = papers
        self._phrases = phrases
        self._turn = turn
        self._texts = texts
        self._terms: dict[Key, Term] = {}
        for each in papers:
            for key, term in terms_of(each.paper.title).items():
                if not term.is_coined and namer.is_news(key):
                    self._terms.setdefault(key, term)
        self._spread = self._counts(texts)
        vectors = vectors_of([text.plain for text in texts])
        self._likeness = [likeness(one, other) for one, other in pairwise(vectors)]
        pairs = [likeness(one, other) for one, other in combinations(vectors, 2)]
        self._mean = statistics.fmean(pairs) if pairs else 0.0
        self._deviation = statistics.pstdev(pairs) if pairs else 0.0
        self._used: set[str] = set()
        self._turns: Counter[tuple[str, ...]] = Counter()
        self._is_tied = False

    def opening(self) -> tuple[str, ...]:
        """Return what the papers share, and how far they reach."""
        phrases, count = self._phrases, len(self._papers)
        span = phrases.span_of([each.paper.published_at for each in self._papers])
        if count == 1:
            return (phrases.say(self._choice(phrases.opening_one), span=span),)
        shared, fewest = self._shared()
        values = {"papers": phrases.paper_count(count), "span": span}
        if not shared:
            first = phrases.say(self._choice(phrases.opening_none), **values)
        elif fewest == count:
            text = phrases.joined([self._shown(key) for key in shared])
            first = phrases.say(self._choice(phrases.opening_all), shared=text, **values)
        else:
            counts = [phrases.term_count.format(term=self._shown(key), count=str(self._spread[key])) for key in shared]
            choices = phrases.opening_most if fewest >= _MOST * count else phrases.opening_some
            first = phrases.say(self._choice(choices), shared=phrases.joined(counts), **values)
        ends = self._ends()
        if ends is None:
            return (first,)
        return first, phrases.say(self._choice(phrases.range_of), first=self._shown(ends[0]), last=self._shown(ends[1]))

    def body(self) -> list[tuple[str, ...]]:
        """Return the papers, a few a paragraph, parted where neighbours are least alike."""
        paragraphs = []
        for number, (start, end) in enumerate(self._parts()):
            lead = self._lead(start, end) if number else ""
            sentences = [lead] if lead else []
            for place in range(start, end):
                is_first = place == start
                connecting = "" if is_first and (lead or not place) else self._connecting(place, opens=is_first)
                sentences.append(self._sentence(place, connecting))
            paragraphs.append(tuple(sentences))
        return paragraphs

    def _sentence(self, place: int, connecting: str) -> str:
        phrases, keyed = self._phrases, self._papers[place]
        if not phrases.narrates:
            template = self._next(phrases.quoted)
            quote = quoted(keyed.paper.title, keyed.summary)
            return phrases.say(f"{connecting} {template}".lstrip(), key=f"[{keyed.key}]", quote=quote)
        sentence = told(keyed.paper.title, keyed.summary, keyed.key, phrases)
        if sentence.context:
            return f"{sentence.context} {sentence.text}"
        text = f"{connecting}{sentence.lowered}" if connecting and sentence.lowered else sentence.text
        return text[:1].upper() + text[1:]

    def _connecting(self, place: int, *, opens: bool) -> str:
        """Return a phrase that ties a paper to the one before, or nothing; never twice in a row.

        Args:
            place: of the paper.
            opens: whether it opens a paragraph, which is for what differs.
        """
        self._is_tied = not self._is_tied
        if not self._is_tied:
            return ""
        phrases, alike = self._phrases, self._likeness[place - 1]
        common = self._common(place)
        if common and alike >= self._mean and not opens:
            self._used.update(common)
            return self._next(phrases.on_same_term).format(term=self._shown(common))
        if alike > self._mean + _CLEARLY * self._deviation and not opens:
            return self._next(phrases.in_same_vein)
        if alike < self._mean - _CLEARLY * self._deviation and self._turns[phrases.by_contrast] < _MAX_CONTRASTS:
            return self._next(phrases.by_contrast)
        self._is_tied = False
        return ""

    def _common(self, place: int) -> Key:
        """Return the most telling term that two neighbours both mention; empty if there is none."""
        both = self._texts[place - 1 : place + 1]
        fresh = [key for key in self._terms if not set(key) & self._used and all(text.mentions(key) for text in both)]
        telling = [key for key in fresh if self._spread[key] <= max(2, len(self._papers) // 2)]
        return max(telling, key=lambda key: (-self._spread[key], len(key), key), default=())

    def _lead(self, start: int, end: int) -> str:
        """Return what a paragraph's papers have in common, if they do more than the others."""
        size = end - start
        inside = self._counts(self._texts[start:end])
        telling = [
            key
            for key, count in inside.items()
            if count > size / 2
            and count / size > (self._spread[key] - count) / max(1, len(self._papers) - size)
            and not set(key) & self._used
        ]
        if not telling or size == 1:
            return ""
        key = max(telling, key=lambda key: (inside[key], -self._spread[key], len(key), key))
        self._used.update(key)
        phrases = self._phrases
        choices = phrases.next_all if inside[key] == size else phrases.next_some
        return phrases.say(
            self._next(choices),
            papers=phrases.paper_count(size),
            count=phrases.number(inside[key]),
            term=self._shown(key),
        )

    def _shared(self) -> tuple[list[Key], int]:
        """Return the terms that most papers mention, none with a word of another, and how many mention each at least.

        Terms of most papers are not mixed with terms of some; without either the list is empty.
        """
        count = len(self._papers)
        ranked = sorted(self._terms, key=lambda key: (-self._spread[key], -len(key), key))
        most = max((self._spread[key] for key in ranked), default=0)
        fewest = max(2, math.ceil(_MOST * count) if most >= _MOST * count else math.ceil(_SOME * count))
        shared: list[Key] = []
        for key in ranked:
            if self._spread[key] >= fewest and len(shared) < _MAX_SHARED and not set(key) & self._used:
                shared.append(key)
                self._used.update(key)
        return shared, min((self._spread[key] for key in shared), default=0)

    def _ends(self) -> tuple[Key, Key] | None:
        """Return a term of the first and one of the last paper that has one to itself; None without two of them."""
        own = [self._own(place) for place in range(len(self._papers))]
        known = [key for key in own if key]
        if len(known) <= 1 or set(known[0]) & set(known[-1]):
            return None
        self._used.update(known[0], known[-1])
        return known[0], known[-1]

    def _own(self, place: int) -> Key:
        title_terms = terms_of(self._papers[place].paper.title)
        own = [
            key
            for key, term in title_terms.items()
            if key in self._terms and self._spread[key] == 1 and not set(key) & self._used and len(term.words) > 1
        ]
        return max(own, key=lambda key: (title_terms[key].is_longest, len(key), key), default=())

    def _parts(self) -> list[tuple[int, int]]:
        """Return where each paragraph starts and ends."""
        count = len(self._papers)
        wanted = min(_MAX_PARAGRAPHS, math.ceil(count / _PAPERS_A_PARAGRAPH))
        cuts: list[int] = []
        for cut in sorted(range(1, count), key=lambda place: (self._likeness[place - 1], place)):
            edges = sorted([0, *cuts, cut, count])
            if len(cuts) < wanted - 1 and all(end - start >= _FEWEST_A_PARAGRAPH for start, end in pairwise(edges)):
                cuts.append(cut)
        return list(pairwise(sorted([0, *cuts, count])))

    def _counts(self, texts: Sequence[Text]) -> Counter[Key]:
        """Return how many texts mention each term of the section's titles."""
        return Counter(key for key in self._terms for text in texts if text.mentions(key))

    def _shown(self, key: Key) -> str:
        return safe(cased(shown_words(self._terms[key].words), self._texts))

    def _choice(self, choices: tuple[str, ...]) -> str:
        return chosen(choices, self._turn)

    def _next(self, choices: tuple[str, ...]) -> str:
        """Return the phrase after the last one taken of these, so that a section repeats none before it must."""
        self._turns[choices] += 1
        return chosen(choices, self._turn + self._turns[choices])
