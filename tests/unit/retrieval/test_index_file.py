import asyncio
import gzip
import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from corpus import CORPUS, TOPICS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import NotReady
from services.common.papers import Paper
from services.retrieval.index_build import build
from services.retrieval.index_file import IndexFile, IndexLimits, IndexView
from services.retrieval.index_record import paper_of_line
from services.retrieval.index_source import IndexQuery, IndexSource, fused_ranking
from services.retrieval.index_vectors import Embedded
from services.retrieval.words import holds_all_words, term_words, tokens

SLICE_STEP, SLICE_COUNT = 6, 8_000
NO_LIMITS = IndexLimits()


async def embed(papers) -> Embedded:
    """Return vectors on a circle: the number of a paper is its angle in degrees."""
    angles = np.radians([int(paper.paper_id[-4:]) for paper in papers])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return Embedded(encoder="test:circle", vectors=vectors)


def at_angle(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


def built(path: Path, records: list[dict[str, object]]) -> Path:
    source = path.with_suffix(".jsonl")
    source.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    asyncio.run(build([source], path, embed, is_anew=True))
    return path


def record(number: int, text: str, **changes: object) -> dict[str, object]:
    return {
        "id": f"2501.{number:05}",
        "title": f"{text}",
        "abstract": "An abstract.",
        "authors": [],
        "categories": ["cs.CV"],
        "published": f"2025-01-{number % 28 + 1:02}",
        "date": "2025-01",
        **changes,
    }


def ids(view: IndexView, numbers: np.ndarray) -> list[str]:
    return [paper.paper_id for paper in view.papers(numbers)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[IndexFile, list[Paper]]:
    """Return an index of every sixth record of the corpus, and the records."""
    if not CORPUS.exists():
        pytest.skip("the corpus is not there")
    folder = tmp_path_factory.mktemp("corpus")
    with gzip.open(CORPUS) as lines:
        chosen = list(islice(lines, 0, SLICE_STEP * SLICE_COUNT, SLICE_STEP))
    (folder / "slice.jsonl").write_bytes(b"".join(chosen))
    path = folder / "index.sqlite3"
    asyncio.run(build([folder / "slice.jsonl"], path, embed))
    index = IndexFile(path)
    yield index, [paper_of_line(line) for line in chosen]
    index.close()


@pytest.fixture(scope="module")
def scanned(corpus) -> list[tuple[Paper, frozenset[str]]]:
    return [(paper, tokens(f"{paper.title}\n{paper.abstract}")) for paper in corpus[1]]


def scan(scanned, term: str) -> set[str]:
    words = term_words(term)
    return {paper.paper_id for paper, found in scanned if holds_all_words(words, found)}


@pytest.mark.parametrize("term", [*TOPICS, "fine-tuning", "state-of-the-art LLMs", "Schrödinger", "COVID-19", "the"])
def test_all_words_set_is_that_of_a_scan(corpus, scanned, term):
    index, _ = corpus
    expected = scan(scanned, term)

    found = index.use(lambda view: ids(view, view.holding_all_words(term, NO_LIMITS)))

    assert expected
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_all_words_set_within_dates_and_categories_is_that_of_a_scan(corpus, scanned):
    index, _ = corpus
    limits = IndexLimits(published_from=date(2025, 6, 1), published_by=date(2026, 1, 31), categories=("cs.CV", "cs.AI"))

    found = index.use(lambda view: ids(view, view.holding_all_words("video generation", limits)))

    expected = {
        paper.paper_id
        for paper, words in scanned
        if {"video", "generation"} <= words
        and date(2025, 6, 1) <= paper.published_at.date() <= date(2026, 1, 31)
        and {"cs.CV", "cs.AI"} & set(paper.categories)
    }
    assert expected
    assert set(found) == expected


def test_records_come_back_as_they_were_read(corpus):
    index, papers = corpus

    found = index.use(lambda view: view.papers(np.arange(1, len(papers) + 1)))

    assert found == papers


ODD_TEXTS = [
    'naïve "quoted" AND OR NOT NEAR(a b) * ^ text: -minus +plus',
    "日本語の画像生成 と ガウシアン",
    "ﬁne-tuned ＬｏＲＡ x² İstanbul ẞtraße ΣΑΣ",
    "long-range-dependency end-to-end a-b c--d -e f-",
    "{\\bf bold}$\\alpha$ \\'etale 3D-aware 2.5D 𝔸lpha",
    "emoji 😀 tab\tand\nline \u0e01\u0e34\u0e19 हिन्दी 한국어",
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> IndexFile:
    path = tmp_path_factory.mktemp("odd") / "index.sqlite3"
    built(path, [record(number, text) for number, text in enumerate(ODD_TEXTS)])
    index = IndexFile(path)
    yield index
    index.close()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(term=st.lists(st.sampled_from(" ".join(ODD_TEXTS).split()), min_size=1, max_size=3).map(" ".join) | st.text())
def test_any_term_finds_what_the_word_test_finds(odd, term):
    """No term is taken for a command of the search engine."""
    words = term_words(term)
    if not words:
        return
    expected = {
        f"2501.{number:05}"
        for number, text in enumerate(ODD_TEXTS)
        if holds_all_words(words, tokens(f"{' '.join(text.split())}\nAn abstract."))
    }

    assert set(odd.use(lambda view: ids(view, view.holding_all_words(term, NO_LIMITS)))) == expected
    odd.use(lambda view: view.best_matches(term, NO_LIMITS))


@pytest.fixture
def circle(tmp_path) -> IndexFile:
    records = [record(number, "LoRA merging") for number in (10, 20, 30, 40)]
    records += [record(45, "LoRA alone"), record(50, "Merging"), record(60, "Something else")]
    index = IndexFile(built(tmp_path / "index.sqlite3", records))
    yield index
    index.close()


def test_hits_are_ordered_by_similarity_or_by_date(circle):
    hits = circle.use(lambda view: view.holding_all_words("merging LoRAs", NO_LIMITS))

    nearest = circle.use(lambda view: ids(view, view.by_similarity(hits, at_angle(27))))
    newest = circle.use(lambda view: ids(view, view.newest_first(hits)))

    assert nearest == ["2501.00030", "2501.00020", "2501.00040", "2501.00010"]
    assert newest == ["2501.00020", "2501.00040", "2501.00010", "2501.00030"]


def test_any_word_counts_and_more_words_count_more(circle):
    found = circle.use(lambda view: ids(view, view.best_matches("LoRA merging", NO_LIMITS)))

    assert set(found[:4]) == {"2501.00010", "2501.00020", "2501.00030", "2501.00040"}
    assert set(found[4:]) == {"2501.00045", "2501.00050"}


def test_nearest_of_all_papers_are_found_within_the_limits(circle):
    limits = IndexLimits(published_by=date(2025, 1, 20))

    assert circle.use(lambda view: ids(view, view.nearest(at_angle(59), NO_LIMITS, 2))) == ["2501.00060", "2501.00050"]
    assert circle.use(lambda view: ids(view, view.nearest(at_angle(22), limits, 1))) == ["2501.00030"]


def test_month_counts_when_one_of_its_days_would(tmp_path):
    index = IndexFile(built(tmp_path / "index.sqlite3", [record(1, "Word", published=None)]))

    def found(**limits: date) -> int:
        return len(index.use(lambda view: view.holding_all_words("word", IndexLimits(**limits))))

    assert [found(published_from=date(2025, 1, 31)), found(published_from=date(2025, 2, 1))] == [1, 0]
    assert [found(published_by=date(2025, 1, 1)), found(published_by=date(2024, 12, 31))] == [1, 0]
    index.close()


def test_fusion_prefers_what_both_rankings_have():
    rankings = [np.array([1, 2, 3]), np.array([4, 3, 5])]

    assert fused_ranking(rankings).tolist() == [3, 1, 4, 2, 5]


async def test_few_hits_are_followed_by_papers_with_some_of_the_words(circle):
    source = IndexSource(circle.path, None)
    query = IndexQuery(term="LoRA merging", max_results=5, is_newest_first=True, limits=NO_LIMITS)

    answer = await source.search(query)
    await source.close()

    assert [paper.paper_id for paper in answer.papers[:4]] == ["2501.00020", "2501.00040", "2501.00010", "2501.00030"]
    assert answer.papers[4].paper_id in {"2501.00045", "2501.00050"}
    assert (answer.hit_count, answer.all_hit_count, answer.is_by_similarity) == (4, 4, False)


def test_facts_tell_of_the_newest_record(circle):
    facts = circle.facts()

    assert facts.record_count == 7
    assert (facts.encoder, facts.dimension) == ("test:circle", 2)
    assert facts.newest_at == datetime(2025, 1, 23, tzinfo=UTC)
    assert facts.is_word_rule_current


def test_replaced_index_is_noticed(tmp_path):
    path = built(tmp_path / "index.sqlite3", [record(1, "Old")])
    index = IndexFile(path)
    assert index.facts().record_count == 1

    built(path, [record(1, "New"), record(2, "New")])

    assert index.facts().record_count == 2
    index.close()


def test_search_under_way_ends_on_the_index_it_began_with(tmp_path):
    path = built(tmp_path / "index.sqlite3", [record(1, "Old")])
    index = IndexFile(path)

    def replaced_meanwhile(view: IndexView) -> list[str]:
        numbers = view.holding_all_words("old", NO_LIMITS)
        built(path, [record(2, "New")])
        index.facts()  # another search opens the new one
        return ids(view, numbers)

    assert index.use(replaced_meanwhile) == ["2501.00001"]
    assert index.use(lambda view: ids(view, view.holding_all_words("new", NO_LIMITS))) == ["2501.00002"]
    index.close()


def test_many_threads_search_side_by_side(corpus, scanned):
    index, _ = corpus
    expected = {term: scan(scanned, term) for term in TOPICS}

    def found(term: str) -> bool:
        return set(index.use(lambda view: ids(view, view.holding_all_words(term, NO_LIMITS)))) == expected[term]

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(found, TOPICS * 5))


READER = """
import sys
from pathlib import Path
from services.retrieval.index_file import IndexFile, IndexLimits

index, wanted = IndexFile(Path(sys.argv[1])), int(sys.argv[2])
count = 0
while count != wanted:
    found, count = index.use(
        lambda view: (view.papers(view.holding_all_words("word", IndexLimits())), view.facts.record_count)
    )
    assert len(found) == count, (len(found), count)
    print(count, flush=True)
index.close()
"""


def test_two_processes_read_while_a_third_replaces_the_index(tmp_path):
    """Each answer is whole and of one version; both see the last one."""
    path = built(tmp_path / "index.sqlite3", [record(0, "Word")])
    command = [sys.executable, "-c", textwrap.dedent(READER), str(path), "4"]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [reader.stdout.readline() for reader in readers] == ["1\n", "1\n"]
        for count in (2, 3, 4):
            built(path, [record(number, "Word") for number in range(count)])
        outputs = [reader.communicate(timeout=30) for reader in readers]
    finally:
        for reader in readers:
            reader.kill()

    assert [reader.returncode for reader in readers] == [0, 0], outputs
    assert all(output.splitlines()[-1:] == ["4"] for output, _ in outputs)


def test_missing_index_tells_how_to_build_one(tmp_path):
    with pytest.raises(NotReady, match=r"there is none at .* paperroute index build"):
        IndexFile(tmp_path / "missing.sqlite3").facts()


@pytest.mark.parametrize("length", [0, 50, 4_096, 20_000])
def test_file_that_is_no_whole_index_is_told_as_such(tmp_path, length):
    path = built(tmp_path / "index.sqlite3", [record(number, "Word") for number in range(200)])
    cut = tmp_path / "cut.sqlite3"
    cut.write_bytes(path.read_bytes()[:length])

    with pytest.raises(NotReady, match="build it anew"):
        IndexFile(cut).use(lambda view: view.papers(view.holding_all_words("word", NO_LIMITS)))


def test_missing_fts5_is_told_at_the_start(tmp_path, monkeypatch, caplog):
    def lean(_: object) -> None:
        raise NotReady("the local index", "has no FTS5")

    monkeypatch.setattr("services.retrieval.index_schema.require_fts5", lean)

    IndexSource(tmp_path / "index.sqlite3", None)

    assert "the local index: has no FTS5" in caplog.text
