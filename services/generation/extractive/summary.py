"""A paper's summary: the sentences of its abstract that state the problem and the method.

Each sentence gets points for what it says (cues), where it stands and how much of the paper's own words it holds.
What is taken is a problem and a method, in the order of the abstract, and the reader is never left with a pronoun
whose noun was not taken.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from services.generation.extractive import cues
from services.generation.extractive.latex import readable
from services.generation.extractive.sentences import sentences_of
from services.generation.extractive.words import content_words

WORDS_PER_SECOND = 3.0
"""Ours. Brysbaert (2019, Journal of Memory and Language 109) finds 238 words a minute, 4.0 a second, for English
non-fiction read silently by natives; an abstract is denser and its reader often not a native."""
SECONDS_PER_SENTENCE = 15

_FEWEST_WORDS = 4  # less is a heading, not a sentence
_PROBLEM_WEIGHT = 0.5  # taken off where one sentence is to say what was done, not why
_LATE_WEIGHT = 1.5  # of the last sentence of a summary, where the problem comes before the method
_LEANING_WEIGHT = 0.7  # taken off where a sentence would have to be told with the one before it
_METHOD_PLACE = 0.35  # where in abstracts the method stands, 0 to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A sentence that could stand in a summary."""

    place: int
    text: str
    points_back: bool
    """Whether it opens with a word whose noun stands in an earlier sentence."""
    is_offer: bool
    """Whether it says where code or data are to be had."""
    problem: float
    method: float

    @property
    def word_count(self) -> int:
        """Number of words, as a reader counts them."""
        return len(self.text.split())


def summary_of(title: str, abstract: str, *, seconds: int = 30) -> str:
    """Return the summary: whole sentences of the abstract in one line, LaTeX read out; never empty for a title.

    Args:
        title: as arXiv has it; stands in where there is no abstract.
        abstract: as arXiv has it.
        seconds: reading time; decides how many sentences and at most how many words are taken.
    """
    candidates = candidates_of(title, abstract)
    if not candidates:
        return readable(title)
    taken = _taken(candidates, most=max(1, round(seconds / SECONDS_PER_SENTENCE)), words=seconds * WORDS_PER_SECOND)
    return " ".join(_standing(candidates, place, taken) for place in sorted(taken))


def candidates_of(title: str, text: str) -> tuple[Candidate, ...]:
    """Return the sentences of a text with their points; the order is the text's."""
    whole = readable(text)
    sentences = [cues.LABEL.sub("", each, count=1) for each in sentences_of(whole)]
    sentences = [each for each in sentences if len(each.split()) >= _FEWEST_WORDS] or [whole] * bool(whole)
    words = [content_words(sentence) for sentence in sentences]
    frequency = Counter(word for each in words for word in set(each))
    title_words = set(content_words(readable(title)))
    candidates = []
    for place, (sentence, own) in enumerate(zip(sentences, words, strict=True)):
        central = _centrality(own, frequency, title_words, len(sentences))
        relative = place / max(1, len(sentences) - 1)
        bare = cues.CONNECTIVE.sub("", sentence)
        awkward = _awkwardness(sentence)
        candidates.append(
            Candidate(
                place=place,
                text=sentence,
                points_back=bool(cues.POINTS_BACK.match(bare) or cues.POINTS_BACK_SOON.match(bare)),
                is_offer=cues.OFFER.search(sentence) is not None,
                problem=_problem_points(sentence, relative) + 0.5 * central - awkward,
                method=_method_points(sentence, relative, title) + central - awkward,
            )
        )
    return tuple(candidates)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A sentence and the one before it, which is empty for the first."""

    text: str
    before: str


def best_sentence(title: str, text: str) -> Sentence | None:
    """Return the sentence that best says what was done; None where the text is empty."""
    candidates = candidates_of(title, text)
    if not candidates:
        return None
    last = max(1, len(candidates) - 1)

    def points(each: Candidate) -> float:
        leans = each.points_back and not cues.PURPOSE.match(each.text)
        late = _LATE_WEIGHT * each.place / last
        return each.method - _PROBLEM_WEIGHT * each.problem + late - (_LEANING_WEIGHT if leans else 0.0)

    best = max(candidates, key=points)
    return Sentence(text=best.text, before=candidates[best.place - 1].text if best.place else "")


def without_connective(sentence: str) -> str:
    """Return the sentence without "However," and the like, which lean on a sentence before."""
    bare = cues.ASIDE.sub(" ", cues.CONNECTIVE.sub("", sentence), count=1)
    return capital(bare) if bare != sentence else sentence


def capital(text: str) -> str:
    """Return the text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def _problem_points(sentence: str, relative: float) -> float:
    found = len({cue.lower() for cue in cues.PROBLEM.findall(sentence)})
    points = min(found, 3) * 0.9 + (1.0 - relative) * 1.2
    if cues.PROPOSES.search(sentence) or cues.ACTS.search(sentence):
        points -= 1.5
    return points - (0.8 if cues.RESULT.search(sentence) else 0.0)


