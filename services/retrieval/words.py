"""Which words a text holds, so that a search term and an abstract meet in spite of hyphens, plurals and case.

"LoRAs" and "lora", "images" and "image", "fine-tuning", "fine tuning" and "finetuning", "quantisation" and
"quantization" are the same; "exploration" is not "lora", because words are compared whole. Nothing else is folded:
"generation" and "generative" stay two words.
"""

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache


def tokens(text: str) -> frozenset[str]:
    """Return the words of a text, folded; a hyphenated word gives its parts and itself without hyphens."""
    return frozenset().union(*map(_forms, set(_WORD.findall(_plain(text)))))


def term_words(term: str) -> tuple[str, ...]:
    """Return the words of a search term, folded, each once, in order; a hyphenated word stays one, hyphens kept."""
    folded = ("-".join(map(_folded, word.split("-"))) for word in _WORD.findall(_plain(term)))
    return tuple(dict.fromkeys(folded))


def holds_all_words(words: Collection[str], found: frozenset[str]) -> bool:
    """Return whether a text with the `tokens` found holds each of the `term_words`.

    A hyphenated word is held when its parts all are, or when it stands there in one piece.
    """
    return all(word in found or ("-" in word and _is_held_in_pieces(word, found)) for word in words)


def plain_words(text: str) -> tuple[str, ...]:
    """Return the words of a text in order, in lower case, hyphens split, spelt as they stand: for a search engine."""
    return tuple(part for word in _WORD.findall(_plain(text)) for part in word.split("-"))


def _is_held_in_pieces(word: str, found: frozenset[str]) -> bool:
    return word.replace("-", "") in found or all(part in found for part in word.split("-"))


_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_PLURAL_OF_CAPITALS = re.compile(r"(?<=[A-Z0-9][A-Z])s\b")
_POSSESSIVE = re.compile(r"'s\b")

_CHARACTERS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")  # hyphens, en dash, minus; an em dash parts two words
    | {"\u2019": "'"}
    | dict.fromkeys("\u00ad\u200b\u2060\ufeff")  # invisible: they stand inside words that break over lines
)

_LATEX_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sc|sf|sl|tt|normal)?|emph|underline|uline|math(?:bf|bb|cal|frak|it|rm|sf|tt)|operatorname"
    r"|boldsymbol|bm|ensuremath|mbox|rm|bf|it|em|sc|sf|tt)(?![A-Za-z])\*?\s*"
)
_LATEX_ACCENT = re.compile(r"\\(?:[\"'`^~=.]|[cvHukrbd](?=\s*\{))\s*")
_LATEX_SIGNS = str.maketrans(dict.fromkeys("${}^_") | {"~": " ", "\\": " "})


def _plain(text: str) -> str:
    """Return the text in lower case without accents, LaTeX and possessives; hyphens are "-"."""
    if not text.isascii():
        text = _without_accents(text).translate(_CHARACTERS)
    if "\\" in text or "$" in text or "{" in text:
        text = _LATEX_ACCENT.sub("", _LATEX_WRAPPER.sub("", text.replace("}{", "} {"))).translate(_LATEX_SIGNS)
    text = _PLURAL_OF_CAPITALS.sub("", text).casefold()
    return _POSSESSIVE.sub("", text) if "'" in text else text


def _without_accents(text: str) -> str:
    # Only the marks of Latin, Greek and Cyrillic go; a Japanese voicing mark makes another letter.
    apart = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFKC", "".join(each for each in apart if not "\u0300" <= each <= "\u036f"))


@lru_cache(maxsize=1 << 17)
def _forms(word: str) -> tuple[str, ...]:
    if "-" not in word:
        return (_folded(word),)
    parts = [_folded(part) for part in word.split("-")]
    return (*parts, "".join(parts))


@lru_cache(maxsize=1 << 17)
def _folded(word: str) -> str:
    return _ISE.sub(r"\1z\2", _singular(word))


_ISE = re.compile(r"(?<=.{2})([iy])s(e|ed|er|ing|ation|able)$")

_SINGULARS = {
    "analyses": "analysis",
    "apis": "api",
    "axes": "axis",
    "biases": "bias",
    "bonuses": "bonus",
    "buses": "bus",
    "caches": "cache",
    "campuses": "campus",
    "canvases": "canvas",
    "censuses": "census",
    "children": "child",
    "cookies": "cookie",
    "corpora": "corpus",
    "corpuses": "corpus",
    "cpus": "cpu",
    "criteria": "criterion",
    "emojis": "emoji",
    "focuses": "focus",
    "gases": "gas",
    "gpus": "gpu",
    "hypotheses": "hypothesis",
    "imus": "imu",
    "indexes": "index",
    "indices": "index",
    "lenses": "lens",
    "matrices": "matrix",
    "movies": "movie",
    "niches": "niche",
    "npus": "npu",
    "phenomena": "phenomenon",
    "plateaus": "plateau",
    "rois": "roi",
    "statuses": "status",
    "tpus": "tpu",
    "vertices": "vertex",
    "viruses": "virus",
}
_NO_PLURALS = frozenset(
    "alias always atlas bias canvas chaos cosmos does lens means news series species trans whereas".split()  # noqa: SIM905  # one word a line would hide the rules below
)
_PLURALS_IN_ICS = frozenset(
    "basics characteristics clinics critics fabrics harmonics heuristics logics metrics rubrics topics".split()  # noqa: SIM905  # as above
)
_SHORTEST_PLURAL = 4  # characters; "gas", "bus" and "ids" stay


def _singular(word: str) -> str:
    """Return the singular of an English word in lower case; a word that is none comes back as it is."""
    if word in _SINGULARS:
        return _SINGULARS[word]
    is_short = len(word) < _SHORTEST_PLURAL
    if is_short or not word.endswith("s") or word.endswith(("ss", "us", "is")) or word in _NO_PLURALS:
        return word
    if word.endswith("ics"):  # "dynamics" is no plural of "dynamic"
        return word[:-1] if word in _PLURALS_IN_ICS else word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > len("ties") else word[:-1]
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    return word[:-1]
