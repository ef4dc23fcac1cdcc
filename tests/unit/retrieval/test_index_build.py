import asyncio
import gzip
import json
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import InvalidRequest, NotReady
from services.common.papers import Paper
from services.retrieval.index_build import BuildCounts, build, rejected_path, work_path
from services.retrieval.index_file import IndexFile, IndexLimits
from services.retrieval.index_schema import require_fts5
from services.retrieval.index_vectors import Embedded

_WORDS_TEXT = "lora image generation video tracking splatting fine-tuning finetuning 3D réseau 画像生成 quantisation"
WORDS = _WORDS_TEXT.split()
RECORD_COUNT = 2_300
"""Four full batches and a part of one."""


async def embed(papers: Sequence[Paper]) -> Embedded:
    """Return a vector for each paper that depends on its text only."""
    rows = [
        np.random.default_rng(zlib.crc32(f"{each.title}\n{each.abstract}".encode())).normal(size=8) for each in papers
    ]
    vectors = np.array(rows, dtype=np.float32)
    return Embedded(encoder="test:hash", vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def record(number: int, **changes: object) -> dict[str, object]:
    words = " ".join(WORDS[(number * step) % len(WORDS)] for step in (1, 3, 5, 7))
    return {
        "id": f"2501.{number:05}",
        "version": 1,
        "title": f"Paper {number} on {words}",
        "abstract": f"We study {WORDS[number % len(WORDS)]}.",
        "authors": ["Ada Lovelace"],
        "categories": ["cs.CV", "cs.LG"] if number % 2 else ["cs.CL"],
        "published": f"2025-01-{number % 28 + 1:02}",
        "date": "2025-01",
        **changes,
    }


def write(path: Path, records: Sequence[dict[str, object] | str]) -> Path:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def answers(path: Path) -> dict[str, object]:
    """Return all that searches can get of an index: counts, sets, orders, records."""
    index = IndexFile(path)
    vector = np.eye(8, dtype=np.float32)[0]
    limits = IndexLimits()
    try:
        return index.use(
            lambda view: {
                "count": view.facts.record_count,
                "categories": dict(view.category_counts()),
                "nearest": view.papers(view.nearest(vector, limits, 50)),
                "matches": [view.papers(view.best_matches(word, limits)[:30]) for word in WORDS],
                "sets": [
                    sorted(paper.paper_id for paper in view.papers(view.holding_all_words(word, limits)))
                    for word in WORDS
                ],
            }
        )
    finally:
        index.close()


@pytest.fixture
def index_path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "arxiv_index.sqlite3"


async def test_build_puts_every_record_in_once(tmp_path, index_path):
    source = write(tmp_path / "records.jsonl.gz", [record(number) for number in range(RECORD_COUNT)])
    seen = []

    report = await build([source], index_path, embed, on_progress=seen.append)

    assert report.counts == BuildCounts(new=RECORD_COUNT)
    assert (report.record_count, report.rejected_file, report.is_resumed) == (RECORD_COUNT, None, False)
    assert answers(index_path)["count"] == RECORD_COUNT
    assert [each.read_bytes for each in seen] == sorted(each.read_bytes for each in seen)
    assert seen[-1].read_bytes == seen[-1].total_bytes == source.stat().st_size
    assert stat.S_IMODE(index_path.stat().st_mode) == 0o600
    assert not work_path(index_path).exists()


async def test_newer_snapshot_updates_in_place(tmp_path, index_path):
    """Only what changed is embedded again; older versions change nothing."""
    embedded: list[str] = []

    async def noting(papers: Sequence[Paper]) -> Embedded:
        embedded.extend(paper.paper_id for paper in papers)
        return await embed(papers)

    await build([write(tmp_path / "old.jsonl", [record(number) for number in range(20)])], index_path, noting)
    embedded.clear()
    newer = [
        record(1, version=2, title="Zeolites", abstract="Catalysis."),
        record(2, version=2, categories=["math.AG"]),
        record(3, title="An older text", version=None),
        record(4),
        record(20),
    ]

    report = await build([write(tmp_path / "new.jsonl", newer)], index_path, noting)

    assert report.counts == BuildCounts(new=1, changed=2, unchanged=2)
    assert embedded == ["2501.00001", "2501.00020"]
    index = IndexFile(index_path)
    found = index.use(lambda view: view.papers(view.holding_all_words("zeolite catalysis", IndexLimits())))
    of_old_words = index.use(lambda view: view.papers(view.holding_all_words("paper 1", IndexLimits())))
    in_category = IndexLimits(categories=("math.AG",))
    moved = index.use(lambda view: view.papers(view.holding_all_words("paper", in_category)))
    counts = index.use(lambda view: view.category_counts())
    index.close()
    assert [(paper.paper_id, paper.version) for paper in found] == [("2501.00001", 2)]
    assert of_old_words == []
    assert [paper.paper_id for paper in moved] == ["2501.00002"]
    assert counts == {"cs.CL": 10, "cs.CV": 10, "cs.LG": 10, "math.AG": 1}


async def test_updated_index_answers_like_one_built_anew(tmp_path, index_path):
    first = [record(number) for number in range(600)]
    second = [record(number, version=2, abstract=f"Changed {WORDS[number % 5]}.") for number in range(0, 600, 7)]
    await build([write(tmp_path / "first.jsonl", first)], index_path, embed)
    await build([write(tmp_path / "second.jsonl", second)], index_path, embed)
    other = tmp_path / "other" / "index.sqlite3"

    await build([tmp_path / "first.jsonl", tmp_path / "second.jsonl"], other, embed)

    assert answers(index_path) == answers(other)


async def test_anew_leaves_out_what_was_there(tmp_path, index_path):
    await build([write(tmp_path / "a.jsonl", [record(1), record(2)])], index_path, embed)

    report = await build([write(tmp_path / "b.jsonl", [record(3)])], index_path, embed, is_anew=True)

    assert report.record_count == 1


async def test_paper_that_stands_twice_is_kept_in_its_newest_version(tmp_path, index_path):
    records = [record(1), record(1, version=3), record(1, version=2), record(2)]

    report = await build([write(tmp_path / "twice.jsonl", records)], index_path, embed)

    assert report.counts == BuildCounts(new=2, unchanged=2)
    index = IndexFile(index_path)
    assert sorted(
        (paper.paper_id, paper.version)
        for paper in index.use(lambda view: view.papers(view.holding_all_words("paper", IndexLimits())))
    ) == [("2501.00001", 3), ("2501.00002", 1)]
    index.close()


async def test_bad_lines_are_counted_and_written_out(tmp_path, index_path):
    records = [record(1), "{broken", record(2, id="nonsense"), "", record(3)]

    report = await build([write(tmp_path / "records.jsonl", records)], index_path, embed)

    assert report.counts == BuildCounts(new=2, rejected=2)
    assert report.rejected_file == rejected_path(index_path)
    lines = [json.loads(line) for line in report.rejected_file.read_text().splitlines()]
    assert [(each["line_number"], each["reason"].split(":")[0]) for each in lines] == [
        (2, "no line of JSON"),
        (3, "id"),
    ]
    assert stat.S_IMODE(report.rejected_file.stat().st_mode) == 0o600


async def test_rejects_of_an_earlier_build_do_not_stay(tmp_path, index_path):
    await build([write(tmp_path / "a.jsonl", [record(1), "{broken"])], index_path, embed)

    report = await build([write(tmp_path / "b.jsonl", [record(2)])], index_path, embed)

    assert report.rejected_file is None
    assert not rejected_path(index_path).exists()


BAD_FILES = [
    pytest.param("nothing.jsonl", b"", "it is empty", id="empty"),
    pytest.param("records.jsonl.gz", b"id,title\n1,a\n", "no line of JSON", id="csv-called-gz"),
    pytest.param("picture.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "no line of JSON", id="picture"),
    pytest.param("packed.jsonl", gzip.compress(b"\0" * 5_000), "no line of JSON", id="zeros"),
    pytest.param("other.jsonl", b'{"id": "2501.00001"}\n' * 200, "neither the fields", id="other-fields"),
    pytest.param("damaged.gz", b"\x1f\x8b\x08\x00" + b"garbage" * 40, "breaks off", id="damaged-gzip"),
]


@pytest.mark.parametrize(("name", "content", "reason"), BAD_FILES)
async def test_file_that_is_not_what_it_should_be_leaves_the_index_as_it_was(
    tmp_path, index_path, name, content, reason
):
    await build([write(tmp_path / "good.jsonl", [record(1)])], index_path, embed)
    before = index_path.read_bytes()
    bad = tmp_path / name
    bad.write_bytes(content)

    with pytest.raises(InvalidRequest, match=reason) as raised:
        await build([tmp_path / "good.jsonl", bad], index_path, embed)

    assert [each.field for each in raised.value.violations] == [str(bad)]
    assert index_path.read_bytes() == before
    assert not work_path(index_path).exists()


async def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path, index_path):
    with pytest.raises(InvalidRequest) as raised:
        await build([tmp_path / "missing", tmp_path], index_path, embed)

    assert [each.field for each in raised.value.violations] == [str(tmp_path / "missing"), str(tmp_path)]


async def test_truncated_gzip_leaves_the_index_as_it_was(tmp_path, index_path):
    await build([write(tmp_path / "good.jsonl", [record(1)])], index_path, embed)
    before = index_path.read_bytes()
    whole = write(tmp_path / "whole.jsonl.gz", [record(number, abstract=f"{number * 7919}") for number in range(900)])
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole.read_bytes()[:-2_000])

    with pytest.raises(InvalidRequest, match=r"breaks off after line \d+"):
        await build([cut], index_path, embed)

    assert index_path.read_bytes() == before
    assert not work_path(index_path).exists()


