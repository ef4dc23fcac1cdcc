"""The command line as a user runs it: a process, its two streams, its exit status."""

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
from google.protobuf.json_format import Parse
from paperroute.v1 import survey_pb2 as pb
from processes import free_ports, paperroute
from pybtex.database import parse_string

pytestmark = pytest.mark.timeout(120)
QUESTIONS = json.loads((Path(__file__).parent / "questions.json").read_text())
SAMPLE = Path(__file__).parents[2] / "services/retrieval/sample_library.jsonl"
ESCAPE = "\x1b"


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        paperroute(*arguments),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def survey_json(question: str) -> pb.Survey:
    done = run("survey", question, "--source", "sample", "--format", "json")
    assert done.returncode == 0, done.stderr
    return Parse(done.stdout, pb.Survey())


def test_a_japanese_question_becomes_a_survey_in_japanese():
    survey = survey_json(QUESTIONS["lora"])

    assert survey.state == pb.SURVEY_STATE_DONE
    assert survey.coverage.kept_count >= 25
    assert survey.coverage.cited_count + survey.coverage.listed_count == survey.coverage.kept_count
    assert survey.coverage.unknown_key_count == 0
    text = "".join(section.text for chapter in survey.chapters for section in chapter.sections) + survey.introduction
    assert not re.search(r"(?<!\\)\[P\d", text)
    for part in (survey.title, survey.introduction, survey.closing, *(chapter.text for chapter in survey.chapters)):
        assert re.search(r"[ぁ-んァ-ヶ]", part), part


@pytest.mark.parametrize("topic", ["video", "splatting", "rag"])
def test_questions_about_the_sample_library_give_surveys(topic: str):
    survey = survey_json(QUESTIONS[topic])

    assert survey.state == pb.SURVEY_STATE_DONE
    assert survey.coverage.kept_count >= 10
    assert len(survey.chapters) >= 3 or survey.coverage.kept_count <= 12


def test_markdown_links_lead_to_papers_of_the_sample_library_only():
    done = run("survey", "What are the recent trends around LoRA for image generation?", "--source", "sample")
    records = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    versions = {each["id"]: f"v{each['version']}" if each["version"] else "" for each in records}
    known = {f"https://arxiv.org/abs/{paper_id}{version}" for paper_id, version in versions.items()}

    addresses = set(re.findall(r"\]\((.*?)\)", done.stdout))
    assert done.returncode == 0, done.stderr
    assert len(addresses) >= 25
    assert addresses <= known
    assert "http" not in re.sub(r"\]\(.*?\)", "", done.stdout)


def test_piped_output_is_plain_and_about_the_survey_stands_on_standard_error():
    done = run("survey", "RAG evaluation", "--source", "sample")

    assert ESCAPE not in done.stdout + done.stderr
    assert done.stdout.startswith("# ")
    for stage in ("plan", "retrieve", "embed", "order", "summarize", "write", "frame", "assemble", "total"):
        assert re.search(rf"^{stage} ", done.stderr, re.MULTILINE), stage


def test_a_file_gets_the_survey_and_standard_output_stays_empty(tmp_path: Path):
    out = tmp_path / "survey.md"
    done = run("survey", "RAG evaluation", "--source", "sample", "--out", str(out))

    assert (done.returncode, done.stdout) == (0, "")
    assert out.read_text().startswith("# ")


def test_the_route_is_drawn_into_a_file(tmp_path: Path):
    drawn = tmp_path / "route.svg"
    done = run("survey", "RAG evaluation", "--source", "sample", "--map", str(drawn))

    root = ElementTree.fromstring(drawn.read_text())
    marks = root.findall("{http://www.w3.org/2000/svg}a")
    assert f"{len(marks)} papers kept" in done.stderr
    assert f"written to {drawn}" in done.stderr


def test_references_come_as_bibtex():
    done = run("survey", "RAG evaluation", "--source", "sample", "--format", "bib")

    entries = parse_string(done.stdout, "bibtex").entries
    assert done.returncode == 0, done.stderr
    assert f"{len(entries)} papers kept" in done.stderr
    assert all(entry.fields["archiveprefix"] == "arXiv" for entry in entries.values())


def test_a_file_that_cannot_be_written_loses_nothing(tmp_path: Path):
    out = tmp_path / "survey.md"
    out.mkdir()
    done = run("survey", "RAG evaluation", "--source", "sample", "--out", str(out / ".."))

    assert done.returncode == 2
    missing = run("survey", "RAG evaluation", "--source", "sample", "--out", "/proc/survey.md")
    assert "cannot be written" in missing.stderr
    assert missing.stdout.startswith("# ")


