"""The paper as every service sees it, and its way in and out of messages."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import paper_pb2 as pb

from services.common.fields import FieldChecks

PAPER_ID = re.compile(r"\d{4}\.\d{4,5}|[a-z][a-z-]*(\.[A-Z]{2})?/\d{7}")
"""arXiv identifiers without version, since April 2007 and before. Source: arXiv's page on identifiers."""

MAX_ABSTRACT_BYTES = 200_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """One arXiv record; the fields are those of the message `paperroute.v1.Paper`."""

    paper_id: str
    title: str
    abstract: str
    published_at: datetime
    version: int | None = None
    authors: tuple[str, ...] = ()
    primary_category: str = ""
    categories: tuple[str, ...] = ()
    is_day_known: bool = True
    """Whether `published_at` is exact to the day; otherwise to the month."""
    updated_at: datetime | None = None
    comment: str = ""
    doi: str = ""
    journal_ref: str = ""
    is_paraphrased: bool = False
    """Whether the abstract is in other words than the authors'."""
    is_withdrawn: bool = False
    """Whether the comment or the abstract says that the authors withdrew it."""


def paper_of(message: pb.Paper) -> Paper:
    """Return the domain paper of a message that passed `check_paper`."""
    return Paper(
        paper_id=message.paper_id,
        version=message.version if message.HasField("version") else None,
        title=message.title,
        abstract=message.abstract,
        authors=tuple(message.authors),
        primary_category=message.primary_category,
        categories=tuple(message.categories),
        published_at=moment_of(message.published_at),
        is_day_known=message.published_precision != pb.DATE_PRECISION_MONTH,
        updated_at=moment_of(message.updated_at) if message.HasField("updated_at") else None,
        comment=message.comment,
        doi=message.doi,
        journal_ref=message.journal_ref,
        is_paraphrased=message.abstract_origin == pb.ABSTRACT_ORIGIN_PARAPHRASE,
        is_withdrawn=message.is_withdrawn,
    )


def message_of(paper: Paper) -> pb.Paper:
    """Return the message of a paper."""
    return pb.Paper(
        paper_id=paper.paper_id,
        version=paper.version,
        title=paper.title,
        abstract=paper.abstract,
        authors=paper.authors,
        primary_category=paper.primary_category,
        categories=paper.categories,
        published_at=timestamp_of(paper.published_at),
        published_precision=pb.DATE_PRECISION_DAY if paper.is_day_known else pb.DATE_PRECISION_MONTH,
        updated_at=timestamp_of(paper.updated_at) if paper.updated_at else None,
        comment=paper.comment,
        doi=paper.doi,
        journal_ref=paper.journal_ref,
        abstract_origin=pb.ABSTRACT_ORIGIN_PARAPHRASE if paper.is_paraphrased else pb.ABSTRACT_ORIGIN_UNSPECIFIED,
        is_withdrawn=paper.is_withdrawn,
    )


def check_papers(checks: FieldChecks, field: str, papers: Sequence[pb.Paper]) -> None:
    """Record every paper that breaks the rules of the message `Paper`, and an identifier that stands twice."""
    for position, paper in enumerate(papers):
        check_paper(checks, f"{field}[{position}]", paper)
    checks.unique(field, [paper.paper_id for paper in papers])


def check_paper(checks: FieldChecks, field: str, paper: pb.Paper) -> None:
    """Record what breaks the rules of the message `Paper`."""
    is_known_form = PAPER_ID.fullmatch(paper.paper_id) is not None
    checks.require(
        is_known_form, f"{field}.paper_id", f"an arXiv identifier without version, not {paper.paper_id[:40]!r}"
    )
    checks.length(f"{field}.title", paper.title, 1, 2_000)
    for name in ("published_at", "updated_at"):
        check_moment(checks, f"{field}.{name}", getattr(paper, name))
    size = len(paper.abstract.encode())
    checks.require(
        size <= MAX_ABSTRACT_BYTES, f"{field}.abstract", f"at most {MAX_ABSTRACT_BYTES:,} bytes, not {size:,}"
    )


def check_moment(checks: FieldChecks, field: str, timestamp: Timestamp) -> bool:
    """Record a timestamp that is no moment of the years 1 to 9999; return whether it is one."""
    try:
        timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        checks.add(field, "a moment of the years 1 to 9999")
        return False
    return True


def moment_of(timestamp: Timestamp) -> datetime:
    """Return the moment, aware, in UTC."""
    return timestamp.ToDatetime(tzinfo=UTC)


def timestamp_of(moment: datetime) -> Timestamp:
    """Return the timestamp of an aware moment."""
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
