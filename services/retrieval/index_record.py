"""A line of an arXiv metadata file as a paper: the Kaggle snapshot's records, and those of a corpus of our own.

Which of the two a line is shows in its fields, so that files and lines of both kinds may be mixed.
Source: the fields of "arXiv Dataset" on Kaggle, as its data card lists them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from services.common.papers import MAX_ABSTRACT_BYTES, PAPER_ID, Paper

MAX_TITLE_CHARACTERS = 2_000
FIRST_ARXIV_YEAR = 1991

_VERSION = re.compile(r"v([1-9]\d{0,5})")
_ID_MONTH = re.compile(r"(?:.*/)?(\d\d)(\d\d)")


class BadRecord(Exception):
    """The line is no record; says which field is wrong, what was wanted and what was found."""


def paper_of_line(line: bytes) -> Paper:
    """Return the paper of one line of JSON.

    Raises:
        BadRecord: the line is no JSON object, or one whose fields do not make a paper.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord("no line of JSON") from error
    if not isinstance(record, dict):
        raise BadRecord("no JSON object")
    if "versions" in record or isinstance(record.get("categories"), str):
        paper = _of_snapshot(record)
    elif "date" in record:
        paper = _of_corpus(record)
    else:
        raise BadRecord("neither the fields of the Kaggle snapshot (versions) nor those of a corpus (date)")
    return _checked(paper)


def is_newer(paper: Paper, other: Paper) -> bool:
    """Return whether a record read later takes the place of one of the same paper: it is not an older version.

    Of the same version the later update counts, and where that is the same or unknown, the one read later.
    """
    return _age_key(paper) >= _age_key(other)


def _age_key(paper: Paper) -> tuple[int, datetime]:
    return paper.version or 0, paper.updated_at or datetime.min.replace(tzinfo=UTC)


def _of_snapshot(record: Mapping[str, Any]) -> Paper:
    paper_id = _paper_id(record)
    versions = [_version_of(each) for each in _list(record, "versions")]
    categories = tuple(dict.fromkeys(_line(record, "categories").split()))
    return Paper(
        paper_id=paper_id,
        version=versions[-1][0] if versions else None,
        title=_line(record, "title"),
        abstract=_line(record, "abstract"),
        authors=_snapshot_authors(record),
        primary_category=categories[0] if categories else "",
        categories=categories,
        published_at=versions[0][1] if versions else _month_of(paper_id),
        is_day_known=bool(versions),
        updated_at=versions[-1][1] if versions else _day(record, "update_date"),
        comment=_line(record, "comments"),
        doi=_line(record, "doi"),
        journal_ref=_line(record, "journal-ref"),
    )


def _of_corpus(record: Mapping[str, Any]) -> Paper:
    """Return the paper of a corpus record; where only the day of its announcement is known, that day stands in."""
    paper_id = _paper_id(record)
    version = record.get("version")
    if version is not None and not (isinstance(version, int) and 0 < version < 1_000_000):  # noqa: PLR2004 - six digits
        raise BadRecord(f"version: a number from 1, not {version!r:.40}")
    primary = _line(record, "primary_category")
    categories = tuple(dict.fromkeys(filter(None, (primary, *_names(record, "categories")))))
    published = _day(record, "published") or _day(record, "announced")
    return Paper(
        paper_id=paper_id,
        version=version,
        title=_line(record, "title"),
        abstract=_line(record, "abstract"),
        authors=_names(record, "authors"),
        primary_category=primary,
        categories=categories,
        published_at=published or _month_of(paper_id),
        is_day_known=published is not None,
        updated_at=_day(record, "updated"),
        comment=_line(record, "comment"),
        doi=_line(record, "doi"),
        journal_ref=_line(record, "journal_ref"),
    )


def _checked(paper: Paper) -> Paper:
    """Return a paper that keeps the rules of the message `Paper`."""
    if not 0 < len(paper.title) <= MAX_TITLE_CHARACTERS:
        raise BadRecord(f"title: 1 to {MAX_TITLE_CHARACTERS:,} characters, not {len(paper.title):,}")
    size = len(paper.abstract.encode())
    if size > MAX_ABSTRACT_BYTES:
        raise BadRecord(f"abstract: at most {MAX_ABSTRACT_BYTES:,} bytes, not {size:,}")
    return paper


def _paper_id(record: Mapping[str, Any]) -> str:
    found = record.get("id")
    if not isinstance(found, str) or PAPER_ID.fullmatch(found) is None:
        raise BadRecord(f"id: an arXiv identifier without version, not {found!r:.60}")
    return found


def _line(record: Mapping[str, Any], name: str) -> str:
    """Return a text in one line, whitespace normalized; "" for null and for a field that is missing."""
    return _text(name, record.get(name) or "")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRecord(f"{name}: a text, not {value!r:.40}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{name}: a text, not halves of characters") from error
    return " ".join(value.replace("\0", " ").split())


def _list(record: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = record.get(name) or []
    if not isinstance(value, list):
        raise BadRecord(f"{name}: a list, not {value!r:.40}")
    return value


def _names(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(filter(None, (_text(name, each) for each in _list(record, name))))


def _snapshot_authors(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return "Given Family Suffix" of each author; the parsed names are the safe ones, as a name may hold a comma."""
    names = []
    for parts in _list(record, "authors_parsed"):
        if not isinstance(parts, list):
            raise BadRecord(f"authors_parsed: lists of family, given name and suffix, not {parts!r:.40}")
        family, given, suffix, *_ = [*(_text("authors_parsed", part) for part in parts), "", "", ""]
        names.append(" ".join(filter(None, (given, family, suffix))))
    if not names:
        names = re.split(r",\s+(?:and\s+)?|\s+and\s+", _line(record, "authors"))
    return tuple(filter(None, map(_readable, names)))


@lru_cache(maxsize=1 << 14)
def _readable(name: str) -> str:
    r"""Return a name with its letters instead of LaTeX for them, as arXiv prints it: "Bal\'azs" is "Balázs"."""
    if not any(sign in name for sign in "\\{$"):
        return name
    from pylatexenc.latex2text import LatexNodes2Text  # type: ignore[import-untyped]  # has no types

    text: str = LatexNodes2Text().latex_to_text(name)
    return " ".join(text.split())


def _version_of(entry: object) -> tuple[int, datetime]:
    """Return the number of a version and the moment it was submitted."""
    if isinstance(entry, dict):
        number, created = _VERSION.fullmatch(str(entry.get("version"))), entry.get("created")
        if number and isinstance(created, str):
            try:
                return int(number[1]), parsedate_to_datetime(created).astimezone(UTC).replace(microsecond=0)
            except (ValueError, TypeError, OverflowError):
                pass
    raise BadRecord(f'versions: {{"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"}}, not {entry!r:.80}')


def _day(record: Mapping[str, Any], name: str) -> datetime | None:
    value = _line(record, name)
    if not value:
        return None
    try:
        day = datetime.strptime(value[:10], "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise BadRecord(f"{name}: a day as YYYY-MM-DD, not {value!r:.40}") from error
    return day


def _month_of(paper_id: str) -> datetime:
    """Return the first day of the month that an identifier names."""
    found = _ID_MONTH.match(paper_id)
    year, month = (int(part) for part in found.groups()) if found else (0, 0)
    year += 1900 if year >= FIRST_ARXIV_YEAR % 100 else 2000
    if not 1 <= month <= 12:  # noqa: PLR2004 - months
        raise BadRecord(f"id: a month from 01 to 12 in it, not {paper_id!r}")
    return datetime(year, month, 1, tzinfo=UTC)
