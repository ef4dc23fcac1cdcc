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

from standins.provider_server import REQUESTS_PATH

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

    def requests(self) -> list[dict[str, Any]]:
        """Return what was asked: provider, model, path, started_at (`time.monotonic()`), status, input, output."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"))
        try:
            connection.request("GET", REQUESTS_PATH)
            return list(json.load(connection.getresponse()))
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
