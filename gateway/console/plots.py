"""Plots as SVG made on the server: bars with their values written beside them, readable without colour."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from services.common.markdown import plain

WIDTH, LINE, LABEL_WIDTH, VALUE_WIDTH = 720, 30, 220, 110
MAX_LABEL = 30
MAX_BARS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One line of a plot."""

    label: str
    value: float
    """0 or more."""
    shown: str
    """The value as a reader sees it."""


def bars_svg(title: str, bars: Sequence[Bar]) -> str:
    """Return a plot of horizontal bars, the first on top; beyond 60 the rest is left to the table beside it."""
    drawn = bars[:MAX_BARS]
    height = LINE * len(drawn) + 8
    root = Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}", role="img")
    root.set("aria-label", plain(title))
    root.set("class", "plot")
    most = max((bar.value for bar in drawn), default=0.0) or 1.0
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    for row, bar in enumerate(drawn):
        y = LINE * row + 4
        length = round(room * bar.value / most, 1)
        line = SubElement(root, "g")
        SubElement(line, "title").text = f"{plain(bar.label)}: {bar.shown}"
        _text(line, LABEL_WIDTH - 8, y + 19, _short(plain(bar.label)), "end")
        SubElement(line, "rect", x=f"{LABEL_WIDTH}", y=f"{y + 3}", width=f"{max(1.0, length)}", height=f"{LINE - 8}")
        _text(line, LABEL_WIDTH + length + 8, y + 19, bar.shown, "start")
    return tostring(root, encoding="unicode")


def _text(parent: Element, x: float, y: float, text: str, anchor: str) -> None:
    SubElement(parent, "text", {"x": f"{x}", "y": f"{y}", "text-anchor": anchor}).text = text


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
