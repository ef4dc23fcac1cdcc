"""Search terms from a question, by rule: a glossary and a list of words that name no topic.

Retrieval keeps a paper when all words of at least one term occur in its title and abstract. A term is therefore as
short as it can be while it still means the question, and what authors also call the topic becomes a term of its own:
"RAG evaluation", "retrieval-augmented generation evaluation".

The way of a question: `_cleaned` -> `_pieces` (words and glossary terms) -> `_concepts` (known phrases with their
synonyms, no fillers) -> `_cores` (which concepts one term asks for) -> spelled in one way after the other.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import product

MAX_QUESTION_CHARACTERS = 4_000
"""What lies beyond is not read."""
MAX_TERM_CHARACTERS = 80
MAX_TERM_WORDS = 6
"""Counted as retrieval counts: "text-to-image" is three words."""

_ROOMY_WORDS = 4  # more words than this in one term only when they make up few concepts
_FEW_CONCEPTS = 3
_MAX_CONCEPTS = 40  # a question that names more of them is a text; its beginning says what it is about
_MAX_FORMS = 4
_MAX_WORD_CHARACTERS = 40

_HAN, _OTHER = "han", ""  # kinds of character; the others have their names in `_KINDS`
_HAN_CLASS = "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_HAN_LETTER = re.compile(f"[{_HAN_CLASS}]")
# Two letters in a row: a lone sigma or beta belongs to a formula, not to a language.
_ALPHABETS: Mapping[str, re.Pattern[str]] = {
    "ru": re.compile(r"[\u0400-\u052f]{2,}"),
    "ar": re.compile(r"[\u0600-\u06ff\u0750-\u077f]{2,}"),
    "hi": re.compile(r"[\u0900-\u097f]{2,}"),
    "el": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]{2,}"),
    "th": re.compile(r"[\u0e00-\u0e7f]{2,}"),
    "he": re.compile(r"[\u0590-\u05ff]{2,}"),
}
_KINDS = re.compile(rf"(?P<katakana>[\u30a1-\u30fa\u30fc])|(?P<han>[{_HAN_CLASS}])|(?P<latin>[A-Za-z0-9])")

_WORD = re.compile(r"[A-Za-z0-9]+(?:[-'\u2019][A-Za-z0-9]+)*")
_WORD_PART = re.compile(r"[a-z0-9]+")
_ENGLISH_SIDE = re.compile(r"[A-Za-z0-9]+(?:[ -][A-Za-z0-9]+)*")
_SILENT = re.compile(r"[ \u3041-\u309f\u30fb]")  # a space, hiragana, the dot within katakana: parts no phrase
_ACCENTED = re.compile(r"[\u00c0-\u024f\u1e00-\u1eff]")
_PLURAL_IES = re.compile(r"(?<=..)ies$")
_PLURAL_S = re.compile(r"(?<=..[^isu])s$")  # not "bias", "loss", "analysis", nor an acronym such as "NVS"
_OPERATORS = frozenset({"and", "or", "not", "andnot"})
_YEAR = re.compile(r"(?:19|20)\d\ds?")
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_NAME = re.compile(r"[A-Z]{2}|[A-Z][a-z]|[a-z][A-Z]")  # as authors spell what they name: LoRA, Mamba; not "3D"

# What arXiv's query language would take for syntax, addresses, and phrases that only their whole makes empty.
_NOT_A_TOPIC = re.compile(
    r"https?://\S+"
    r"|(?<![-\w])(?:au|cat|co|id|id_list|jr|rn|submittedDate|lastUpdatedDate)\s?:\s?\S+"
    r"|(?<![-\w])(?:ti|abs|all)\s?:"
    r"|\b(?:state[- ]of[- ]the[- ]arts?|cutting[- ]edge|up[- ]to[- ]date|in[- ]depth|deep dive|use[- ]cases?"
    r"|related works?|literature reviews?|best practices|pros and cons|open problems?|real[- ]world|as well as)\b",
    re.IGNORECASE,
)

# Words of English questions that name no topic, singular. Known phrases are found first, so that "deep research"
# and "learning to rank" stay whole.
_FILLER_WORDS = """
a about across after against all also am among an and andnot another any are arent around as at be because
been before being between both but by can cant could did do does doesnt doing done dont down during each
either every few for from had has have having he here how hows i id if im in into is isnt it its ive just lets
many may me might more most much must my neither no nor not now of off on one only onto or other our out over
own per s same shall she should since so some still such than that the their them then there these they theyre
this those through to too toward towards under until up upon us very via was we were what whats when where
whether which while who whom whose why will with within without wont would yet you your