async def test_line_without_end_is_rejected_and_not_kept_in_memory(tmp_path, index_path, monkeypatch):
    monkeypatch.setattr("services.retrieval.index_input.MAX_LINE_BYTES", 2_000)
    source = write(tmp_path / "long.jsonl", [record(1), "x" * 9_000, record(2)])

    report = await build([source], index_path, embed)

    assert report.counts == BuildCounts(new=2, rejected=1)


CHILD = """
import asyncio, os, resource, signal, sys
from pathlib import Path
sys.path[:0] = [{folder!r}]
from test_index_build import embed
from services.common.errors import PaperRouteError
from services.retrieval import index_build

def killing(owner, name, call_number):
    inner, calls = getattr(owner, name), []
    def outer(*arguments, **named):
        calls.append(None)
        if len(calls) == call_number:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments, **named)
    setattr(owner, name, outer)

{setup}
try:
    asyncio.run(index_build.build([Path(sys.argv[1])], Path(sys.argv[2]), embed))
except PaperRouteError as error:
    print(error.message)
    sys.exit(1)
"""


def build_in_child(source: Path, index_path: Path, setup: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(CHILD).format(folder=str(Path(__file__).parent), setup=setup)
    command = [sys.executable, "-c", program, str(source), str(index_path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, object]]:
    """Return a file of records and the answers of an index that was built from it without a break."""
    folder = tmp_path_factory.mktemp("whole")
    records = [record(number) for number in range(RECORD_COUNT)]
    records[700:700] = ["{broken"]
    source = write(folder / "records.jsonl.gz", records)
    asyncio.run(build([source], folder / "index.sqlite3", embed))
    return source, answers(folder / "index.sqlite3")


KILLS = [
    pytest.param("_begun", 1, False, id="before-the-first-batch"),
    pytest.param("_Work._write_paper", 250, True, id="within-the-first-transaction"),
    pytest.param("_Work._write_paper", 1_700, True, id="within-a-later-transaction"),
    pytest.param("_Work._next_batch", 4, True, id="between-two-batches"),
    pytest.param("_Work._write_rejected", 1, True, id="when-all-is-read"),
    pytest.param("_put_in_place", 1, True, id="before-the-swap"),
]


@pytest.mark.parametrize(("place", "call_number", "is_resumed"), KILLS)
async def test_killed_build_goes_on_without_loss_or_repeat(whole, index_path, place, call_number, is_resumed):
    source, expected = whole
    owner, _, name = f"index_build.{place}".rpartition(".")
    killed = build_in_child(source, index_path, f"killing({owner}, {name!r}, {call_number})")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not index_path.exists()

    report = await build([source], index_path, embed)

    assert report.is_resumed is is_resumed
    assert report.counts == BuildCounts(new=RECORD_COUNT, rejected=1)
    assert answers(index_path) == expected
    assert len(rejected_path(index_path).read_text().splitlines()) == 1


async def test_cancelled_build_goes_on(whole, index_path):
    """Ctrl-C ends the task; what was written before counts."""
    source, expected = whole
    reached = asyncio.Event()
    building = asyncio.create_task(build([source], index_path, embed, on_progress=lambda _: reached.set()))
    await reached.wait()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building

    report = await build([source], index_path, embed)

    assert report.is_resumed
    assert answers(index_path) == expected


async def test_unfinished_build_of_another_file_is_thrown_away(whole, tmp_path, index_path):
    source, _ = whole
    build_in_child(source, index_path, "killing(index_build._Work, '_next_batch', 3)")
    other = write(tmp_path / "other.jsonl", [record(1)])

    report = await build([other], index_path, embed)

    assert (report.is_resumed, report.record_count) == (False, 1)


async def test_full_disk_is_one_clear_error_and_the_build_goes_on_later(whole, index_path):
    """No file may grow beyond a limit, which SQLite reports like a disk without space."""
    source, expected = whole
    soft = 600_000
    limited = build_in_child(source, index_path, f"resource.setrlimit(resource.RLIMIT_FSIZE, ({soft}, {soft}))")

    assert limited.returncode == 1, limited.stderr
    assert "cannot be written" in limited.stdout
    assert "free space in" in limited.stdout
    assert not index_path.exists()
    await build([source], index_path, embed)
    assert answers(index_path) == expected


async def test_second_build_at_the_same_time_is_refused(whole, tmp_path, index_path):
    source, _ = whole
    other = write(tmp_path / "other.jsonl", [record(1)])
    refused = []

    async def meanwhile(papers: Sequence[Paper]) -> Embedded:
        if not refused:
            with pytest.raises(NotReady, match="another build") as raised:
                await build([other], index_path, embed)
            refused.append(raised.value)
        return await embed(papers)

    report = await build([source], index_path, meanwhile)

    assert refused
    assert report.record_count == RECORD_COUNT


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\0 but not really", b"text", b""], ids=["header-only", "text", "empty"]
)
async def test_index_that_is_none_is_not_updated_but_built_anew_when_asked(tmp_path, index_path, content):
    index_path.parent.mkdir()
    index_path.write_bytes(content)
    source = write(tmp_path / "records.jsonl", [record(1)])

    with pytest.raises(NotReady, match="build it anew"):
        await build([source], index_path, embed)

    assert index_path.read_bytes() == content
    assert (await build([source], index_path, embed, is_anew=True)).record_count == 1


