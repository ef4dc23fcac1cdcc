import json
from datetime import UTC, datetime

import pytest

from services.common.papers import Paper
from services.retrieval.index_record import BadRecord, is_newer, paper_of_line
from services.retrieval.index_schema import paper_of_row, row_of

SNAPSHOT = {
    "id": "0704.0001",
    "submitter": "Pavel Nadolsky",
    "authors": "C. Bal\\'azs, E. L. Berger, P. M. Nadolsky, C.-P. Yuan",
    "title": "Calculation of prompt diphoton production cross sections at Tevatron and\n  LHC energies",
    "comments": "37 pages, 15 figures; published version",
    "journal-ref": "Phys.Rev.D76:013009,2007",
    "doi": "10.1103/PhysRevD.76.013009",
    "report-no": "ANL-HEP-PR-07-12",
    "categories": "hep-ph hep-ex",
    "license": None,
    "abstract": "  A fully differential calculation\nis presented.\n",
    "versions": [
        {"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"},
        {"version": "v2", "created": "Tue, 24 Jul 2007 20:10:27 GMT"},
    ],
    "update_date": "2008-11-26",
    "authors_parsed": [["Bal\\'azs", "C.", ""], ["Berger", "E. L.", "Jr."], ["Yuan", "C. -P.", ""]],
}
CORPUS = {
    "id": "2406.12634",
    "version": None,
    "title": "A title",
    "abstract": "An abstract.",
    "authors": ["Ada Lovelace", "Émile Borel"],
    "primary_category": "cs.IR",
    "categories": ["cs.IR", "I.2.7; H.3.3"],
    "published": None,
    "updated": None,
    "announced": "2024-06-19",
    "date": "2024-06-19",
    "date_kind": "announced",
    "doi": None,
    "journal_ref": None,
    "comment": None,
}


def line(record: dict, **changes: object) -> bytes:
    return json.dumps({**record, **changes}).encode()


def test_snapshot_record_becomes_a_paper():
    assert paper_of_line(line(SNAPSHOT)) == Paper(
        paper_id="0704.0001",
        version=2,
        title="Calculation of prompt diphoton production cross sections at Tevatron and LHC energies",
        abstract="A fully differential calculation is presented.",
        authors=("C. Balázs", "E. L. Berger Jr.", "C. -P. Yuan"),
        primary_category="hep-ph",
        categories=("hep-ph", "hep-ex"),
        published_at=datetime(2007, 4, 2, 19, 18, 42, tzinfo=UTC),
        updated_at=datetime(2007, 7, 24, 20, 10, 27, tzinfo=UTC),
        comment="37 pages, 15 figures; published version",
        doi="10.1103/PhysRevD.76.013009",
        journal_ref="Phys.Rev.D76:013009,2007",
    )


def test_snapshot_record_without_parsed_names_and_versions_keeps_what_it_has():
    """Older snapshots lack these; the identifier then tells the month."""
    paper = paper_of_line(line(SNAPSHOT, authors_parsed=None, versions=[]))

    assert paper.authors == ("C. Balázs", "E. L. Berger", "P. M. Nadolsky", "C.-P. Yuan")
    assert (paper.published_at, paper.is_day_known) == (datetime(2007, 4, 1, tzinfo=UTC), False)
    assert (paper.version, paper.updated_at) == (None, datetime(2008, 11, 26, tzinfo=UTC))


@pytest.mark.parametrize(
    ("changes", "published", "is_day_known"),
    [
        pytest.param({"published": "2024-06-17"}, "2024-06-17", True, id="published"),
        pytest.param({}, "2024-06-19", True, id="announced"),
        pytest.param({"announced": None}, "2024-06-01", False, id="month-of-the-identifier"),
        pytest.param({"announced": None, "id": "astro-ph/9901001"}, "1999-01-01", False, id="month-of-an-old-one"),
    ],
)
def test_corpus_record_takes_the_best_date_it_has(changes, published, is_day_known):
    paper = paper_of_line(line(CORPUS, **changes))

    assert (f"{paper.published_at:%Y-%m-%d}", paper.is_day_known) == (published, is_day_known)
    assert paper.categories == ("cs.IR", "I.2.7; H.3.3")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param(b"not json", "no line of JSON", id="no-json"),
        pytest.param(b"[" * 100_000, "no line of JSON", id="too-deep"),
        pytest.param(b"\xff\xfe{", "no line of JSON", id="no-text"),
        pytest.param(b"[1]", "no JSON object", id="no-object"),
        pytest.param(b"{}", "neither the fields", id="something-else"),
        pytest.param(line(SNAPSHOT, id="0704.0001v2"), "id: an arXiv identifier without version", id="versioned-id"),
        pytest.param(line(SNAPSHOT, id="../../etc"), "id: an arXiv identifier", id="malformed-id"),
        pytest.param(line(SNAPSHOT, id=None), "id: an arXiv identifier", id="no-id"),
        pytest.param(line(CORPUS, id="2413.00001", announced=None), "id: a month", id="month-13"),
        pytest.param(line(CORPUS, title="  "), "title: 1 to 2,000 characters", id="no-title"),
        pytest.param(line(CORPUS, title="a" * 2_001), "title: 1 to 2,000 characters", id="long-title"),
        pytest.param(line(CORPUS, title=7), "title: a text", id="title-is-a-number"),
        pytest.param(line(CORPUS, title="\ud800"), "title: a text, not halves", id="half-a-character"),
        pytest.param(line(CORPUS, abstract="é" * 100_001), "abstract: at most 200,000 bytes", id="long-abstract"),
        pytest.param(line(CORPUS, authors="Ada"), "authors: a list", id="authors-in-one"),
        pytest.param(line(CORPUS, version=0), "version: a number from 1", id="version-0"),
        pytest.param(line(CORPUS, published="June"), "published: a day", id="no-day"),
        pytest.param(line(CORPUS, published="2024-02-30"), "published: a day", id="no-such-day"),
        pytest.param(line(SNAPSHOT, versions=[{"version": "v1"}]), "versions: ", id="version-without-date"),
        pytest.param(line(SNAPSHOT, versions=["v1"]), "versions: ", id="version-is-a-text"),
    ],
)
def test_line_that_is_no_record_says_why(text, wanted):
    with pytest.raises(BadRecord, match=f"^{wanted}"):
        paper_of_line(text)


@pytest.mark.parametrize("record", [SNAPSHOT, CORPUS], ids=["snapshot", "corpus"])
def test_paper_comes_back_from_the_index_as_it_was(record):
    """A difference would make every later build write the paper again."""
    paper = paper_of_line(line(record))

    assert paper_of_row(row_of(paper)) == paper


def test_older_version_does_not_take_the_place_of_a_newer_one():
    newer, older = paper_of_line(line(CORPUS, version=2)), paper_of_line(line(CORPUS, version=1))
    unknown = paper_of_line(line(CORPUS))

    assert [is_newer(newer, older), is_newer(older, newer)] == [True, False]
    assert [is_newer(older, unknown), is_newer(unknown, older)] == [True, False]
    assert is_newer(unknown, unknown)
