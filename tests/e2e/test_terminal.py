"""The command line under a real terminal: what a person sees while a survey is made and after it."""

import os
import pty
import re
import select
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import pyte
import pytest
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from processes import paperroute

pytestmark = pytest.mark.timeout(120)
BAR = "━"
LINES = 60
JAPANESE = "動画生成の研究についてサーベイしてください"
STAGES = {"plan", "retrieve", "embed", "order", "summarize", "write", "frame", "assemble"}


ON_THE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes the terminal the one whose Ctrl-C is heard, also where the tests run in the background with it ignored. That
takes a process of its own, and this one must not fork for it: a fork of a process in which grpc runs may never reach
its exec."""


class Terminal:
    """A program in a pseudo-terminal, and the screen as it is drawn."""

    def __init__(self, arguments: list[str], columns: int, environment: Mapping[str, str]) -> None:
        self.screen = pyte.HistoryScreen(columns, LINES, history=5_000)
        self._stream = pyte.ByteStream(self.screen)
        self._ours, theirs = pty.openpty()
        shell = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        termios.tcsetwinsize(theirs, (LINES, columns))
        self.program = subprocess.Popen(
            [sys.executable, "-c", ON_THE_TERMINAL, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**shell, "TERM": "xterm-256color", **environment},
            start_new_session=True,
        )
        os.close(theirs)

    def frames(self) -> Iterator[list[str]]:
        """Draw what comes and yield the lines of the screen after each piece, until the program ends."""
        while piece := self._read():
            self._stream.feed(piece)
            yield [line.rstrip() for line in self.screen.display]
        self.program.wait(30)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._ours, b"\x03")

    def close(self) -> None:
        """End the program, whatever it does."""
        self.program.kill()
        self.program.wait()
        os.close(self._ours)

    def _read(self) -> bytes:
        assert select.select([self._ours], [], [], 60)[0], "nothing was shown for a minute"
        try:
            return os.read(self._ours, 4_096)
        except OSError:  # how Linux says that the other end has been closed
            return b""

    def everything(self) -> list[str]:
        """Return all lines, those that scrolled away first."""
        past = ["".join(row[x].data for x in range(self.screen.columns)).rstrip() for row in self.screen.history.top]
        return past + [line.rstrip() for line in self.screen.display]


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def make(*arguments: str, columns: int = 100, **environment: str) -> Terminal:
        opened.append(Terminal(paperroute(*arguments), columns, environment))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class Unhurried(pb_grpc.SurveyServiceServicer):
    """A gateway that begins a survey and is not heard of any more, not even when it is to stop."""

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def EstimateSurvey(self, request, context):
        return service_pb.EstimateSurveyResponse()

    def CreateSurvey(self, request, context):
        return service_pb.CreateSurveyResponse(survey=pb.Survey(survey_id="one"))

    def WatchSurvey(self, request, context):
        yield service_pb.WatchSurveyResponse(number=1, stage_started=service_pb.StageStarted(stage=pb.STAGE_PLAN))
        self.is_over.wait(60)

    def CancelSurvey(self, request, context):
        self.is_over.wait(60)
        return service_pb.CancelSurveyResponse()


@pytest.fixture
def silent_gateway() -> Iterator[str]:
    servicer = Unhurried()
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_SurveyServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    servicer.is_over.set()
    server.stop(0).wait()


@pytest.mark.parametrize("columns", [100, 40])
def test_bars_show_every_stage_and_are_gone_at_the_end(terminal, columns: int):
    shown = terminal("survey", "RAG evaluation", "--source", "sample", columns=columns)
    frames = list(shown.frames())

    during = {line.split()[0] for frame in frames for line in frame if BAR in line and line.split()}
    assert during >= STAGES
    after = shown.everything()
    assert not [line for line in after if BAR * 3 in line and line.split()[0] in during]
    assert [line for line in after if line.startswith("total ")]
    assert not shown.screen.cursor.hidden
    assert shown.program.returncode == 0


def test_no_line_is_wider_than_a_narrow_terminal(terminal):
    """A bar that wraps leaves a trail of rubbish behind."""
    shown = terminal("survey", "RAG evaluation", "--source", "sample", columns=40)
    for frame in shown.frames():
        bars = [line for line in frame if BAR in line]
        assert len(bars) <= 8 or not bars[0].startswith("plan")

    everything = shown.everything()
    assert len([line for line in everything if line.startswith("plan ")]) == 1, "\n".join(everything)


@pytest.mark.parametrize("wish", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_no_color_means_no_colour(terminal, wish: dict[str, str]):
    shown = terminal("survey", "RAG evaluation", "--source", "sample", **wish)
    list(shown.frames())

    cells = [cell for row in shown.screen.buffer.values() for cell in row.values()]
    assert {cell.fg for cell in cells} == {"default"}


@pytest.mark.parametrize("columns", [80, 40])
def test_columns_stand_under_each_other_whatever_is_in_them(terminal, columns: int):
    """A Japanese character takes two columns; bars and figures must not be moved by it."""
    shown = terminal("survey", JAPANESE, "--source", "sample", columns=columns)
    starts = set()
    for frame in shown.frames():
        bars = [line for line in frame if BAR in line and line.split()[0] in STAGES]
        starts |= {line.index(BAR) for line in bars}

    lines = shown.everything()
    table = lines[next(at for at, line in enumerate(lines) if line.startswith("stage ")) :]
    ends = {len(line) for line in table if line and line.split()[0] in {"stage", "plan", "write", "frame", "total"}}
    assert len(starts) == 1
    assert len(ends) == 1
    assert max(ends) <= columns


@pytest.mark.parametrize("columns", [80, 40])
def test_a_list_of_surveys_cuts_no_id_and_no_cost(terminal, columns: int):
    list(terminal("survey", JAPANESE, "--source", "sample", "--quiet").frames())
    shown = terminal("surveys", "list", columns=columns)
    list(shown.frames())

    lines = [line for line in shown.everything() if line]
    words = " ".join(lines).split()
    assert any(re.fullmatch(r"[0-9a-f]{16}", word) for word in words), lines
    assert "$0.0000" in words
    assert not any("…" in line for line in lines if "$" in line)
    assert lines[0].startswith("survey ")


def test_usage_on_a_narrow_terminal_stands_row_by_row(terminal):
    list(terminal("survey", "RAG evaluation", "--source", "sample", "--quiet").frames())
    shown = terminal("usage", "--by", "stage,model", columns=40)
    list(shown.frames())

    lines = shown.everything()
    assert "model      extractive:builtin" in lines
    assert not any("…" in line for line in lines)


def test_quiet_shows_the_survey_only(terminal):
    shown = terminal("survey", "RAG evaluation", "--source", "sample", "--quiet")
    frames = list(shown.frames())

    assert not any(BAR * 3 in line and line.split()[0] in STAGES for frame in frames for line in frame if line)
    assert not any(line.startswith("total ") for line in shown.everything())
    assert any("RAG evaluation" in line for line in shown.everything())


LOGGING = """
import logging, sys
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from gateway.cli.progress import Progress

