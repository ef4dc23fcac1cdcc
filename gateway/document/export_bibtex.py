"""A survey's papers as BibTeX, made from their records. A pure function of the stored Survey, like other exports."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from paperroute.v1 import paper_pb2
from paperroute.v1 import survey_pb2 as pb

from services.common.markdown import plain
from services.common.papers import moment_of

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
"""The names that every BibTeX style defines."""
ARCHIVE = "arXiv"

_SPECIAL = re.compile(r"(?<!\\)[&%#_]")
_MATH = re.compile(r"((?<!\\)\$(?:\\.|[^$\\])+\$)")
_DOLLAR = re.compile(r"(?<!\\)\$")
_BARE_BACKSLASH = re.compile(r"(?:\\\\)*\\$")
_NOT_IN_VERBATIM = re.compile(r"[{}\\\s]")
_NO_PERSON = re.compile(r",|\band\b|\b(?:collaboration|consortium|team|group)\b", re.IGNORECASE)
_WORD = re.compile(r"[a-z0-9]+")
_SMALL_WORDS = frozenset({"a", "an", "and", "are", "at", "by", "can", "do", "does", "for", "from", "how", "in", "is"})
_SMALL_WORDS |= frozenset({"of", "on", "or", "the", "to", "towards", "via", "what", "when", "why", "with"})


def bibtex_of(survey: pb.Survey) -> str:
    """Return one entry for each paper of the survey that was not dropped, in its order; "" when there is none.

    Text is UTF-8. LaTeX that a record holds stays as it is; characters that LaTeX would take for a command are escaped.
    """
    from bibtexparser.entrypoint import write_string
    from bibtexparser.library import Library
    from bibtexparser.model import Entry, Field

    library = Library()
    keys: set[str] = set()
    for each in survey.papers:
        if each.mention == pb.PAPER_MENTION_DROPPED:
            continue
        key = next(name for name in _keys(each.paper) if name not in keys)
        keys.add(key)
        fields = [Field(name, value) for name, value in _fields(each).items() if value]
        library.add(Entry("misc", key, fields), fail_on_duplicate_key=True)
    # Nothing is left to the library's own steps: values are enclosed already, and the name of a month must not be.
    return write_string(library, unparse_stack=[])


def _fields(each: pb.SurveyPaper) -> Mapping[str, str]:
    paper = each.paper
    published = moment_of(paper.published_at)
    return {
        "title": f"{{{_enclosed(_latex(paper.title))}}}",  # twice: styles may not put it in lower case
        "author": _enclosed(" and ".join(map(_author, filter(None, map(plain, paper.authors))))),
        "year": _enclosed(f"{published.year:04}"),
        "month": MONTHS[published.month - 1],
        "eprint": _enclosed(paper.paper_id),
        "archiveprefix": _enclosed(ARCHIVE),
        "primaryclass": _enclosed(_verbatim(paper.primary_category)),
        "doi": _enclosed(_verbatim(paper.doi)),
        "url": _enclosed(_verbatim(each.url)),
        "note": _enclosed(_latex(_note(paper))),
    }


def _enclosed(value: str) -> str:
    return f"{{{value}}}" if value else ""


def _note(paper: paper_pb2.Paper) -> str:
    version = f"version {paper.version}" if paper.HasField("version") else ""
    withdrawn = "withdrawn" if paper.is_withdrawn else ""
    return "; ".join(filter(None, (withdrawn, version, paper.journal_ref, paper.comment)))


def _author(name: str) -> str:
    """Return a name that BibTeX takes apart like a person's; one that is no person's stays whole."""
    text = _latex(name)
    return f"{{{text}}}" if _NO_PERSON.search(name) else text


def _latex(text: str) -> str:
    """Return a text that neither ends its field nor breaks what quotes it."""
    found = _BARE_BACKSLASH.sub("", plain(_balanced(plain(text))))
    parts = _MATH.split(found)
    return "".join(
        part if number % 2 else _DOLLAR.sub(r"\\$", _SPECIAL.sub(r"\\\g<0>", part)) for number, part in enumerate(parts)
    )


def _balanced(text: str) -> str:
    """Return the text, without any braces when they do not pair: BibTeX counts them, escaped ones too."""
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            break
    return text if depth == 0 else re.sub(r"\\?[{}]", "", text)


def _verbatim(text: str) -> str:
    return _NOT_IN_VERBATIM.sub("", plain(text))


def _keys(paper: paper_pb2.Paper) -> Iterator[str]:
    """Yield names for an entry, the best first: family name, year, first telling word of the title."""
    family = _ascii_words(paper.authors[0])[-1:] if paper.authors else []
    telling = [word for word in _ascii_words(paper.title) if word not in _SMALL_WORDS and not word.isdecimal()][:1]
    year = f"{moment_of(paper.published_at).year:04}"
    best = "".join([*family, year, *telling]) if family or telling else f"arxiv{year}"
    yield best
    for number in count(2):
        yield f"{best}-{number}"


def _ascii_words(text: str) -> Sequence[str]:
    apart = unicodedata.normalize("NFKD", re.sub(r"\\[A-Za-z]+|[^\w\s-]", "", text))
    return _WORD.findall(apart.encode("ascii", "ignore").decode().lower().replace("-", ""))
