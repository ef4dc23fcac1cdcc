"""The query language of arXiv's API, as far as its manual describes it, over records held in memory.

Words stand in one of the fields ti, au, abs, co, jr, cat, id or all (the default); quoted words stand side by side;
submittedDate and lastUpdatedDate take a range "[YYYYMMDDHHMM TO YYYYMMDDHHMM]". AND and ANDNOT bind tighter than OR,
and words with nothing between them are OR. Case does not matter; words are compared whole.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from standins.arxiv_atom import Record

Test = Callable[[Record], bool]

_TOKEN = re.compile(
    r'\s*(?:(?P<bracket>[()])|"(?P<phrase>[^"]*)"|\[(?P<range>[^\]]*)\]|(?P<field>[A-Za-z]+):(?=\S)'
    r'|(?P<word>[^\s()"\[\]]+))'
)
_WORD = re.compile(r"[^\W_]+")
_DATES: dict[str, Callable[[Record], datetime]] = {
    "submittedDate": lambda record: record.published,
    "lastUpdatedDate": lambda record: record.updated,
}
_TEXTS: dict[str, Callable[[Record], str]] = {
    "ti": lambda record: record.title,
    "abs": lambda record: record.abstract,
    "au": lambda record: " ".join(author.name for author in record.authors),
    "co": lambda record: record.comment,
    "jr": lambda record: record.journal_ref,
    "cat": lambda record: " ".join(record.categories),
    "id": lambda record: record.versioned_id,
}


class QueryError(ValueError):
    """The query is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A query that was read."""

    matches: Test
    words: frozenset[str]
    """The words it looks for, in lower case: what relevance is counted by."""


def parse(text: str) -> Query:
    """Return the query a text stands for.

    Raises:
        QueryError: it cannot be read.
    """
    reader = _Reader(list(_tokens(text)))
    test = reader.alternatives("all")
    if reader.rest:
        raise QueryError(f"unexpected {reader.rest[0][1]}")
    return Query(matches=test, words=frozenset(reader.words))


def words_of(record: Record) -> frozenset[str]:
    """Return all words of a record, in lower case."""
    return frozenset(word for text in _TEXTS.values() for word in _words(text(record)))


class _Reader:
    """Reads tokens from left to right; every method returns the test of what it has read."""

    def __init__(self, tokens: Sequence[tuple[str, str]]) -> None:
        self.rest = list(tokens)
        self.words: set[str] = set()

    def alternatives(self, field: str) -> Test:
        tests = [self._conjunction(field)]
        while self.rest and self.rest[0] != ("bracket", ")"):
            if self.rest[0] == ("word", "OR"):
                self.rest.pop(0)
            tests.append(self._conjunction(field))
        return lambda record: any(test(record) for test in tests)

    def _conjunction(self, field: str) -> Test:
        tests = [self._clause(field)]
        while self.rest and self.rest[0] in {("word", "AND"), ("word", "ANDNOT")}:
            is_negated = self.rest.pop(0)[1] == "ANDNOT"
            test = self._clause(field)
            tests.append(_negated(test) if is_negated else test)
        return lambda record: all(test(record) for test in tests)

    def _clause(self, field: str) -> Test:
        if not self.rest:
            raise QueryError("the query ends where a word was expected")
        kind, text = self.rest.pop(0)
        if kind == "field":
            if text not in _TEXTS and text not in _DATES and text != "all":
                raise QueryError(f"unknown field {text}")
            return self._clause(text)
        if kind == "bracket":
            return self._bracket(text, field)
        if kind == "range":
            return _range(field, text)
        words = _words(text)
        self.words.update(words)
        return _category(text) if field == "cat" else _side_by_side(field, words)

    def _bracket(self, text: str, field: str) -> Test:
        if text != "(":
            raise QueryError("unexpected )")
        test = self.alternatives(field)
        if not self.rest:
            raise QueryError("a ( is never closed")
        self.rest.pop(0)
        return test


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise QueryError(f"unexpected {text[at:][:20]}")
        kind = str(found.lastgroup)
        yield kind, found.group(kind)
        at = found.end()


def _negated(test: Test) -> Test:
    return lambda record: not test(record)


def _category(text: str) -> Test:
    wanted = text.lower()
    if wanted.endswith("*"):
        return lambda record: any(each.lower().startswith(wanted[:-1]) for each in record.categories)
    return lambda record: any(each.lower() == wanted for each in record.categories)


def _range(field: str, text: str) -> Test:
    first, _, last = text.partition(" TO ")
    if field not in _DATES or not (first.strip().isdigit() and last.strip().isdigit()):
        raise QueryError(f"no range of dates: {field}:[{text}]")
    date_of = _DATES[field]
    low, high = first.strip().ljust(12, "0"), last.strip().ljust(12, "0")
    return lambda record: low <= date_of(record).strftime("%Y%m%d%H%M") <= high


def _side_by_side(field: str, words: Sequence[str]) -> Test:
    texts = list(_TEXTS.values()) if field == "all" else [_TEXTS[field]]

    def test(record: Record) -> bool:
        return any(_stand_in(words, _words(text(record))) for text in texts)

    return test


def _stand_in(words: Sequence[str], text: Sequence[str]) -> bool:
    if len(words) == 1:
        return words[0] in text
    return any(text[at : at + len(words)] == words for at in range(len(text) - len(words) + 1))


@lru_cache(maxsize=1 << 16)  # the records' texts are the same at every query
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))
