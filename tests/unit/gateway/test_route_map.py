"""The map shows every paper, names it, and needs nothing from outside."""

from xml.etree import ElementTree

import pytest
from paperroute.v1 import ordering_pb2, paper_pb2
from paperroute.v1 import survey_pb2 as pb

from gateway.document.route_map import svg_of

SVG = "{http://www.w3.org/2000/svg}"


def survey(count: int, title: str = "A title", chapters: int = 3) -> pb.Survey:
    papers = [
        pb.SurveyPaper(
            key=f"P{number + 1}",
            paper=paper_pb2.Paper(paper_id=f"2501.{number:05d}", title=f"{title} {number}"),
            url=f"https://arxiv.org/abs/2501.{number:05d}",
            chapter_number=number % chapters + 1,
            point=ordering_pb2.MapPoint(x=number / count * 2 - 1, y=1 - number / count * 2),
        )
        for number in range(count)
    ]
    heads = [pb.Chapter(number=number + 1, title=f"{title} {number}") for number in range(chapters)]
    return pb.Survey(title=title, papers=papers, chapters=heads, spec=pb.SurveySpec(question="q", language="en"))


def test_every_paper_is_a_named_mark_that_leads_to_it():
    root = ElementTree.fromstring(svg_of(survey(20)))

    links = root.findall(f"{SVG}a")
    assert [link.get("href") for link in links] == [f"https://arxiv.org/abs/2501.{n:05d}" for n in range(20)]
    assert links[4].find(f"{SVG}title").text == "P5: A title 4"
    line = root.find(f"{SVG}polyline").get("points").split()
    assert len(line) == 20


def test_chapters_differ_by_shape_too():
    """In greyscale, and to many readers, colour says nothing."""
    root = ElementTree.fromstring(svg_of(survey(8, chapters=7)))

    marks = [link.find(f"{SVG}path") for link in root.findall(f"{SVG}a")]
    assert len({mark.get("d") for mark in marks}) == 7
    assert len({mark.get("fill") for mark in marks}) == 7


def test_it_describes_itself_for_who_cannot_see_it():
    root = ElementTree.fromstring(svg_of(survey(20)))

    assert root.get("role") == "group"
    assert root.find(f"{SVG}title").text == "Route map: A title"
    assert root.find(f"{SVG}desc").text.startswith("20 papers in 3 chapters, joined in reading order. 1. A title 0;")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><a href="x">', "a\u202eb\u0000c & d"])
def test_hostile_titles_are_text(text: str):
    root = ElementTree.fromstring(svg_of(survey(3, title=text)))

    assert not root.findall(f".//{SVG}script")
    assert all(link.get("href").startswith("https://arxiv.org/abs/") for link in root.iter(f"{SVG}a"))


def test_all_marks_lie_inside_the_picture():
    root = ElementTree.fromstring(svg_of(survey(50)))
    places = [tuple(map(float, pair.split(","))) for pair in root.find(f"{SVG}polyline").get("points").split()]

    assert all(0 <= x <= 960 and 0 <= y <= 640 for x, y in places)


def test_a_survey_without_a_route_is_still_a_picture():
    root = ElementTree.fromstring(svg_of(pb.Survey(title="Nothing yet")))

    assert root.find(f"{SVG}polyline") is None