achieve achieved achieving address addressed addresses addressing adopt allow anyone applied apply applying
avoid become best better bring build built choose combine combined combining compare compared comparing cover
create currently describe describing develop developed developing discuss enable enhance enhanced enhancing
ensure exist existing explain explaining explore exploring find finding get getting give given giving go going
good handle handled handling happen happening help helping improve improved improving include including
increase increasing integrate integrated integrating introduce investigate know knowing known learn let
leverage leveraging like list look looking made make making mean mitigate mitigated mitigating need outline
people perform please possible prevent preventing propose proposed provide recommend recommended reduce
reduced reducing rely require required say search see show showing solve solved solving someone suggest
summarise summarize summary support tackle tackled tackling take tell thank thanks think try understand use
used useful using want well work worked working write

advance advanced advancement answer approach approaches area article arxiv aspect author available big broad
category challenge common complete comprehensive comprehensively conference current date decade detail
detailed difference different difficulty direction emerging etc example exhaustive exhaustively field first
frontier future general guide high history hot idea important insight interest interested interesting
introduction issue journal key kind landscape last lately latest leading literature lot main major method
methodology model modern month new newest notable novel number outlook overview paper popular preprint present
problem progress promising publication published question recent recently related report research researcher
result review role significant solution sota standard strategy study survey systematic task technical
technique technology thing thorough today top topic trend trending tutorial type typical various version
versus vs way week year
"""

# Words that narrow a search without saying more; they are asked for only when nothing else is there, and never alone.
_WEAK_WORDS = """
accuracy ai algorithm analysis application architecture artificial-intelligence capability cost data
deep-learning design development effect effective effectiveness evolution evolve evolved evolving extension
framework high-quality impact improvement information large-scale limitation machine-learning mechanism
neural-network performance pipeline practical practice precision process property quality structure system
"""

# Verbs of questions and the noun that titles use: "How is RAG evaluated?" asks for "evaluation".
_NOUNS: Mapping[str, str] = {
    "accelerat": "acceleration",
    "align": "alignment",
    "classify": "classification",
    "compress": "compression",
    "detect": "detection",
    "edit": "editing",
    "evaluat": "evaluation",
    "forecast": "forecasting",
    "generat": "generation",
    "hallucinat": "hallucination",
    "optimiz": "optimization",
    "personaliz": "personalization",
    "prun": "pruning",
    "quantiz": "quantization",
    "recogniz": "recognition",
    "reconstruct": "reconstruction",
    "retriev": "retrieval",
    "segment": "segmentation",
    "track": "tracking",
    "translat": "translation",
}
_VERB = re.compile(rf"({'|'.join(_NOUNS)})(?:e|es|ed|ing|s)?")


def search_terms(question: str, *, max_terms: int = 3) -> tuple[str, ...]:
    """Return English search terms for arXiv, best first.

    Args:
        question: in any language; Japanese is read by the glossary, English words pass in their own spelling, words
            of other languages are left out. At most `MAX_QUESTION_CHARACTERS` characters are read.
        max_terms: most terms to return, at least 1.

    Returns:
        At most `max_terms` terms of 1 to `MAX_TERM_WORDS` words and at most `MAX_TERM_CHARACTERS` characters: ASCII
        letters, digits, hyphens and single spaces, never a year or an operator. No term asks for all words of an
        earlier one, whatever their case, plural or hyphens. Empty when the question names no topic we can read.
    """
    if max_terms < 1:
        raise ValueError(f"max_terms: at least 1, not {max_terms}")
    text = _cleaned(question)
    language = _language_of_cleaned(text)
    concepts = _topics(_concepts(_pieces(text, han_is_whole=language == "zh")))
    # "X for Y" names its topic first, "YのためのX" last.
    cores = _cores(concepts, is_head_last=language == "ja")
    terms: dict[str, frozenset[str]] = {}
    for term in _spellings(cores):
        words = frozenset(_key(term))
        if not any(earlier <= words for earlier in terms.values()):
            terms[term] = words
        if len(terms) == max_terms:
            break
    return tuple(terms)


def language_of(question: str) -> str:
    """Return the BCP 47 primary subtag of the question's language, told by its script; "en" where that is Latin.

    Han alone is Chinese, unless our Japanese words cover all of it ("画像生成").
    """
    return _language_of_cleaned(_cleaned(question))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lexicon:
    """The package data, made ready for look-ups."""

    japanese: Mapping[str, tuple[str, ...]]
    """Glossary term -> its English sides, best first; filler -> ()."""
    lengths: Mapping[str, tuple[int, ...]]
    """First character -> lengths of the Japanese entries that begin with it, longest first."""
    synonyms: Mapping[tuple[str, ...], tuple[str, ...]]
    """Key of every English phrase we know -> its other names, best first; may be empty."""
    fillers: frozenset[str]
    """English words that name no topic, folded."""
    weak: frozenset[tuple[str, ...]]
    """Keys of English names that say little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """A word of the question, or a glossary term found in it."""

    text: str
    """English."""
    key: tuple[str, ...]
    sides: tuple[str, ...] = ()
    """The glossary's English sides; empty for a word that stands in the question itself."""
    is_apart: bool
    """Whether something silent but for a space stands before it: a particle, a filler."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Concept:
    """One thing a term asks for."""

    forms: tuple[str, ...]
    """What it is called, best first; at least one."""
    is_apart: bool
    """Whether it begins a phrase of its own."""
    is_specific: bool
    """Whether it is a phrase or, by its spelling, a name; else it is a mere word."""

    @property
    def key(self) -> tuple[str, ...]:
        return _key(self.forms[0])


@cache
def _lexicon() -> _Lexicon:
    glossary = _table_of("glossary_ja.tsv", _data_text("glossary_ja.tsv"))
    fillers = _lines_of(_data_text("fillers_ja.txt"))
    acronyms = _table_of("acronyms_en.tsv", _data_text("acronyms_en.tsv"))
    japanese: dict[str, tuple[str, ...]] = {unicodedata.normalize("NFKC", filler): () for _, filler in fillers}
    japanese |= {term.translate(_LOWER): sides for term, sides in glossary.items()}
    lengths: dict[str, set[int]] = {}
    for term in japanese:
        lengths.setdefault(term[0], set()).add(len(term))
    return _Lexicon(
        japanese=japanese,
        lengths={first: tuple(sorted(found, reverse=True)) for first, found in lengths.items()},
        synonyms=_synonyms_of(glossary, acronyms),
        fillers=frozenset(map(_folded, _FILLER_WORDS.split())),
        weak=frozenset(map(_key, _WEAK_WORDS.split())),
    )


def _data_text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _lines_of(text: str) -> list[tuple[int, str]]:
    """Return the lines that hold data, each with its number from 1."""
    lines = ((number, line.strip(" ")) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _table_of(name: str, text: str) -> dict[str, tuple[str, ...]]:
    """Return term -> English sides of a file of lines "term<TAB>english|variant".

    Raises:
        ValueError: a line is malformed or repeats a term; the message names file and line.
    """
    table: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for number, line in _lines_of(text):
        term, _, right = line.partition("\t")
        term = unicodedata.normalize("NFKC", term)
        sides = tuple(right.split("|"))
        if not term:
            raise ValueError(f"{name}:{number}: a term before the tab, not none")
        if term.translate(_LOWER) in seen:
            raise ValueError(f"{name}:{number}: each term once, {term!r} stands above already")
        for side in sides:
            if not _ENGLISH_SIDE.fullmatch(side) or not _fits_a_term(side):
                raise ValueError(f"{name}:{number}: 1 to {MAX_TERM_WORDS} English words, not {side!r}")
        seen.add(term.translate(_LOWER))
        table[term] = sides
    return table


def _synonyms_of(
    glossary: Mapping[str, tuple[str, ...]], acronyms: Mapping[str, tuple[str, ...]]
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return what else each English phrase is called.

    The names of an acronym's line stand for each other. A glossary line works one way, from its first side to the
    variants, which are often the narrower word ("text-to-image" is not every image generation), and only for a phrase:
    what may stand for a single word depends on the Japanese ("識別" is identification and classification).
    """
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for sides in glossary.values():
        for side in sides:
            found.setdefault(_key(side), {})
        first = _key(sides[0])
        if len(first) > 1:
            found[first].update(dict.fromkeys(sides[1:]))
    for acronym, expansions in acronyms.items():
        names = (acronym, *expansions)
        for name in names:
            found.setdefault(_key(name), {}).update(dict.fromkeys(other for other in names if other != name))
    return {key: tuple(names) for key, names in found.items()}


