"""The route of a survey as a picture: papers as points, chapters by colour and shape, the reading order as a line.

One SVG file that needs nothing from outside. It is readable in light and dark, in greyscale (shapes and numbers tell
chapters apart where colours do not), with a pointer (titles as tooltips) and without one (links, a description).
"""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from paperroute.v1 import survey_pb2 as pb

from gateway.document.phrases import phrases_of
from services.common.markdown import plain

WIDTH, HEIGHT, MARGIN = 960, 640, 36
LEGEND_WIDTH, LEGEND_LINE, LEGEND_CHARACTERS = 300, 26, 34
RADIUS = 7

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#a6761d")
"""Told apart by all common kinds of colour vision. Source: Okabe and Ito's palette, with two of our own."""
SHAPES = (
    "M0,-1A1,1 0 1,1 0,1A1,1 0 1,1 0,-1Z",  # circle
    "M-.9,-.9H.9V.9H-.9Z",  # square
    "M0,-1.15L1.1,.8H-1.1Z",  # triangle
    "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",  # diamond
    "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",  # cross
    "M0,1.15L1.1,-.8H-1.1Z",  # triangle that points down
    "M-.6,-1.05H.6L1.2,0L.6,1.05H-.6L-1.2,0Z",  # hexagon
)
STYLE = """
svg.map{background:#fff;color:#1b1b1b;font:14px system-ui,sans-serif}
.route{fill:none;stroke:currentColor;stroke-opacity:.35;stroke-width:1.5}
.paper path,.key path{stroke:#fff;stroke-width:.15}
.end{fill:currentColor;font-weight:600} .key text{fill:currentColor}
a:focus path,a:hover path{stroke:currentColor;stroke-width:.35}
@media(prefers-color-scheme:dark){svg.map{background:#16181c;color:#e8e8e8} .paper path,.key path{stroke:#16181c}}
"""


def svg_of(survey: pb.Survey, *, has_style: bool = True) -> str:
    """Return the map of a survey whose papers are ordered; of one without a route, a picture that says so.

    Args:
        survey: the survey.
        has_style: whether it holds `STYLE` itself, as a file of its own must.
    """
    papers = [paper for paper in survey.papers if paper.key]
    phrases = phrases_of(survey.spec.language)
    root = Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="group")
    root.set("aria-labelledby", "title description")
    title = plain(survey.title or survey.spec.question)
    SubElement(root, "title", id="title").text = phrases.map_title.format(title=title)
    chapter_titles = "; ".join(f"{each.number}. {plain(each.title)}" for each in survey.chapters)
    SubElement(root, "desc", id="description").text = phrases.map_description.format(
        paper_count=len(papers), chapter_count=len(survey.chapters), chapters=chapter_titles
    )
    root.set("class", "map")
    if has_style:
        SubElement(root, "style").text = STYLE
    if papers:
        _draw_route(root, papers)
        _draw_legend(root, survey.chapters)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _draw_route(root: Element, papers: Sequence[pb.SurveyPaper]) -> None:
    places = [_place(paper.point.x, paper.point.y) for paper in papers]
    line = " ".join(f"{x},{y}" for x, y in places)
    SubElement(root, "polyline", {"class": "route", "points": line})
    for paper, (x, y) in zip(papers, places, strict=True):
        link = SubElement(root, "a", {"class": "paper", "href": paper.url})
        SubElement(link, "title").text = f"{paper.key}: {plain(paper.paper.title)}"
        _draw_mark(link, paper.chapter_number, x, y)
    for label, (x, y) in ((papers[0].key, places[0]), (papers[-1].key, places[-1])):
        SubElement(root, "text", {"class": "end", "x": f"{x + RADIUS + 3}", "y": f"{y - RADIUS}"}).text = label


def _draw_legend(root: Element, chapters: Sequence[pb.Chapter]) -> None:
    for row, chapter in enumerate(chapters):
        key = SubElement(root, "g", {"class": "key"})
        x, y = WIDTH - LEGEND_WIDTH + RADIUS, MARGIN + LEGEND_LINE * row
        _draw_mark(key, chapter.number, x, y)
        title = plain(chapter.title)
        short = title if len(title) <= LEGEND_CHARACTERS else f"{title[: LEGEND_CHARACTERS - 1]}…"
        SubElement(key, "text", x=f"{x + 2 * RADIUS}", y=f"{y + 5}").text = f"{chapter.number}. {short}"


def _draw_mark(parent: Element, chapter_number: int, x: float, y: float) -> None:
    index = max(0, chapter_number - 1)  # a paper that was dropped stands in no chapter
    mark = SubElement(parent, "path", d=SHAPES[index % len(SHAPES)], fill=COLOURS[index % len(COLOURS)])
    mark.set("transform", f"translate({x},{y})scale({RADIUS})")


def _place(x: float, y: float) -> tuple[float, float]:
    """Return where a point of the map, each coordinate in [-1, 1], stands in the picture; both axes to one scale."""
    width, height = WIDTH - LEGEND_WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    scale = min(width, height) / 2
    return round(MARGIN + width / 2 + x * scale, 1), round(MARGIN + height / 2 - y * scale, 1)
