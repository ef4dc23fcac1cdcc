"""The HTML file of a survey: everything in it, nothing from outside, and text of others is text."""

from html.parser import HTMLParser
from typing import Any

import pytest
from paperroute.v1 import ordering_pb2, paper_pb2, usage_pb2, writing_pb2
from paperroute.v1 import survey_pb2 as pb

from gateway.document.export_html import html_of
from gateway.document.rendering import markdown_html

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</style><script>alert(1)</script>",
    '"><a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "{{ 7 * 7 }}",
]
URL = "https://arxiv.org/abs/2501.{:05d}v1"


class Page(HTMLParser):
    """The elements of a page, its text, and where its attributes lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.attributes if each == name]


def survey(text: str = "Words", **spec: Any) -> pb.Survey:
    papers = [
        pb.SurveyPaper(
            key=f"P{number}",
            url=URL.format(number),
            paper=paper_pb2.Paper(paper_id=f"2501.{number:05d}", title=f"{text} {number}", authors=[text, "B"]),
            chapter_number=1,
            section_number=number,
            mention=pb.PAPER_MENTION_CITED,
            point=ordering_pb2.MapPoint(x=0.1 * number),
        )
        for number in (1, 2)
    ]
    flag = writing_pb2.TextFlag(sentence=f"It gains 9 %. {text}", terms=["9", text])
    sections = [
        pb.Section(number=1, title=text, text=f"{text} [One]({URL.format(1)}) is *good*.", model="a:b"),
        pb.Section(number=2, title="Second", text="Two.", model="x:y", fallback_reason=text, flags=[flag]),
    ]
    usage = [
        usage_pb2.ModelUsage(model="a:b", call_count=3, input_tokens=12_000, output_tokens=90, cost_nano_usd=15 * 10**5)
    ]
    return pb.Survey(
        title=text,
        introduction=f"Begin {text}",
        closing=f"End {text}",
        footer=f"Written by {text}",
        papers=papers,
        chapters=[pb.Chapter(number=1, title=text, text=text, sections=sections)],
        coverage=pb.Coverage(kept_count=2, cited_count=2, unsupported_count=1),
        stages=[pb.StageReport(stage=pb.STAGE_WRITE, duration_ms=2_400, usage=usage)],
        usage=usage,
        spec=pb.SurveySpec(**{"question": text, "language": "en", **spec}),
    )


def test_it_holds_survey_map_references_flags_and_costs():
    page = Page(html_of(survey()))

    assert page.tags.count("svg") == 1
    assert [link for link in page.values("href") if link.startswith("http")].count(URL.format(1)) == 3
    assert "It gains 9 %." in page.text
    assert "Written by x:y: Words." in page.text
    assert "2 papers kept: 2 cited, 0 listed, 0 dropped. Sentences flagged: 1." in page.text
    assert "write 2.4 s a:b 3 12,000 90 $0.0015" in page.text
    assert {"c1", "s1.1", "s1.2", "P1", "P2"} <= set(page.values("id"))


def test_every_inner_link_leads_somewhere():
    page = Page(html_of(survey()))

    inner = {link.removeprefix("#") for link in page.values("href") if link.startswith("#")}
    assert inner
    assert inner <= set(page.values("id"))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_others_shows_as_text(text: str):
    harmless, page = Page(html_of(survey())), Page(html_of(survey(text)))

    assert sorted(set(page.tags)) == sorted(set(harmless.tags))
    assert not {"script", "img", "iframe", "object", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert all(link.startswith(("#", "https://arxiv.org/abs/")) for link in page.values("href"))
    assert page.text.count(" ".join(text.split())) >= 5


def test_the_same_survey_gives_the_same_bytes():
    assert html_of(survey()) == html_of(pb.Survey.FromString(survey().SerializeToString()))


def test_what_has_no_price_is_not_shown_as_free():
    made = survey()
    made.usage.add(model="mine:m", call_count=1)

    assert "≥ $0.0015" in Page(html_of(made)).text


def test_a_survey_without_papers_has_no_map_and_no_references():
    page = Page(html_of(pb.Survey(spec=pb.SurveySpec(question="Why?", language="en"))))

    assert "svg" not in page.tags
    assert "References" not in page.text
    assert "Why?" in page.text


def test_labels_are_in_the_language_of_the_survey():
    made = survey(language="ja")

    assert {"参考文献", "経路図", "まとめ"} <= set(Page(html_of(made)).pieces)
    assert Page(html_of(made)).values("lang") == ["ja"]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        pytest.param("*a* **b**", "<p><em>a</em> <strong>b</strong></p>", id="emphasis"),
        pytest.param("[a](https://example.org)", "<p>[a](https://example.org)</p>", id="a link to elsewhere"),
        pytest.param("<b>a</b>", "<p>&lt;b&gt;a&lt;/b&gt;</p>", id="HTML"),
        pytest.param("<https://example.org>", "<p>&lt;https://example.org&gt;</p>", id="an address"),
        pytest.param("a\u202eb", "<p>ab</p>", id="characters that turn the line round"),
    ],
)
def test_markdown_is_rendered_without_what_could_do_harm(text: str, html: str):
    assert markdown_html(text).strip() == html
