"""A gateway is reached by anybody's gRPC client: what reflection tells is all that it needs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import free_ports, paperroute

pytestmark = pytest.mark.timeout(120)
STRANGER = Path(__file__).with_name("stranger.py")
ADMIN_TOKEN = "an-admin-token-of-the-settings"
HELLO = "PaperRoute listens on "


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    """All roles in one process that serves like a gateway; its parameter is the setting `auth`."""
    own = {
        "PAPERROUTE_GATEWAY__AUTH": request.param,
        "PAPERROUTE_GATEWAY__ADMIN_TOKEN": ADMIN_TOKEN if request.param == "tokens" else "",
        "PAPERROUTE_GATEWAY__LISTEN": f"127.0.0.1:{free_ports(1)[0]}",
        "PAPERROUTE_GATEWAY__CONSOLE_LISTEN": "127.0.0.1:0",
    }
    environment = {**os.environ, **{name: value for name, value in own.items() if value}}
    up = subprocess.Popen(paperroute("up"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert up.stdout
        assert up.stdout.readline().startswith(HELLO)
        yield own["PAPERROUTE_GATEWAY__LISTEN"]
    finally:
        up.terminate()
        _, errors = up.communicate(timeout=30)
    assert errors == ""


def asked(address: str, *token: str) -> dict[str, Any]:
    """Return what a stranger learns."""
    ended = subprocess.run(
        [sys.executable, "-I", STRANGER, address, *token], capture_output=True, text=True, timeout=90, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("served", "token"),
    [pytest.param("off", "", id="open"), pytest.param("tokens", "yes", id="tokens")],
    indirect=["served"],
)
def test_a_stranger_makes_watches_and_reads_a_survey(served: str, token: str):
    if token:
        tenants = ("tenants", "create", "strangers"), ("tenants", "tokens", "create", "strangers", "--scope", "write")
        environment = {**os.environ, "PAPERROUTE_TOKEN": ADMIN_TOKEN}
        for command in tenants:
            line = paperroute(*command, "--gateway", served)
            made = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=True)
        token = made.stdout.strip().partition("=")[2]
    learned = asked(served, token)

    assert {f"paperroute.v1.{name}" for name in ("SurveyService", "UsageService", "AdminService")} <= set(
        learned["services"]
    )
    assert learned["methods"]["SurveyService"] == [
        "CreateSurvey",
        "GetSurvey",
        "ListSurveys",
        "WatchSurvey",
        "CancelSurvey",
        "ResumeSurvey",
        "RewriteSection",
        "DeleteSurvey",
        "EstimateSurvey",
    ]
    assert learned["methods"]["UsageService"] == ["QueryUsage"]
    assert "CreateToken" in learned["methods"]["AdminService"]
    numbers = [int(event["number"]) for event in learned["events"] if "number" in event]
    assert numbers == list(range(1, len(numbers) + 1))
    assert learned["events"][-1]["finished"] == {"state": "SURVEY_STATE_DONE"}
    assert learned["survey"]["state"] == "SURVEY_STATE_DONE"
    assert learned["survey"]["coverage"]["keptCount"] == 10
    assert learned["usage"]["total"]["surveyCount"] == "1"
    assert not learned["has_our_modules"]


@pytest.mark.parametrize("served", ["tokens"], indirect=True)
def test_without_a_token_reflection_tells_nothing(served: str):
    assert asked(served) == {"refused": "UNAUTHENTICATED"}
