"""The command line as a user runs it: a process, its two streams, its exit status."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner
from google.protobuf.json_format import Parse
from paperroute.v1 import survey_pb2 as pb
from processes import free_ports, paperroute
from pybtex.database import parse_string

from gateway.cli.main import cli

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


def test_a_survey_as_html_is_one_file(tmp_path: Path):
    out = tmp_path / "survey.html"
    done = run("survey", QUESTIONS["rag"], "--source", "sample", "--format", "html", "--out", str(out))

    page = out.read_text(encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "")
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 1
    assert set(re.findall(r"""(?:src|href)=["'](https?://[^/"']+)""", page)) == {"https://arxiv.org"}


def test_quiet_says_nothing_but_problems(tmp_path: Path):
    out, drawn = tmp_path / "survey.md", tmp_path / "route.svg"
    done = run("survey", "RAG evaluation", "--source", "sample", "-q", "--out", str(out), "--map", str(drawn))
    none = run("survey", "quantum chromodynamics", "--source", "sample", "--quiet")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.exists()
    assert drawn.exists()
    assert none.returncode == 1
    assert none.stderr.startswith("paperroute: no paper was found")


def test_events_come_as_json_lines_for_scripts(tmp_path: Path):
    out = tmp_path / "survey.json"
    done = run("survey", "RAG evaluation", "--source", "sample", "--jsonl", "--format", "json", "--out", str(out))

    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert (events[0]["event"], events[-1]["event"]) == ("created", "ended")
    ended = events[-1]
    assert {
        "state": "done",
        "cost_usd": "0",
        "is_priced": True,
        "exit_status": 0,
        "failure": None,
    }.items() <= ended.items()
    stages = [event["stage"] for event in events if event["event"] == "stage_finished"]
    assert sorted(stages) == sorted(["plan", "retrieve", "embed", "order", "summarize", "write", "frame", "assemble"])
    numbers = [event["number"] for event in events if event.get("number")]
    assert numbers == list(range(1, len(numbers) + 1))
    survey = Parse(out.read_text(encoding="utf-8"), pb.Survey())
    texts = {
        (event["chapter_number"], event["section"]["number"]): event["section"]["text"]
        for event in events
        if event["event"] == "section_finished"
    }
    assert texts == {(head.number, each.number): each.text for head in survey.chapters for each in head.sections}
    assert ended["survey_id"] == events[0]["survey_id"] == survey.survey_id


def test_a_failure_is_an_event_too():
    closed = free_ports(1)[0]
    arxiv = {"PAPERROUTE_RETRIEVAL__ARXIV_URL": f"http://127.0.0.1:{closed}/api/query"}
    done = run("survey", "RAG", "--source", "arxiv", "--jsonl", environment=arxiv)

    events = [json.loads(line) for line in done.stdout.splitlines()]
    failure = next(event for event in events if event["event"] == "failed")
    assert (done.returncode, events[-1]["exit_status"]) == (1, 1)
    assert (failure["stage"], failure["service"]) == ("retrieve", "paperroute.v1.RetrievalService")
    assert events[-1]["failure"]["reason"] == failure["reason"]
    assert "stage retrieve failed" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("survey", "RAG evaluation", "--source", "sample", "--jsonl"), id="events"),
        pytest.param(("survey", "RAG evaluation", "--source", "sample"), id="document"),
        pytest.param(("usage",), id="table"),
        pytest.param(("doctor", "--offline"), id="doctor"),
        pytest.param(("--help",), id="help"),
    ],
)
def test_a_reader_who_leaves_ends_it_without_a_word(arguments: tuple[str, ...]):
    """As `| head -1` does, at the worst moment: before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        paperroute(*arguments), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=100, check=False
    )
    os.close(writing)

    assert done.returncode == (1 if arguments == ("--help",) else 141)  # of help, click makes what it makes of it
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_a_survey_that_nobody_reads_is_cancelled():
    """What nobody reads shall not go on to cost."""
    reading, writing = os.pipe()
    os.close(reading)
    subprocess.run(
        paperroute("survey", "RAG evaluation", "--source", "sample", "--jsonl"),
        stdout=writing,
        timeout=100,
        check=False,
    )
    os.close(writing)

    events = run("surveys", "list").stdout
    assert " cancelled " in events


def test_closed_streams_are_no_reason_to_fail(tmp_path: Path):
    out = tmp_path / "survey.md"
    command = paperroute("survey", "RAG evaluation", "--source", "sample", "--out", str(out))
    script = 'exec "$@" <&- >&- 2>&-'
    done = subprocess.run(["/bin/sh", "-c", script, "sh", *command], timeout=100, check=False)

    assert done.returncode == 0
    assert out.read_text().startswith("# ")


def commands(group: click.Group = cli, *above: str) -> list[tuple[str, ...]]:
    """Return every command with the words that call it."""
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        nested = isinstance(command, click.Group)
        found += commands(command, *above, name) if nested else [(*above, name)]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example_that_it_takes(words: tuple[str, ...]):
    if words == ("version",):
        return  # nothing to give an example of
    shown = CliRunner().invoke(cli, [*words, "--help"], prog_name="paperroute", terminal_width=400)

    examples = [line.strip() for line in shown.output.splitlines() if line.startswith("    ") and "paperroute " in line]
    own = [line for line in examples if f"paperroute {' '.join(words)}" in line]
    assert own, shown.output
    for line in own:
        text = line.partition(f"paperroute {' '.join(words)}")[2]
        given = shlex.split(
            re.split(r" [|>#] |\)", text)[0].rstrip(')"') if words[0] == "completion" else text, comments=True
        )
        given = given[: next((at for at, word in enumerate(given) if word in {"|", ">"}), len(given))]
        command: click.Command = cli
        for word in words:
            command = command.commands[word]  # type: ignore[attr-defined]  # groups, but for the last
        with contextlib.suppress(click.BadParameter):  # files of an example that are not here
            command.make_context("paperroute", [word.rstrip(")") for word in given])


def test_the_first_words_cost_nothing_heavy():
    """Help and version answer at once: that is asserted by what they do not import."""
    code = (
        "import sys; from gateway.cli.main import cli\n"
        "for words in (['--help'], ['--version'], ['survey', '--help'], ['surveys', 'show', '--help']):\n"
        "    cli(words, standalone_mode=False)\n"
        "heavy = ('grpc', 'google.protobuf', 'rich', 'pydantic', 'sqlalchemy', 'numpy', 'jinja2', 'starlette',"
        " 'sqlite3', 'paperroute.v1')\n"
        "sys.stderr.write(' '.join(name for name in heavy if name in sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert ended.stderr == ""


def completed(*words: str) -> list[str]:
    """Return what a shell offers for the last word."""
    variables = {
        "_PAPERROUTE_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join(["paperroute", *words])
        if words[-1]
        else f"{shlex.join(['paperroute', *words[:-1]])} ",
        "COMP_CWORD": str(len(words)),
    }
    return [line.partition(",")[2] for line in run(environment=variables).stdout.splitlines() if line]


def test_a_shell_completes_commands_options_and_values():
    assert completed("survey", "--sour") == ["--source"]
    assert completed("survey", "RAG", "--source", "s") == ["sample", "store"]
    assert completed("survey", "RAG", "--ordering", "route") == ["route", "route-annealing"]
    assert completed("survey", "RAG", "--category", "cs.C")[:3] == ["cs.CC", "cs.CE", "cs.CG"]
    assert "extractive:builtin" in completed("survey", "RAG", "--model", "")
    assert completed("surveys", "list", "--state", "can") == ["cancelled"]
    assert completed("completion", "f") == ["fish"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_the_shell_is_printed(shell: str):
    done = run("completion", shell)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"_PAPERROUTE_COMPLETE={shell}_complete" in done.stdout


def test_bash_takes_its_script(tmp_path: Path):
    """The script is run by the shell it is for, with our program in its path."""
    program = tmp_path / "paperroute"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(paperroute())} "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(paperroute completion bash)"; COMP_WORDS=(paperroute surveys sh); COMP_CWORD=2;'
        ' _paperroute_completion paperroute; echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert (done.stdout.strip(), done.stderr) == ("show", "")