def _cleaned(question: str) -> str:
    """Return the question in NFKC, without invisible characters, query syntax and addresses."""
    text = unicodedata.normalize("NFKC", question[:MAX_QUESTION_CHARACTERS])[:MAX_QUESTION_CHARACTERS]
    # Format characters (zero-width, bidi) go, so that they part no word; line breaks and the like become spaces.
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = "".join(char if char.isprintable() else " " for char in text)
    text = _ACCENTED.sub(lambda found: unicodedata.normalize("NFD", found[0])[0], text)
    text = re.sub(r"\b([234])-([Dd])\b", r"\1\2", text)  # "3-D" is "3D" in nearly all abstracts
    return _NOT_A_TOPIC.sub("\n", text)


def _language_of_cleaned(text: str) -> str:
    kana, hangul = len(_KANA.findall(text)), len(_HANGUL.findall(text))
    if kana or hangul:
        return "ja" if kana >= hangul else "ko"
    if _HAN_LETTER.search(text):
        return "ja" if _is_han_covered(text) else "zh"
    letters = {language: sum(map(len, found.findall(text))) for language, found in _ALPHABETS.items()}
    best = max(letters, key=lambda language: letters[language])
    return best if letters[best] else "en"


def _is_han_covered(text: str) -> bool:
    return all(is_entry or not _HAN_LETTER.search(chunk) for chunk, is_entry in _chunks(text, han_is_whole=True))


