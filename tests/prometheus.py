"""A Prometheus of the tests' own, from Debian's package: on loopback, with its own folder, gone at the end.

Where the program is missing, the tests that want it are skipped; under CI they fail, so that nobody forgets them.
"""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from processes import free_ports

START_TIMEOUT_S = 30
TIMEOUT_S = 30
"""Longest wait for an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prometheus:
    """A server that runs."""

    address: str

    def query(self, expression: str) -> Sequence[Mapping[str, Any]]:
        """Return the samples of an expression now, each with its `metric` (labels) and its `value` (moment, text)."""
        found = self.api("query", query=expression)
        return [{"metric": {}, "value": found["result"]}] if found["resultType"] == "scalar" else found["result"]

    def api(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer; a refusal is raised with its reason."""
        answer = json.loads(self._get(f"/api/v1/{path}?{urlencode(parameters)}")[1])
        if answer["status"] != "success":
            raise ValueError(f"{parameters}: {answer['error']}")
        return answer["data"]

    def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            return self._get("/-/ready")[0] == http.client.OK
        except OSError:
            return False

    def _get(self, target: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_S)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def program(name: str) -> str:
    """Return the path of "prometheus" or "promtool"; a test that asks is skipped, or under CI fails, without it."""
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool and return what it said."""
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def prometheus_server(config: str, home: Path) -> Iterator[Prometheus]:
    """Run a server.

    Args:
        config: its configuration, YAML; files that it names are found from `home`.
        home: empty folder for what it keeps.
    """
    prometheus = program("prometheus")
    (home / "prometheus.yml").write_text(config)
    server = Prometheus(address=f"127.0.0.1:{free_ports(1)[0]}")
    options = {
        "config.file": home / "prometheus.yml",
        "storage.tsdb.path": home / "data",
        "web.listen-address": server.address,
        "log.level": "warn",
    }
    with (home / "log").open("wb") as log:
        command = [prometheus, *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while not server.is_ready():
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < until, (home / "log").read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
