"""The stand-in for the model providers in a process of its own, so that a benchmark does not share its time.

with provider_process("--latency-s", "0.5") as provider:
    ...                                     # point SDKs at provider.openai_url, .anthropic_url, .gemini_url
    assert {each["status"] for each in provider.requests()} == {200}
"""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standins.provider_server import HOLD_PATH, REQUESTS_PATH

TIMEOUT_S = 120
"""Longest wait for what a model is asked."""
_TESTS = Path(__file__).parents[1]
_MAIN = Path(__file__).with_name("provider_main.py")


@dataclass(frozen=True, slots=True)
class ProviderProcess:
    """A stand-in that runs."""

    url: str

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        return self.url

    @property
    def gemini_url(self) -> str:
        return self.url

    def requests(self, model: str = "", asked: int = 0, answered: int = 0) -> list[dict[str, Any]]:
        """Return what was asked, as soon as a model was asked so many times and has answered so many of them.

        Of each request: provider, model, path, started_at (`time.monotonic()`), status, answer_id, digest, and the
        tokens input, cached, cache_write, output, reasoning.
        """
        return list(self._asked("GET", f"{REQUESTS_PATH}?model={model}&asked={asked}&answered={answered}"))

    def hold(self, model: str, after: int) -> None:
        """Let a model answer so many more requests and hold back the answers to all that come then."""
        self._asked("POST", f"{HOLD_PATH}?model={model}&after={after}")

    def release(self, model: str) -> None:
        """Let a model answer what it holds back, and whatever comes."""
        self._asked("POST", f"{HOLD_PATH}?model={model}")

    def _asked(self, method: str, path: str) -> Any:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=TIMEOUT_S)
        try:
            connection.request(method, path)
            return json.load(connection.getresponse())
        finally:
            connection.close()


@contextlib.contextmanager
def provider_process(*arguments: str) -> Iterator[ProviderProcess]:
    """Run the stand-in; `arguments` are those of provider_main.py. It is ended at the end."""
    command = [sys.executable, str(_MAIN), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(_TESTS)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout
        url = child.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the stand-in ended with status {child.wait()}")
        yield ProviderProcess(url)
    finally:
        child.terminate()
        child.communicate()
