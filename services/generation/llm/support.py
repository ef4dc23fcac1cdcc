"""Whether papers bear a text out, as far as code can tell: its numbers and its names must stand in them.

Numbers and Latin-script names of a sentence that cites papers must occur in the title, abstract or summary of one of
them. A name that occurs in nothing the model was shown, in no paper, title of the outline or word of the question, was
written from memory: that is what its sentence is flagged for then, whether it cites papers or not.

Looked at is what can be told with few false alarms: figures, but not the numbers 0 to 2 and numbers in words; names
with capitals or digits inside them, and other capitalized words where a capital means a name. A claim in other words
passes, whether true or not.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property

from services.generation.extractive.latex import readable
from services.generation.extractive.sentences import sentences_of
from services.generation.extractive.words import words_in
from services.generation.llm.citing import keys_in, without_keys
from services.generation.llm.language import is_latin
from services.generation.llm.paper_text import MAX_TEXT_CHARACTERS
from services.generation.tasks import Flag, FlagKind, KeyedPaper, SectionTask

_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_WORD = re.compile(rf"[{_LATIN}0-9]+(?:[-_./+'&][{_LATIN}0-9]+)*\+*")
_OTHER_SCRIPT = re.compile(rf"(?![{_LATIN}\u0370-\u03ff])[^\W\d_]")
_HUMP = re.compile(r"[A-Z][a-z]*|[a-z]+|\d+")
_NUMBER = re.compile(rf"(?<![{_LATIN}0-9_.,])(?<![{_LATIN}]-)\d+(?:[.,]\d+)*")
_ANY_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SCALE = re.compile(
    r"[ -]?(?:(?P<word>hundred|thousand|million|billion|trillion)\b|(?P<letter>[kKMBGT])(?![A-Za-z])"
    r"|(?P<asian>[百千万億兆])|(?P<percent>%|percent\b|パーセント))"
)
_SCALES: Mapping[str, int] = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12,
    "百": 10**2, "千": 10**3, "万": 10**4, "億": 10**8, "兆": 10**12,
}  # fmt: skip
_NUMBER_WORDS: Mapping[str, str] = {
    "half": "50", "halves": "50", "halving": "50", "quarter": "25", "three": "3", "third": "3", "thirds": "3",
    "triple": "3", "threefold": "3", "four": "4", "fourth": "4", "quadruple": "4", "fourfold": "4", "five": "5",
    "fifth": "5", "fivefold": "5", "six": "6", "sixth": "6", "seven": "7", "seventh": "7", "eight": "8", "eighth": "8",
    "nine": "9", "ninth": "9", "ten": "10", "tenth": "10", "tenfold": "10", "magnitude": "10", "eleven": "11",
    "twelve": "12", "dozen": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15", "sixteen": "16",
    "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30", "forty": "40",
    "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90", "hundred": "100",
    "thousand": "1000", "million": "1000000",
}  # fmt: skip
_COUNTED = re.compile(r" ?(?:papers?|works|studies|articles|methods|approaches|[本件編報つ月日])")
_COUNT_DIGITS = 2
_ENUMERATION = re.compile(r"\(\d{1,2}\)|(?<!\S)\d{1,2}\)")
_THOUSANDS_GAP = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_CITATION_FIRST = re.compile(r"\[P\d+(?:, P\d+)*\]")
_ROMAN = re.compile(r"[IVX]+")
_MEASURED = re.compile(r"\d+(?:\.\d+)?(?:st|nd|rd|th|[xkKMBGT]|[kMGT]?B|[kMG]?Hz|bit|ms|s|fps|D)?")
_PLAIN = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212\u2019", "------'")
_ESCAPED = re.compile(r"\\(?=[^\w\s])")
_MARKUP = re.compile(r"\\[A-Za-z]+|[$^{}\\~]")
_OTHER_SHARE = 0.2  # of letters that are neither Latin nor Greek: from here on a sentence is in another script
_SMALL = frozenset({"0", "1", "2"})
"""Said in too many ways: single, both, pair, dual, binary."""
_PASSED = frozenset({"a", "an", "and", "by", "for", "from", "in", "of", "on", "the", "to", "via", "with"})
_GENERAL = words_in(
    "ai ml dl nlp cv gpu gpus cpu tpu api rgb url pdf html web internet online qa sota arxiv latex python english i "
    "db hz khz mhz ghz kb mb gb tb kwh "
    "january february march april may june july august september october november december"
)
"""Names and units that are no method's: a paper need not hold them."""