def _method_points(sentence: str, relative: float, title: str) -> float:
    points = 3.0 if cues.PROPOSES.search(sentence) else 1.6 if cues.ACTS.search(sentence) else 0.0
    if cues.NAMED_SUBJECT.match(sentence):
        points += 1.4
    name, colon, _ = title.partition(":")
    if colon and len(name) > 2 and name.lower() in sentence.lower():  # noqa: PLR2004 # shorter names are in any word
        points += 1.6
    results = len({cue.lower() for cue in cues.RESULT.findall(sentence)})
    points -= min(results, 4) * 0.6 + (1.0 if cues.FIGURE.search(sentence) else 0.0)
    points -= 0.8 if sentence.startswith("Our ") else 0.0  # ours of whom: the sentence that names it is better
    return points - abs(relative - _METHOD_PLACE) - (1.2 if cues.CONNECTIVE.match(sentence) else 0.0)


def _awkwardness(sentence: str) -> float:
    """Return points to take off a sentence that would read badly alone."""
    words = len(sentence.split())
    points = 4.0 if cues.OFFER.search(sentence) else 0.0
    points += 1.0 if words < 8 else max(0, words - 45) * 0.04  # noqa: PLR2004 # too short to say much, too long to read
    return points + (1.0 if sentence.endswith(("?", ":")) else 0.0)


def _centrality(own: Sequence[str], frequency: Counter[str], title_words: set[str], count: int) -> float:
    """Return 0 to about 2: how much a sentence shares with the other sentences and with the title."""
    distinct = set(own)
    if not distinct:
        return 0.0
    with_others = sum((frequency[word] - 1) / count for word in distinct) / len(distinct)
    return with_others + len(distinct & title_words) / max(1, len(title_words))


def _taken(candidates: Sequence[Candidate], *, most: int, words: float) -> set[int]:
    """Return the places of the sentences to take: the method, what it leans on or the problem, the best of the rest."""
    method = _best_method(candidates, alone=most == 1)
    taken = {method.place}
    left = words - method.word_count
    for candidate in (_partner(candidates, method), *sorted(candidates, key=lambda each: -_points(each))):
        if len(taken) >= most:
            break
        is_clear = candidate.place - 1 in taken or not candidate.points_back
        if candidate.place not in taken and is_clear and candidate.word_count <= left and not candidate.is_offer:
            taken.add(candidate.place)
            left -= candidate.word_count
    return taken


def _best_method(candidates: Sequence[Candidate], *, alone: bool) -> Candidate:
    def points(candidate: Candidate) -> float:
        if not candidate.points_back:
            return candidate.method
        if cues.PURPOSE.match(candidate.text):
            return candidate.method - 0.3
        is_held = candidate.place > 0 and not candidates[candidate.place - 1].points_back and not alone
        return candidate.method - (0.5 if is_held else 2.5)

    return max(candidates, key=lambda each: (points(each), -each.place))


def _partner(candidates: Sequence[Candidate], method: Candidate) -> Candidate:
    """Return the sentence that goes best with the method: the one it leans on, the problem, or how it goes on."""
    before = candidates[method.place - 1]
    if method.points_back and method.place > 0 and not (before.points_back and cues.PURPOSE.match(method.text)):
        return before
    earlier = [each for each in candidates[: method.place] if not each.points_back]
    if earlier:
        return max(earlier, key=lambda each: each.problem)
    later = candidates[method.place + 1 :] or candidates
    return max(later, key=lambda each: _points(each) + (1.5 if each.place == method.place + 1 else 0.0))


def _points(candidate: Candidate) -> float:
    return max(candidate.problem, candidate.method)


def _standing(candidates: Sequence[Candidate], place: int, taken: set[int]) -> str:
    """Return a taken sentence as it can stand: "However," after the sentence it leans on, "To this end," after any."""
    text = candidates[place].text
    if place - 1 in taken:
        return text
    bare = without_connective(text)
    return bare if any(other < place for other in taken) else capital(cues.PURPOSE.sub("", bare))
