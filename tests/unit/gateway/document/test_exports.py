"""One survey in every form it is exported in: what is in it is found again, and it gives the same bytes again."""

import html
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from browser import chromium_path
from google.protobuf.json_format import Parse
from paperroute.v1 import ordering_pb2, usage_pb2
from paperroute.v1 import survey_pb2 as pb
from playwright.async_api import async_playwright
from pybtex.database import parse_string

from gateway.cli.output import FORMS, document_of
from gateway.document.links import url_of
from services.common.papers import Paper, message_of, timestamp_of

AUTHORS = (("Émile Borel", "Łukasz Kaiser"), ("山田 太郎",), ("Nguyễn Văn A", "Ada Lovelace", "Ōnishi Ken"))
TITLES = ("動画生成の研究", "Gaussian Splatting: 100 % faster & <b>smaller</b>", "Über {LoRA} $O(n^2)$ *stars*")
MOMENT = datetime(2026, 11, 21, 12, tzinfo=UTC)


def survey() -> pb.Survey:
    papers = [
        Paper(
            paper_id=f"2501.{number:05}",
            version=number,
            title=title,
            abstract="An abstract.",
            authors=authors,
            primary_category="cs.CV",
            published_at=datetime(2025, number, 3, tzinfo=UTC),
        )
        for number, (title, authors) in enumerate(zip(TITLES, AUTHORS, strict=True), start=1)
    ]
    urls = [url_of(paper) for paper in papers]
    sections = [
        pb.Section(number=number, title=title, text=f"[{number}]({url}) は良い。", model="a:b", keys=[f"P{number}"])
        for number, (title, url) in enumerate(zip(TITLES, urls, strict=True), start=1)
    ]
    usage = [usage_pb2.ModelUsage(model="a:b", call_count=3, input_tokens=2**40, cost_nano_usd=15 * 10**5)]
    return pb.Survey(
        survey_id="0123456789abcdef",
        state=pb.SURVEY_STATE_DONE,
        spec=pb.SurveySpec(question="動画生成の最先端は?", language="ja", max_papers=3),
        labels={"team": "ビジョン"},
        title="動画生成の研究動向",
        introduction="はじめに。",
        closing="おわり。",
        footer="Written by a:b.",
        papers=[
            pb.SurveyPaper(
                key=f"P{number}",
                url=url,
                paper=message_of(paper),
                chapter_number=1,
                section_number=number,
                mention=pb.PAPER_MENTION_CITED,
                point=ordering_pb2.MapPoint(x=0.3 * number, y=-0.2),
            )
            for number, (paper, url) in enumerate(zip(papers, urls, strict=True), start=1)
        ],
        chapters=[pb.Chapter(number=1, title="章", text="章の初め。", sections=sections)],
        coverage=pb.Coverage(kept_count=3, cited_count=3),
        stages=[pb.StageReport(stage=pb.STAGE_WRITE, duration_ms=2_400, usage=usage)],
        usage=usage,
        created_at=timestamp_of(MOMENT),
        finished_at=timestamp_of(MOMENT),
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_same_survey_gives_the_same_bytes(form: str):
    stored = pb.Survey.FromString(survey().SerializeToString())

    assert document_of(survey(), form).encode() == document_of(stored, form).encode()


@pytest.mark.parametrize("form", FORMS)
def test_every_paper_is_in_every_form(form: str):
    document = html.unescape(document_of(survey(), form))

    for number in (1, 2, 3):
        assert f"2501.{number:05}" in document
    for name in ("山田 太郎", "Łukasz Kaiser"):
        assert name in document


def test_json_reads_back_into_the_same_survey():
    assert Parse(document_of(survey(), "json"), pb.Survey()) == survey()


def test_bibtex_is_read_back_by_another_library_with_every_field():
    entries = list(parse_string(document_of(survey(), "bib"), "bibtex").entries.values())

    for number, (entry, authors) in enumerate(zip(entries, AUTHORS, strict=True), start=1):
        assert [str(person) for person in entry.persons["author"]] == [_family_first(name) for name in authors]
        fields = {
            name: entry.fields[name] for name in ("year", "eprint", "archiveprefix", "primaryclass", "url", "note")
        }
        assert fields == {
            "year": "2025",
            "eprint": f"2501.{number:05}",
            "archiveprefix": "arXiv",
            "primaryclass": "cs.CV",
            "url": f"https://arxiv.org/abs/2501.{number:05}v{number}",
            "note": f"version {number}",
        }
    assert [entry.fields["month"] for entry in entries] == ["January", "February", "March"]
    assert [entry.fields["title"] for entry in entries] == [
        "{動画生成の研究}",
        r"{Gaussian Splatting: 100 \% faster \& <b>smaller</b>}",
        r"{Über {LoRA} $O(n^2)$ *stars*}",
    ]


def _family_first(name: str) -> str:
    first, _, family = name.rpartition(" ")
    return f"{family}, {first}"


async def test_html_opens_from_disk_with_its_map_and_asks_for_nothing(tmp_path: Path):
    file = tmp_path / "survey.html"
    file.write_text(document_of(survey(), "html"), encoding="utf-8")
    asked, said = [], []
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # its sandbox refuses to run as root
        chromium = await playwright.chromium.launch(executable_path=chromium_path(), args=arguments)
        page = await chromium.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        await page.goto(file.as_uri())
        title = await page.title()
        text = await page.inner_text("body")
        marks = await page.locator("svg.map a.paper path").count()
        box = await page.locator("svg.map").bounding_box()
        await chromium.close()

    assert (asked, said) == ([file.as_uri()], [])
    assert title.startswith("動画生成の研究動向")
    assert all(each in text for each in TITLES)
    assert marks == 3
    assert box is not None
    assert box["width"] > 300
    assert box["height"] > 200
