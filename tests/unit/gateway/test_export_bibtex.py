"""What we write with one library is read back with another."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paperroute.v1 import survey_pb2 as pb
from pybtex.database import BibliographyData, Person, parse_string

from gateway.document.export_bibtex import bibtex_of
from gateway.document.links import url_of
from services.common.papers import Paper, message_of


def paper(number: int = 1, **changes: object) -> Paper:
    fields: dict[str, object] = {
        "paper_id": f"2501.{number:05}",
        "version": 2,
        "title": "Attention Is All You Need",
        "abstract": "",
        "authors": ("Ada Lovelace", "Émile Borel"),
        "primary_category": "cs.CV",
        "published_at": datetime(2025, 7, 3, tzinfo=UTC),
    }
    return Paper(**{**fields, **changes})


def survey_of(*papers: Paper) -> pb.Survey:
    return pb.Survey(
        papers=[
            pb.SurveyPaper(paper=message_of(each), url=url_of(each), mention=pb.PAPER_MENTION_CITED) for each in papers
        ]
    )


def read_back(*papers: Paper) -> BibliographyData:
    return parse_string(bibtex_of(survey_of(*papers)), "bibtex")


def only_entry(found: BibliographyData):
    (entry,) = found.entries.values()
    return entry


def names(person: Person) -> str:
    return " ".join([*person.first_names, *person.middle_names, *person.prelast_names, *person.last_names])


def test_record_is_read_back_field_by_field():
    entry = only_entry(
        read_back(paper(doi="10.1000/a_b", journal_ref="J. Tests 1 (2025)", comment="12 pages, 50% more"))
    )

    assert dict(entry.fields) == {
        "title": "{Attention Is All You Need}",
        "year": "2025",
        "month": "July",
        "eprint": "2501.00001",
        "archiveprefix": "arXiv",
        "primaryclass": "cs.CV",
        "doi": "10.1000/a_b",
        "url": "https://arxiv.org/abs/2501.00001v2",
        "note": r"version 2; J. Tests 1 (2025); 12 pages, 50\% more",
    }
    assert [names(person) for person in entry.persons["author"]] == ["Ada Lovelace", "Émile Borel"]


def test_what_the_record_does_not_tell_is_left_out():
    entry = only_entry(read_back(paper(version=None, primary_category="", authors=())))

    assert set(entry.fields) == {"title", "year", "month", "eprint", "archiveprefix", "url"}
    assert not entry.persons


@pytest.mark.parametrize(
    "name",
    [
        "José García Márquez",
        "Đặng Thị Hồng",
        "王小明",
        "Jürgen van der Berg",
        "Łukasz Kaiser",
        r"C. Bal{\'a}zs",
        "Plato",
    ],
)
def test_names_stay_intact(name):
    entry = only_entry(read_back(paper(authors=(name, "Ada Lovelace"))))

    assert [names(person) for person in entry.persons["author"]] == [name, "Ada Lovelace"]


@pytest.mark.parametrize("name", ["ATLAS Collaboration", "John Smith, Jr.", "Simon and Garfunkel"])
def test_names_that_bibtex_would_take_apart_stay_whole(name):
    entry = only_entry(read_back(paper(authors=(name, "Ada Lovelace"))))

    assert [names(person) for person in entry.persons["author"]] == [f"{{{name}}}", "Ada Lovelace"]


@pytest.mark.parametrize(
    ("title", "written"),
    [
        pytest.param(r"On $\alpha_1$-{\it stable} laws", r"On $\alpha_1$-{\it stable} laws", id="latex"),
        pytest.param("AT&T: 50% of foo_bar is #1", r"AT\&T: 50\% of foo\_bar is \#1", id="special"),
        pytest.param(r"AT\&T", r"AT\&T", id="escaped-already"),
        pytest.param("Half a {brace", "Half a brace", id="open-brace"),
        pytest.param("The }wrong{ way", "The wrong way", id="braces-the-wrong-way"),
        pytest.param("Costs 5$ more", r"Costs 5\$ more", id="one-dollar"),
        pytest.param("Ends in \\", "Ends in ", id="backslash-at-the-end"),
        pytest.param("画像生成の@LoRA\u202e", "画像生成の@LoRA", id="japanese-and-invisible"),
    ],
)
def test_titles_keep_their_latex_and_cannot_break_out(title, written):
    entry = only_entry(read_back(paper(title=title)))

    assert entry.fields["title"] == f"{{{written}}}"


def test_keys_are_telling_and_unique():
    papers = [
        paper(1),
        paper(2),
        paper(3, title="The 3D \\emph{Splatting}"),
        paper(4, authors=("王小明",), title="画像"),
    ]

    assert list(read_back(*papers).entries) == [
        "lovelace2025attention",
        "lovelace2025attention-2",
        "lovelace20253d",
        "arxiv2025",
    ]


def test_dropped_papers_are_not_cited():
    survey = survey_of(paper(1), paper(2))
    survey.papers[0].mention = pb.PAPER_MENTION_DROPPED

    assert only_entry(parse_string(bibtex_of(survey), "bibtex")).fields["eprint"] == "2501.00002"


def test_survey_without_papers_gives_nothing():
    assert bibtex_of(pb.Survey()) == ""


@settings(max_examples=150, deadline=None)
@given(title=st.text(min_size=1, max_size=40), author=st.text(max_size=20), note=st.text(max_size=20))
def test_no_text_breaks_the_file(title, author, note):
    """Entries after a hostile one are still there."""
    hostile = paper(1, title=title, authors=(author,), comment=note)

    found = read_back(hostile, paper(2))

    assert [entry.fields["eprint"] for entry in found.entries.values()] == ["2501.00001", "2501.00002"]
