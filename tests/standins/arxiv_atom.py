"""arXiv's Atom as its API sends it today, written from records.

The order of elements, their attributes and their namespaces are those of responses recorded in April 2026; a test
writes every recorded feed again and compares it byte by byte.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self
from xml.sax.saxutils import escape

SCHEME = "http://arxiv.org/schemas/atom"


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """A name and where its bearer works; most records name no place."""

    name: str
    affiliations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What arXiv knows of one version of a paper; texts are as arXiv keeps them, whitespace included."""

    paper_id: str
    version: int = 1
    title: str
    abstract: str
    authors: tuple[Author, ...] = ()
    primary_category: str = ""
    categories: tuple[str, ...] = ()
    published: datetime
    updated: datetime
    comment: str = ""
    journal_ref: str = ""
    doi: str = ""

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """Return the record of one line of the corpus or of the sample library.

        What a line does not know gets a plausible value, because arXiv always does: version 1, the first of a month.
        """
        published = _moment(line.get("published") or line.get("date") or "2020-01")
        return cls(
            paper_id=line["id"],
            version=line.get("version") or 1,
            title=line["title"],
            abstract=line["abstract"],
            authors=tuple(Author(name=name) for name in line.get("authors") or ()),
            primary_category=line.get("primary_category") or "cs.LG",
            categories=tuple(line.get("categories") or ("cs.LG",)),
            published=published,
            updated=_moment(line["updated"]) if line.get("updated") else published,
            comment=line.get("comment") or "",
            journal_ref=line.get("journal_ref") or "",
            doi=line.get("doi") or "",
        )

    @property
    def versioned_id(self) -> str:
        """The identifier with its version."""
        return f"{self.paper_id}v{self.version}"


def feed(
    records: Sequence[Record],
    *,
    search_query: str,
    id_list: str,
    start: int,
    max_results: int,
    total: int,
    updated: datetime,
) -> bytes:
    """Return the feed of one page."""
    asked = f"search_query={search_query}&id_list={id_list}&start={start}&max_results={max_results}"
    link = f"search_query={search_query}&start={start}&max_results={max_results}&id_list={id_list}"
    return _document(
        [
            _element("id", f"https://arxiv.org/api/{_name_of(asked)}"),
            _element("title", f"arXiv Query: {asked}"),
            _element("updated", _text_of(updated)),
            f'<link href="{_attribute("https://arxiv.org/api/query?" + link)}" type="application/atom+xml"/>',
            *_numbers(per_page=max_results, total=total, start=start),
            *(line for record in records for line in _entry(record)),
        ]
    )


def error_feed(message: str, updated: datetime) -> bytes:
    """Return the feed that stands for an error; it claims to hold one result."""
    error_id = f"https://arxiv.org/api/errors#{message.replace(' ', '_')}"
    return _document(
        [
            _element("id", "https://arxiv.org/"),
            _element("title", "arXiv Search Results"),
            _element("updated", _text_of(updated)),
            *_numbers(per_page=1, total=1, start=0),
            "<entry>",
            *_indented(
                [
                    _element("id", error_id),
                    _element("title", "Error"),
                    _element("updated", _text_of(updated)),
                    f'<link href="{_attribute(error_id)}" rel="alternate" type="text/html"/>',
                    _element("summary", message),
                    *_author(Author(name="arXiv api core")),
                ]
            ),
            "</entry>",
        ]
    )


def _entry(record: Record) -> list[str]:
    page = f"arxiv.org/abs/{record.versioned_id}"
    pdf = f"https://arxiv.org/pdf/{record.versioned_id}"
    lines = [
        _element("id", f"http://{page}"),
        _element("title", record.title),
        _element("updated", _text_of(record.updated)),
        f'<link href="https://{page}" rel="alternate" type="text/html"/>',
        f'<link href="{pdf}" rel="related" type="application/pdf" title="pdf"/>',
        _element("summary", record.abstract),
        *(f'<category term="{_attribute(each)}" scheme="{SCHEME}"/>' for each in record.categories),
        _element("published", _text_of(record.published)),
        *([_element("arxiv:comment", record.comment)] if record.comment else []),
        f'<arxiv:primary_category term="{_attribute(record.primary_category)}"/>',
        *([_element("arxiv:journal_ref", record.journal_ref)] if record.journal_ref else []),
        *(line for author in record.authors for line in _author(author)),
    ]
    if record.doi:
        link = _attribute(f"https://doi.org/{record.doi}")
        lines += [_element("arxiv:doi", record.doi), f'<link rel="related" href="{link}" title="doi"/>']
    return ["<entry>", *_indented(lines), "</entry>"]


def _author(author: Author) -> list[str]:
    places = [_element("arxiv:affiliation", each) for each in author.affiliations]
    return ["<author>", *_indented([_element("name", author.name), *places]), "</author>"]


def _numbers(*, per_page: int, total: int, start: int) -> list[str]:
    return [
        _element("opensearch:itemsPerPage", str(per_page)),
        _element("opensearch:totalResults", str(total)),
        _element("opensearch:startIndex", str(start)),
    ]


def _document(lines: Iterable[str]) -> bytes:
    head = (
        "<?xml version='1.0' encoding='UTF-8'?>\n"
        '<feed xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" '
        f'xmlns:arxiv="{SCHEME}" xmlns="http://www.w3.org/2005/Atom">\n'
    )
    return (head + "\n".join(_indented(lines)) + "\n</feed>\n").encode()


def _element(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _name_of(asked: str) -> str:
    return base64.b64encode(hashlib.sha256(asked.encode()).digest()[:20]).decode().rstrip("=")


def _text_of(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: str) -> datetime:
    """Return the moment of "2025-04", "2025-04-17" or a full timestamp, UTC."""
    whole = f"{text}-01" if len(text) == len("2025-04") else text
    moment = datetime.fromisoformat(whole)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
