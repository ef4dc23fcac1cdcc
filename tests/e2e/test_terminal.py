"""The command line under a real terminal: what a person sees while a survey is made and after it."""

import os
import pty
import select
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping

import pyte
import pytest
from processes import paperroute

pytestmark = pytest.mark.timeout(120)
BAR = "━"
LINES = 60


ON_THE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes the terminal the one whose Ctrl-C is heard, which takes a process of its own. This one must not fork for that:
a fork of a process in which grpc runs may never reach its exec."""


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


@pytest.mark.parametrize("columns", [100, 40])
def test_bars_show_every_stage_and_are_gone_at_the_end(terminal, columns: int):
    shown = terminal("survey", "RAG evaluation", "--source", "sample", columns=columns)
    frames = list(shown.frames())

    during = {line.split()[0] for frame in frames for line in frame if BAR in line and line.split()}
    assert {"plan", "retrieve", "embed", "order", "summarize", "write", "frame", "assemble"} <= during
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


def test_no_color_means_no_colour(terminal):
    shown = terminal("survey", "RAG evaluation", "--source", "sample", NO_COLOR="1")
    list(shown.frames())

    cells = [cell for row in shown.screen.buffer.values() for cell in row.values()]
    assert {cell.fg for cell in cells} == {"default"}


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
