"""The local index with a real embedding service, and its commands."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc
from serving import serving

from gateway.cli.index_embedding import PassingVectors
from services.common.channel import open_channel
from services.common.errors import NotReady
from services.embedding.server import mount
from services.embedding.settings import EmbeddingSettings
from services.retrieval.index_build import build
from services.retrieval.index_source import IndexSource
from services.retrieval.index_vectors import embedded
from services.retrieval.sources import CapBy, Limits, Page

AS_OF = date(2025, 6, 30)
FILLER = "The method is described and evaluated in detail."


def record(number: int, title: str, *, day: str, category: str = "cs.CV") -> dict[str, object]:
    return {
        "id": f"2501.{number:05}",
        "title": title,
        "abstract": FILLER,
        "authors": ["Ada Lovelace"],
        "categories": [category],
        "published": day,
        "date": day,
    }


RECORDS = [
    record(1, "Cooking soup for dogs and cats with image generation", day="2025-03-01"),
    record(2, "Image generation", day="2025-01-01"),
    record(3, "Image generation of images", day="2025-02-01", category="cs.GR"),
    record(4, "Image generation of the future", day="2025-12-01"),
    record(5, "Text to picture synthesis", day="2025-04-01"),
    *(record(100 + number, f"Volcanoes and glaciers {number}", day="2025-05-01") for number in range(5)),
]


@dataclass
class Counting:
    """A stub of EmbeddingService that notes what it is asked."""

    stub: pb_grpc.EmbeddingServiceStub
    requests: list[pb.EmbedTextsRequest] = field(default_factory=list)
    """For texts."""

    async def EmbedPapers(self, request, timeout=None):
        return await self.stub.EmbedPapers(request, timeout=timeout)

    async def EmbedTexts(self, request, timeout=None):
        self.requests.append(request)
        return await self.stub.EmbedTexts(request, timeout=timeout)


@pytest.fixture
async def embedding(tmp_path) -> AsyncIterator[Counting]:
    async with serving(mount, EmbeddingSettings(store=":memory:"), tmp_path) as channel:
        yield Counting(pb_grpc.EmbeddingServiceStub(channel))


@pytest.fixture
async def index_path(tmp_path, embedding) -> Path:
    source = tmp_path / "records.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in RECORDS))
    path = tmp_path / "index.sqlite3"
    await build([source], path, lambda papers: embedded(embedding, papers))
    return path


async def page(source: IndexSource, term: str, max_results: int = 200, **limits: object) -> Page:
    steps = [
        step
        async for step in source.pages(
            term, max_results=max_results, as_of=AS_OF, deadline=float("inf"), limits=Limits(**limits)
        )
    ]
    await source.close()
    assert len(steps) == 1
    return steps[0]


def ids(found: Page) -> list[str]:
    return [paper.paper_id for paper in found.papers]


async def test_newest_hits_come_first_and_near_papers_after_them(index_path, embedding):
    """The day is kept to; a paper with none of the words is found by its meaning."""
    found = await page(IndexSource(index_path, embedding), "image generation")

    assert ids(found)[:3] == ["2501.00001", "2501.00003", "2501.00002"]
    assert ids(found)[3] == "2501.00005"
    assert "2501.00004" not in ids(found)
    assert found.expected_count == len(found.papers)


async def test_relevance_puts_the_nearest_hits_first(index_path, embedding):
    found = await page(IndexSource(index_path, embedding), "image generation", cap_by=CapBy.RELEVANCE)

    assert set(ids(found)[:2]) == {"2501.00002", "2501.00003"}
    assert ids(found)[2] == "2501.00001"


async def test_limits_are_kept_also_by_near_papers(index_path, embedding):
    source = IndexSource(index_path, embedding)
    limits = {"categories": ("cs.GR",), "published_from": datetime(2025, 1, 15, tzinfo=UTC)}

    assert ids(await page(source, "image generation", **limits)) == ["2501.00003"]


async def test_page_is_as_old_as_the_newest_record(index_path, embedding):
    source = IndexSource(index_path, embedding)

    assert (await page(source, "image")).answered_at == source.newest_at() == datetime(2025, 12, 1, tzinfo=UTC)
    await source.close()


async def test_term_is_embedded_once(index_path, embedding):
    source = IndexSource(index_path, embedding)

    first, second = await page(source, "image generation"), await page(source, "image generation")

    assert ids(first) == ids(second)
    assert [len(each.usage) for each in (first, second)] == [1, 0]
    assert [list(each.texts) for each in embedding.requests] == [["image generation"]]


async def test_without_the_embedding_service_dates_and_words_decide(index_path, tmp_path):
    async with open_channel("127.0.0.1:1") as channel:
        gone = pb_grpc.EmbeddingServiceStub(channel)
        found = await page(IndexSource(index_path, gone), "image generation", cap_by=CapBy.RELEVANCE)

    assert ids(found)[:3] == ["2501.00001", "2501.00003", "2501.00002"]


async def test_missing_index_says_how_to_build_one(tmp_path, embedding):
    with pytest.raises(NotReady, match="paperroute index build"):
        await page(IndexSource(tmp_path / "missing", embedding), "image")


async def test_service_of_a_build_is_begun_anew_before_it_holds_too_much(tmp_path, monkeypatch):
    """The vectors are the same whichever service made them."""
    monkeypatch.setattr("gateway.cli.index_embedding.MAX_EMBEDDED_PAPERS", 4)
    source = tmp_path / "records.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in RECORDS))
    monkeypatch.setattr("services.retrieval.index_build.BATCH_RECORDS", 3)

    async with PassingVectors() as vectors:
        report = await build([source], tmp_path / "index.sqlite3", vectors.of)

    assert report.record_count == len(RECORDS)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from gateway.cli.main import main; main()", "index", *arguments]
    environment = {**os.environ, "PAPERROUTE_DATA_DIR": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_commands_build_show_and_search(tmp_path):
    source = tmp_path / "records.jsonl.gz"
    lines = [*(json.dumps(each) for each in RECORDS), "{broken"]
    source.write_bytes(gzip.compress("\n".join(lines).encode()))

    built = run(tmp_path, "build", str(source))
    stats = run(tmp_path, "stats")
    search = run(tmp_path, "search", "image generation", "--to", "2025-06-30", "--limit", "3")

    assert built.returncode == stats.returncode == search.returncode == 0, built.stderr + stats.stderr + search.stderr
    assert "10 papers in" in built.stderr
    assert "1 lines were no records" in built.stderr
    assert re.search(r"papers +10\b", stats.stdout)
    assert "wordllama:l2_supercat_256, 256 numbers" in stats.stdout
    assert "https://arxiv.org/abs/2501.00002  Image generation\n" in search.stdout
    assert len(search.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "status", "wanted"),
    [
        pytest.param(["build", "missing.jsonl"], 2, ["missing.jsonl: there is no such file"], id="no-file"),
        pytest.param(["stats"], 1, ["paperroute index build"], id="no-index"),
        pytest.param(["search", "image"], 1, ["paperroute index build"], id="search-without-index"),
        pytest.param(
            ["search", "?", "--category", "cs.CVV", "--from", "2025-02-01", "--to", "2025-01-01"],
            2,
            ["QUERY: ", "--category: arXiv has no 'cs.CVV'; did you mean cs.CV?", "--from: not after --to"],
            id="all-arguments-wrong",
        ),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_each(tmp_path, arguments, status, wanted):
    done = run(tmp_path, *arguments)

    assert done.returncode == status
    assert len(done.stderr.splitlines()) == len(wanted), done.stderr
    assert all(each in line for each, line in zip(wanted, done.stderr.splitlines(), strict=True))
    assert done.stdout == ""