def test_every_broken_option_is_named_in_a_line_of_its_own():
    done = run(
        *("survey", "", "--source", "moon", "--ordering", "alphabetical", "--language", "xx"),
        *("--max-papers", "501", "--as-of", "2999-01-01", "--match", "some", "--cap-by", "size"),
        *("--category", "cs CV", "--published-from", "yesterday"),
    )

    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert {line.split(": ")[1] for line in lines} == {
        "QUESTION",
        "--source",
        "--ordering",
        "--language",
        "--max-papers",
        "--as-of",
        "--match",
        "--cap-by",
        "--category",
        "--published-from",
    }
    assert len(lines) == 10
    assert "one of auto, arxiv, sample, index, store, not 'moon'" in done.stderr


@pytest.mark.parametrize("number", ["1", "0", "-5", "99999999999"])
def test_a_number_of_papers_out_of_range_is_refused(number: str):
    done = run("survey", "RAG", "--max-papers", number)

    assert done.returncode == 2
    assert "--max-papers: 2 to 500" in done.stderr


def test_nothing_found_says_what_was_tried_and_invents_nothing():
    done = run("survey", "quantum chromodynamics on the lattice", "--source", "sample")

    assert (done.returncode, done.stdout) == (1, "")
    assert "no paper was found in sample" in done.stderr
    assert "quantum chromodynamics" in done.stderr


def test_arxiv_that_cannot_be_reached_says_what_else_to_try():
    closed = free_ports(1)[0]
    done = run("survey", "RAG", environment={"PAPERROUTE_RETRIEVAL__ARXIV_URL": f"http://127.0.0.1:{closed}/api/query"})

    assert done.returncode == 1
    assert "stage retrieve failed: paperroute.v1.RetrievalService" in done.stderr
    assert "--source sample" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gateway_that_is_not_there_says_how_to_start_one():
    done = run("survey", "RAG", "--gateway", f"127.0.0.1:{free_ports(1)[0]}")

    assert done.returncode == 1
    assert "paperroute up" in done.stderr


def test_a_bad_setting_stops_the_start_by_its_name():
    done = run("serve", "ordering", environment={"PAPERROUTE_ORDERING__LISTENS": "x", "PAPERROUTE_DATADIR": "y"})

    assert done.returncode == 2
    assert "PAPERROUTE_" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_surveys_at_once_share_a_data_folder():
    """A second terminal must not fail because the first one holds the vector store."""
    running = [
        subprocess.Popen(
            paperroute("survey", question, "--source", "sample", "--format", "json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for question in ("RAG evaluation", "video generation")
    ]
    for process in running:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert json.loads(output)["state"] == "SURVEY_STATE_DONE"


def test_the_second_survey_reads_its_vectors_from_the_store():
    run("survey", "RAG evaluation", "--source", "sample")
    survey = survey_json("RAG evaluation")

    embed = next(stage for stage in survey.stages if stage.stage == pb.STAGE_EMBED)
    assert embed.cached_count == embed.paper_count > 0
    assert sum(usage.call_count for usage in embed.usage) == 0


def test_up_serves_surveys_until_a_signal():
    port = free_ports(1)[0]
    own = {"PAPERROUTE_GATEWAY__LISTEN": f"127.0.0.1:{port}", "PAPERROUTE_GATEWAY__CONSOLE_LISTEN": "127.0.0.1:0"}
    environment = {**os.environ, **own}
    up = subprocess.Popen(paperroute("up"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = up.stdout.readline()
    assert f"127.0.0.1:{port}" in said
    with urllib.request.urlopen(said.rsplit(maxsplit=1)[-1], timeout=10) as page:  # noqa: S310  # our own
        assert "Ask a question" in page.read().decode()

    done = run("survey", "RAG evaluation", "--source", "sample", "--gateway", f"127.0.0.1:{port}")
    up.send_signal(signal.SIGTERM)
    _, errors = up.communicate(timeout=30)

    assert done.returncode == 0, done.stderr
    assert (up.returncode, errors) == (0, "")


def test_an_option_that_fills_several_fields_is_named_once():
    done = run("survey", "LoRA", "--model", "gpt")

    assert done.returncode == 2
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["--model"]