def flags_of(text: str, task: SectionTask) -> tuple[Flag, ...]:
    """Return the sentences of a finished text that its papers do not bear out, in order.

    Args:
        text: as `citing.cleaned` returns it.
        task: what the model was shown.
    """
    papers = {each.key: _Source(_texts_of(each), _years_of(each)) for each in task.papers}
    around = _Source([task.question, *task.route_titles])
    has_capitals = task.language == "en" or not is_latin(task.language)
    flags: list[Flag] = []
    for sentence in sentences_in(text):
        keys = keys_in(sentence)
        cited = [papers[key] for key in keys if key in papers]
        claims = _claims_of(sentence, has_capitals=has_capitals)
        strange = [name for name in claims.names if not any(each.names(name) for each in cited)]
        elsewhere = {name for name in strange if any(each.names(name) for each in (around, *papers.values()))}
        missing = [number.text for number in claims.numbers if not any(each.has(number) for each in cited)]
        missing += [name for name in strange if name in elsewhere]
        found = {FlagKind.FROM_MEMORY: [name for name in strange if name not in elsewhere]}
        found |= {FlagKind.UNSUPPORTED: missing if cited else []}
        flags += [
            Flag(kind=kind, sentence=sentence, terms=tuple(terms), keys=keys) for kind, terms in found.items() if terms
        ]
    return tuple(flags)


def sentences_in(text: str) -> Iterator[str]:
    """Yield the sentences of a text as they stand in it, each with the citations that belong to it.

    A citation behind a full stop belongs to the sentence before, unless the next one goes on from it.
    """
    for paragraph in text.splitlines():
        spans: list[tuple[int, int]] = []
        end = 0
        for sentence in sentences_of(paragraph):
            start = paragraph.index(sentence, end)
            end = start + len(sentence)
            late = _CITATION_FIRST.match(sentence)
            if late and spans and _begins_anew(sentence[late.end() :]):
                start += late.end()
                spans[-1] = (spans[-1][0], start)
            spans.append((start, end))
        yield from (sentence for start, end in spans if (sentence := paragraph[start:end].strip()))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Number:
    text: str
    """As it is written, with its sign for percent or scale."""
    values: frozenset[str]
    """What it can mean: "1,5" is 1.5 or 15, "1.5 million" is 1500000."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Claims:
    numbers: tuple[_Number, ...]
    names: tuple[str, ...]


class _Source:
    """Texts, and what numbers and names stand in them."""

    def __init__(self, texts: Iterable[str], years: Iterable[str] = ()) -> None:
        self._texts = [_plain(text) for text in texts]
        self._years = tuple(years)

    def has(self, number: _Number) -> bool:
        """Return whether a number stands here in one of its forms."""
        return bool(number.values & self._values)

    def names(self, name: str) -> bool:
        """Return whether a name stands here: in other spelling, in its parts, or as what it abbreviates."""
        if self._holds(name):
            return True
        parts = re.split(r"[-_./+'& ]", name)
        initials = "".join(part[:1] for part in parts).lower()
        is_whole = len(parts) == 1 or not all(len(part) > 1 and part.isalpha() for part in parts)
        return not is_whole and (all(map(self._holds, parts)) or (" " in name and initials in self._folded))

    def _holds(self, word: str) -> bool:
        folded = _folded(word)
        return folded in self._folded or folded.removesuffix("s") in self._folded or self._spells_out(word)

    def _spells_out(self, word: str) -> bool:
        """Return whether words that follow on each other begin like the humps of a word: LoRA, low-rank adaptation."""
        humps = _HUMP.findall(word.removesuffix("s"))
        starts = [part.lower() for hump in humps for part in ([hump] if hump[1:].islower() else list(hump))]
        return len(starts) > 1 and any(self._follow(starts, place) for place in self._places.get(starts[0][0], ()))

    def _follow(self, starts: Sequence[str], place: int) -> bool:
        for start in starts:
            while (
                place < len(self._words) and self._words[place] in _PASSED and not start.startswith(self._words[place])
            ):
                place += 1
            if place >= len(self._words) or not self._words[place].startswith(start):
                return False
            place += 1
        return True

    @cached_property
    def _values(self) -> frozenset[str]:
        values = set(self._years)
        for text in self._texts:
            values.update(value for number in _numbers_in(text, _ANY_NUMBER) for value in number.values)
            apart = (part for found in _ANY_NUMBER.findall(text) for part in found.split(","))
            values.update(_canonical(part) for part in apart)
            words = re.findall(r"[a-z]+", text.lower())
            values.update(_NUMBER_WORDS[word] for word in words if word in _NUMBER_WORDS)
        return frozenset(values)

    @cached_property
    def _words(self) -> list[str]:
        return [word.lower() for text in self._texts for word in re.findall(rf"[{_LATIN}]+|\d+", text)]

    @cached_property
    def _places(self) -> Mapping[str, list[int]]:
        """Where words begin with a letter."""
        places: dict[str, list[int]] = {}
        for place, word in enumerate(self._words):
            places.setdefault(word[0], []).append(place)
        return places

    @cached_property
    def _folded(self) -> frozenset[str]:
        """Each word and each two and three that follow on each other, folded into one."""
        folded: set[str] = set()
        for text in self._texts:
            words = [_folded(part) for part in re.findall(rf"[{_LATIN}0-9]+\+*", text)]
            for size in (1, 2, 3, 4):
                folded.update("".join(words[start : start + size]) for start in range(len(words) - size + 1))
        return frozenset(folded | {word.removesuffix("s") for word in folded})


def _begins_anew(rest: str) -> bool:
    """Return whether what stands behind a citation is a sentence of its own, or nothing."""
    words = rest.lstrip()
    return not words or (words != rest and words[0].isupper())


def _texts_of(keyed: KeyedPaper) -> list[str]:
    """Return what the model could know of a paper, its LaTeX read and left out."""
    raw = [text[:MAX_TEXT_CHARACTERS] for text in (keyed.paper.title, keyed.paper.abstract)]
    return [*map(readable, raw), *(_MARKUP.sub(" ", text) for text in raw), keyed.summary]


def _years_of(keyed: KeyedPaper) -> list[str]:
    moments = (keyed.paper.published_at, keyed.paper.updated_at)
    return [str(moment.year) for moment in moments if moment]


def _plain(text: str) -> str:
    """Return a text without Markdown's backslashes, in the plain forms of digits, letters and dashes."""
    joined = _ESCAPED.sub("", _THOUSANDS_GAP.sub("", text))
    return unicodedata.normalize("NFKC", joined).translate(_PLAIN)