def _chunks(text: str, *, han_is_whole: bool) -> Iterator[tuple[str, bool]]:
    """Yield the text cut from left to right, each chunk with whether it is an entry of the Japanese data.

    What is no entry is an English word, a whole word of katakana, or one character.
    """
    kinds = _kinds(text, han_is_whole=han_is_whole)
    ends = _entry_ends(text, kinds)
    at = 0
    while at < len(text):
        end = ends[at]
        if end:
            yield text[at:end], True
        elif word := _WORD.match(text, at):
            end = word.end()
            yield word[0], False
        else:
            end = at + 1
            while end < len(text) and _is_inside(kinds, end):
                end += 1
            yield text[at:end], False
        at = end


def _entry_ends(text: str, kinds: Sequence[str]) -> list[int]:
    """Return for each position where the longest entry that begins there ends; 0 where none does.

    Katakana and Latin letters run on without spaces, so an entry must not end inside such a word unless another entry
    goes on from there: "グラフ" is not found in "グラフィックス", "マルチモーダル" and "モデル" are in their compound.
    """
    lexicon = _lexicon()
    lowered = text.translate(_LOWER)
    ends = [0] * (len(text) + 1)
    for at in reversed(range(len(text))):
        for length in lexicon.lengths.get(lowered[at], ()):
            end = at + length
            sides = lexicon.japanese.get(lowered[at:end])
            if sides is None or end > len(text) or (_is_inside(kinds, end) and not ends[end]):
                continue
            if sides and length == 1 and _touches_han(text, at):
                continue  # "音" means sound, but not within "爆音"
            ends[at] = end
            break
    return ends


def _kinds(text: str, *, han_is_whole: bool) -> list[str]:
    """Return for each character which kind of word it may stand inside of.

    Han counts as one only for Chinese (`han_is_whole`): Japanese compounds are freely made of words we know, while in
    Chinese the same pieces would be found by accident.
    """
    kinds = [(found.lastgroup or _OTHER) if (found := _KINDS.match(char)) else _OTHER for char in text]
    return kinds if han_is_whole else [_OTHER if kind == _HAN else kind for kind in kinds]


def _is_inside(kinds: Sequence[str], at: int) -> bool:
    """Return whether a word goes on across the start of position `at`."""
    return 0 < at < len(kinds) and kinds[at] == kinds[at - 1] != _OTHER