logging.basicConfig(format="%(message)s", handlers=[logging.StreamHandler(sys.stderr)])
with Progress() as progress:
    progress.show(service_pb.WatchSurveyResponse(stage_started=service_pb.StageStarted(stage=pb.STAGE_PLAN)))
    logging.warning("while [bold]it[/bold] runs")
    progress.say("said [red]so[/red]")
logging.warning("after it")
"""


def test_what_is_logged_stands_above_the_bars():
    """A line written through the bars would leave some of them behind."""
    shown = Terminal([sys.executable, "-c", LOGGING], 80, {})
    frames = list(shown.frames())
    shown.close()

    assert any(BAR in line for frame in frames for line in frame)
    assert [line for line in shown.everything() if line] == [
        "while [bold]it[/bold] runs",
        "said [red]so[/red]",
        "after it",
    ]


def test_ctrl_c_cancels_the_survey_and_says_so(terminal, silent_port: int):
    shown = terminal(
        *("survey", "RAG", "--source", "arxiv"),
        PAPERROUTE_RETRIEVAL__ARXIV_URL=f"http://127.0.0.1:{silent_port}/api/query",
    )
    interrupted = False
    for frame in shown.frames():
        if not interrupted and any(line.startswith("retrieve") and BAR in line for line in frame):
            shown.interrupt()
            interrupted = True

    assert interrupted
    assert shown.program.returncode == 130
    assert "paperroute: the survey was cancelled" in shown.everything()
    assert not any("Traceback" in line for line in shown.everything()), "\n".join(shown.everything())


def test_a_second_ctrl_c_leaves_at_once(terminal, silent_gateway: str):
    """Also where the gateway does not answer to the first one."""
    shown = terminal("survey", "RAG", "--gateway", silent_gateway)
    pressed = 0
    for frame in shown.frames():
        if pressed == 0 and any(line.startswith("plan") and BAR in line for line in frame):
            shown.interrupt()
            pressed = 1
        if pressed == 1 and any("press Ctrl-C again" in line for line in frame):
            shown.interrupt()
            pressed = 2

    lines = shown.everything()
    assert (pressed, shown.program.returncode) == (2, 130)
    assert any(line.startswith("paperroute: left at once") for line in lines)
    assert not any("Traceback" in line for line in lines), "\n".join(lines)
    assert not shown.screen.cursor.hidden


def test_ctrl_c_before_anything_has_begun_ends_it(terminal):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        shown = terminal("survey", "RAG", "--gateway", f"127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
        shown.interrupt()
        list(shown.frames())
        connection.close()

    assert shown.program.returncode == 130, "\n".join(shown.everything())
    assert not any("Traceback" in line for line in shown.everything())