def _folded(word: str) -> str:
    """Return a word in small letters, without accents and whatever joins its parts."""
    apart = unicodedata.normalize("NFKD", word.lower())
    return "".join(character for character in apart if character.isalnum() or character == "+")


def _claims_of(sentence: str, *, has_capitals: bool) -> _Claims:
    """Return what a sentence says that can be looked up.

    Args:
        sentence: with its citations.
        has_capitals: whether a capital within a sentence of this language means a name.
    """
    text = _ENUMERATION.sub(" ", _plain(without_keys(sentence)))
    numbers = [
        number for number in _numbers_in(text, _NUMBER) if number.text not in _SMALL and not _is_count(number, text)
    ]
    names = [name for name in _names_in(text, has_capitals=has_capitals) if name.lower() not in _GENERAL]
    return _Claims(numbers=tuple(numbers), names=tuple(dict.fromkeys(names)))


def _names_in(text: str, *, has_capitals: bool) -> Iterator[str]:
    """Yield the names of a sentence; capitalized words that follow on each other as one."""
    letters = sum(character.isalpha() for character in text)
    is_other_script = len(_OTHER_SCRIPT.findall(text)) > _OTHER_SHARE * letters
    run, run_end = "", -1
    for found in _WORD.finditer(text):
        word = found.group().strip("'-_./").removesuffix("'s")
        begins = not is_other_script and not re.search(r"\w[^.!?:;\"“(]*\Z", text[: found.start()])
        if has_capitals and not begins and word[:1].isupper() and word[1:2].islower() and not _is_name(word):
            is_next = run and text[run_end : found.start()] == " "
            if run and not is_next:
                yield run
            run, run_end = (f"{run} {word}" if is_next else word), found.end()
            continue
        if _is_name(word):
            yield word
    if run:
        yield run


def _is_name(word: str) -> bool:
    """Return whether a word is a name by its own look: BERT, LoRA, xLSTM, GPT-4, U-Net."""
    if _ROMAN.fullmatch(word) or _MEASURED.fullmatch(word) or len(word) == 1:
        return False
    capitals = sum(character.isupper() for character in word)
    is_numbered = word[0].isalpha() and word[-1].isdigit()
    return capitals > 1 or (capitals == 1 and not word[0].isupper()) or is_numbered


def _is_count(number: _Number, text: str) -> bool:
    """Return whether a number counts papers of the survey, months or days: a small one with such a word behind it."""
    return len(number.text) <= _COUNT_DIGITS and bool(
        re.search(rf"(?<!\d){re.escape(number.text)}{_COUNTED.pattern}", text)
    )


def _numbers_in(text: str, pattern: re.Pattern[str]) -> Iterator[_Number]:
    for found in pattern.finditer(text):
        scale = _SCALE.match(text, found.end())
        written = found.group() + (scale.group() if scale else "")
        readings = _readings(found.group())
        if scale and scale["percent"]:
            readings |= {_times(each, Decimal("0.01")) for each in readings}
        elif scale:
            factor = Decimal(_SCALES[scale["word"] or scale["letter"] or scale["asian"]])
            readings = {_times(each, factor) for each in readings}
        yield _Number(text=written, values=frozenset(readings))


def _readings(number: str) -> set[str]:
    """Return what figures can mean: "1,000" is 1000, "1,5" is 1.5, "1.500" is 1.5 or 1500, "3.1.2" is itself."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", number):
        return {_canonical(number.replace(",", ""))}
    if re.fullmatch(r"\d+,\d+", number):
        return {_canonical(number.replace(",", "."))}
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?", number):
        return {_canonical(number), _canonical(number.replace(".", "").replace(",", "."))}
    return {_canonical(number)}


def _times(value: str, factor: Decimal) -> str:
    try:
        return _canonical(str(Decimal(value) * factor))
    except InvalidOperation:
        return value


def _canonical(number: str) -> str:
    """Return a number without zeros that say nothing; what is no number, a version, as it is."""
    try:
        return format(Decimal(number).normalize(), "f")
    except InvalidOperation:
        return number