def _touches_han(text: str, at: int) -> bool:
    return any(_HAN_LETTER.fullmatch(char) for char in (text[at - 1 : at], text[at + 1 : at + 2]))


def _pieces(text: str, *, han_is_whole: bool) -> list[_Piece | None]:
    """Return words and glossary terms in the question's order; None stands where something unread parts them."""
    lexicon = _lexicon()
    pieces: list[_Piece | None] = []
    is_apart = True
    for chunk, is_entry in _chunks(text, han_is_whole=han_is_whole):
        if is_entry:
            sides = lexicon.japanese[chunk.translate(_LOWER)]
            if sides:
                pieces.append(_Piece(text=sides[0], key=_key(sides[0]), sides=sides, is_apart=True))
            is_apart = True  # a glossary term is a phrase of its own, and a filler parts phrases
        elif _WORD.fullmatch(chunk):
            word = _spelling(chunk)
            pieces.append(_Piece(text=word, key=_key(word), is_apart=is_apart) if word else None)
            is_apart = not word
        elif _SILENT.fullmatch(chunk):
            is_apart = is_apart or chunk != " "
        else:
            pieces.append(None)
            is_apart = True
    return pieces


def _spelling(word: str) -> str:
    """Return the word without possessive, years and operators; empty where nothing of use is left."""
    bare = re.sub(r"['\u2019]s$", "", word)
    bare = re.sub(r"['\u2019]", "", bare)
    parts = [part for part in bare.split("-") if not _YEAR.fullmatch(part)]
    if len(parts) > 1:  # a single "and" stays for now: it may be part of a phrase we know
        parts = [part for part in parts if part.lower() not in _OPERATORS]
    return "" if all(part.isdecimal() for part in parts) or len(bare) > _MAX_WORD_CHARACTERS else "-".join(parts)


def _concepts(pieces: Sequence[_Piece | None]) -> list[_Concept]:
    """Return what the question names, the longest known phrases first, each thing once."""
    concepts: dict[tuple[str, ...], _Concept] = {}
    is_apart = True
    at = 0
    while at < len(pieces) and len(concepts) < _MAX_CONCEPTS:
        size, forms = _phrase_at(pieces, at) or _single(pieces[at])
        if forms:
            first, key = pieces[at], _key(forms[0])
            # The capital of the first word is the sentence's, unless there are more.
            is_name = bool(_NAME.search(forms[0][1:] if at == 0 else forms[0]))
            concept = _Concept(
                forms=forms,
                is_apart=is_apart or first is None or first.is_apart,
                is_specific=is_name or len(key) > 1,
            )
            concepts.setdefault(key, concept)
        is_apart = not forms
        at += size
    return list(concepts.values())


def _phrase_at(pieces: Sequence[_Piece | None], at: int) -> tuple[int, tuple[str, ...]] | None:
    """Return how many pieces the longest known phrase here takes (two or more) and its names."""
    synonyms = _lexicon().synonyms
    key: tuple[str, ...] = ()
    best: tuple[int, tuple[str, ...]] | None = None
    words: list[str] = []
    for size, piece in enumerate(pieces[at : at + MAX_TERM_WORDS], start=1):
        # English words make a phrase only side by side; Japanese ones also around a particle ("画像の生成").
        if piece is None or (size > 1 and piece.is_apart and not piece.sides):
            break
        key += piece.key
        words.append(piece.text)
        if size > 1 and key in synonyms:
            best = size, _forms(" ".join(words), *synonyms[key])
    return best


def _single(piece: _Piece | None) -> tuple[int, tuple[str, ...]]:
    """Return 1 and what a piece by itself is called; no name for a filler."""
    lexicon = _lexicon()
    if piece is None:
        return 1, ()
    if piece.sides:
        return 1, _forms(*piece.sides, *lexicon.synonyms[piece.key])
    if len(piece.text) == 1 or lexicon.fillers.issuperset(piece.key):
        return 1, ()
    verb = _VERB.fullmatch(" ".join(piece.key))
    text = _NOUNS[verb[1]] if verb else piece.text
    return 1, _forms(text, *lexicon.synonyms.get(_key(text), ()))


def _forms(*names: str) -> tuple[str, ...]:
    return tuple(_distinct(names)[:_MAX_FORMS])


