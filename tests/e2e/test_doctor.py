"""`paperroute doctor`: what it finds in folders and services that are really there, and that it shows no key."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes import Fakes, papers
from gateways import Gateway, gateway_with
from processes import paperroute
from standins.arxiv_server import ArxivStandIn

from gateway.cli.doctor import machine
from services.common.settings import SharedSettings

pytestmark = pytest.mark.timeout(120)
KEY = "sk-never-to-be-shown-anywhere"


def doctor(data_dir: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, tuple[str, str]], str]:
    """Return the exit status, health and finding by what was looked at, and all that was printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
    ended = subprocess.run(
        paperroute("doctor", "--json", *arguments),
        env={**inherited, "PAPERROUTE_DATA_DIR": str(data_dir), **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    told = {each["what"]: (each["health"], f"{each['found']} | {each['advice']}") for each in found}
    return ended.returncode, told, ended.stdout + ended.stderr


def test_a_new_machine_has_no_problem_and_is_told_what_it_could_have(tmp_path: Path):
    status, told, _ = doctor(tmp_path / "new", "--offline")

    assert status == 0
    assert told["data folder"][0] == told["database"][0] == told["settings"][0] == "ok"
    assert told["provider keys"][0] == "note"
    assert "paperroute index build" in told["local index"][1]
    assert "arXiv" not in told
    assert not (tmp_path / "new").exists()


def test_keys_are_looked_for_and_never_shown(tmp_path: Path):
    _, told, printed = doctor(tmp_path, "--offline", OPENAI_API_KEY=KEY, PAPERROUTE_ANTHROPIC__API_KEY=KEY)

    assert "OPENAI_API_KEY, PAPERROUTE_ANTHROPIC__API_KEY" in told["provider keys"][1]
    assert KEY not in printed


def test_a_model_without_its_key_is_a_problem(tmp_path: Path):
    status, told, _ = doctor(tmp_path, "--offline", PAPERROUTE_MODELS__WRITE="anthropic:claude-sonnet-5-5")

    health, finding = told["model anthropic:claude-sonnet-5-5"]
    assert (status, health) == (1, "problem")
    assert "ANTHROPIC_API_KEY" in finding


def test_every_bad_variable_is_named_and_the_rest_is_looked_at(tmp_path: Path):
    status, told, _ = doctor(tmp_path, "--offline", PAPERROUTE_LOGLEVEL="info", PAPERROUTE_RETRIEVAL__FRESH_S="soon")

    assert status == 1
    assert "did you mean PAPERROUTE_LOG_LEVEL" in told["PAPERROUTE_LOGLEVEL"][1]
    assert told["PAPERROUTE_RETRIEVAL__FRESH_S"][0] == "problem"
    assert told["database"][0] == "ok"


def test_a_damaged_database_is_a_problem_with_advice(tmp_path: Path):
    (tmp_path / "gateway.sqlite3").write_bytes(b"no database" * 1_000)
    status, told, _ = doctor(tmp_path, "--offline")

    assert (status, told["database"][0]) == (1, "problem")
    assert "bring a backup back" in told["database"][1]


def test_a_folder_that_others_may_read_is_a_warning(tmp_path: Path):
    tmp_path.chmod(0o755)

    healths = [finding.health.value for finding in machine.check_data_folder(SharedSettings(data_dir=tmp_path))]
    assert healths == ["ok", "warning"]


def test_a_configured_service_that_does_not_run_is_a_problem(tmp_path: Path):
    status, told, _ = doctor(tmp_path, "--offline", PAPERROUTE_GATEWAY__ORDERING="127.0.0.1:1")

    assert (status, told["service ordering"][0]) == (1, "problem")
    assert "paperroute serve ordering" in told["service ordering"][1]


def test_a_vector_server_that_does_not_answer_is_a_problem(tmp_path: Path):
    status, told, _ = doctor(tmp_path, "--offline", PAPERROUTE_EMBEDDING__STORE="http://127.0.0.1:1")

    assert (status, told["vector store"][0]) == (1, "problem")


async def test_arxiv_is_asked_once_and_politely(tmp_path: Path):
    async with ArxivStandIn([]) as server:
        status, told, _ = await _beside(doctor, tmp_path, PAPERROUTE_RETRIEVAL__ARXIV_URL=server.url)
        asked = len(server.requests)

    assert (status, told["arXiv"][0], asked) == (0, "ok", 1)


def test_arxiv_out_of_reach_is_a_warning_with_other_sources(tmp_path: Path):
    status, told, _ = doctor(tmp_path, PAPERROUTE_RETRIEVAL__ARXIV_URL="http://127.0.0.1:1/api/query")

    assert (status, told["arXiv"][0]) == (0, "warning")
    assert "--source index" in told["arXiv"][1]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_with(Fakes(found=papers(1)), tmp_path / "gateway", auth="tokens") as running:
        yield running


async def test_a_gateway_is_asked_with_the_token(gateway: Gateway, tmp_path: Path):
    status, told, _ = await _beside(doctor, tmp_path, "--gateway", gateway.address)
    there = told[f"gateway {gateway.address}"]
    _, nobody, _ = await _beside(doctor, tmp_path, "--gateway", "127.0.0.1:1")

    assert (status, there[0]) == (1, "problem")
    assert "PAPERROUTE_TOKEN" in there[1]
    assert "paperroute up" in nobody["gateway 127.0.0.1:1"][1]


async def _beside(check, *arguments, **environment):
    return await asyncio.to_thread(lambda: check(*arguments, **environment))