async def test_vectors_of_another_encoder_are_not_mixed_in(tmp_path, index_path):
    async def other(papers: Sequence[Paper]) -> Embedded:
        return Embedded(encoder="test:other", vectors=(await embed(papers)).vectors)

    await build([write(tmp_path / "a.jsonl", [record(1)])], index_path, embed)
    before = index_path.read_bytes()

    with pytest.raises(NotReady, match=r"test:hash.*test:other.*--anew"):
        await build([write(tmp_path / "b.jsonl", [record(2)])], index_path, other)

    assert index_path.read_bytes() == before


async def test_index_of_another_word_rule_is_not_updated(tmp_path, index_path, monkeypatch):
    """The words of a changed paper could not be taken out again."""
    await build([write(tmp_path / "a.jsonl", [record(1)])], index_path, embed)
    monkeypatch.setattr("services.retrieval.index_schema.word_rule", lambda: "another")

    with pytest.raises(NotReady, match="folded differently"):
        await build([write(tmp_path / "b.jsonl", [record(2)])], index_path, embed)


def test_missing_fts5_is_said_plainly():
    class Lean(sqlite3.Connection):
        def execute(self, sql, *arguments):
            return [("THREADSAFE=1",)] if "compile_options" in sql else super().execute(sql, *arguments)

    connection = sqlite3.connect(":memory:", factory=Lean)

    with pytest.raises(NotReady, match=r"has no FTS5; use a Python"):
        require_fts5(connection)

    connection.close()