def _distinct(texts: Sequence[str]) -> list[str]:
    """Return the texts without those that repeat an earlier one in another case, number or hyphenation."""
    found: dict[tuple[str, ...], str] = {}
    for text in texts:
        found.setdefault(_key(text), text)
    return list(found.values())


def _topics(concepts: Sequence[_Concept]) -> list[_Concept]:
    """Return the concepts a paper must hold: no weak ones beside stronger ones, none that another says already."""
    strong = [concept for concept in concepts if concept.key not in _lexicon().weak]
    candidates = strong or list(concepts)
    if not strong and sum(len(concept.key) for concept in candidates) == 1:
        return []  # "quality" by itself is no topic, "data quality" is
    words = [set(concept.key) for concept in candidates]
    names = [[set(_key(form)) for form in concept.forms] for concept in candidates]
    return [
        concept
        for at, concept in enumerate(candidates)
        if not any(words[at] < other for other in words) and not any(words[at] in earlier for earlier in names[:at])
    ]


def _cores(concepts: Sequence[_Concept], *, is_head_last: bool) -> list[list[_Concept]]:
    """Return which concepts one term asks for: all where they fit, else the head with some of the others.

    The head is the topic the question's grammar puts forward, but rather a specific one than a mere word.
    """
    if not concepts:
        return []
    if _fit(concepts):
        return [list(concepts)]
    phrases = _phrases(concepts)
    order = sorted(range(len(phrases)), key=lambda at: -at if is_head_last else at)
    order.sort(key=lambda at: not any(concept.is_specific for concept in phrases[at]))
    first, rest = [order[0]], []
    for at in order[1:]:
        if _fit(_in_order(phrases, [*first, at])):
            first.append(at)
        else:
            rest.append(at)
    # What is left over goes with the foremost it fits with, so that no term is about a side of the question alone.
    others = ([_in_order(phrases, [at, partner]) for partner in order if partner != at] for at in rest)
    pairs = (next(filter(_fit, choices), None) for choices in others)
    return [_in_order(phrases, first), *filter(None, pairs)]


def _phrases(concepts: Sequence[_Concept]) -> list[list[_Concept]]:
    """Return the concepts in groups that stand side by side in the question, none too long for a term."""
    phrases: list[list[_Concept]] = []
    for concept in concepts:
        if phrases and not concept.is_apart and _fit([*phrases[-1], concept]):
            phrases[-1].append(concept)
        else:
            phrases.append([concept])
    return phrases


def _in_order(phrases: Sequence[Sequence[_Concept]], chosen: Sequence[int]) -> list[_Concept]:
    return [concept for at in sorted(chosen) for concept in phrases[at]]


def _fit(concepts: Sequence[_Concept]) -> bool:
    """Return whether one term may ask for all of them: many words find no paper unless they are few concepts."""
    text = _joined([concept.forms[0] for concept in concepts])
    is_narrow = len(text.split()) > _ROOMY_WORDS and len(concepts) > _FEW_CONCEPTS
    return _fits_a_term(text) and not is_narrow


def _fits_a_term(text: str) -> bool:
    return len(text) <= MAX_TERM_CHARACTERS and 1 <= len(_key(text)) <= MAX_TERM_WORDS


def _spellings(cores: Sequence[Sequence[_Concept]]) -> Iterator[str]:
    """Yield the terms of all cores by the names the question uses, then with other names, the fewest changes first."""
    for core in cores:
        yield _joined([concept.forms[0] for concept in core])
    for core in cores:
        choices = product(*(range(len(concept.forms)) for concept in core))
        for choice in sorted(choices, key=lambda choice: (sum(choice), [-number for number in choice])):
            term = _joined([concept.forms[number] for concept, number in zip(core, choice, strict=True)])
            if _fits_a_term(term):
                yield term


def _joined(names: Sequence[str]) -> str:
    """Return the names as one term that repeats no word and holds no operator."""
    return " ".join(_distinct([word for word in " ".join(names).split() if word.lower() not in _OPERATORS]))


@lru_cache(maxsize=4_096)
def _key(text: str) -> tuple[str, ...]:
    """Return the words as they are compared: lower case, hyphens parted, singular."""
    return tuple(_folded(word) for word in _WORD_PART.findall(text.lower()))


def _folded(word: str) -> str:
    return _PLURAL_S.sub("", _PLURAL_IES.sub("y", word))
