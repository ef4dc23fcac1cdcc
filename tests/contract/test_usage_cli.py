"""`paperroute usage`: a table for people, JSON and CSV for programs, of what a real gateway kept."""

import asyncio
import csv
import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from fakes import MODEL, Fakes, papers
from gateways import Gateway, gateway_with
from paperroute.v1 import usage_pb2
from processes import paperroute

TIMEOUT_S = 60


@pytest.fixture
async def gateway(tmp_path: Path):
    """A gateway that has kept two surveys of two teams, one of which has a name that looks like a formula."""
    async with gateway_with(Fakes(found=papers(3)), tmp_path) as made:
        for team in ("search", "=HYPERLINK(1)"):
            await made.finished(labels={"team": team})
        yield made


async def run(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
    command = paperroute("usage", *arguments, "--gateway", gateway.address)
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


async def test_a_table_has_a_row_for_each_group_and_their_sum(gateway: Gateway):
    done = await run(gateway, "--by", "stage,model")

    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stderr
    assert lines["summarize"][1:5] == ["fake:writer", "2", "6", "60"]
    assert "unpriced" in lines["frame"]
    assert lines["total"][1:3] == ["2", "12"]


async def test_what_the_ledger_served_is_shown_with_its_share(tmp_path: Path):
    served = usage_pb2.ModelUsage(
        model=MODEL, call_count=1, served_call_count=3, served_input_tokens=30, avoided_cost_nano_usd=2_500_000_000
    )
    async with gateway_with(Fakes(found=papers(1), section_usage=served), tmp_path) as gateway:
        await gateway.finished()
        table = await run(gateway, "--stage", "write")
        rows = await run(gateway, "--stage", "write", "--csv")

    assert table.stdout.splitlines()[1].split()[:4] == ["1", "1", "75", "%"]
    assert table.stdout.split()[-1] == "$2.5000"
    (row,) = csv.DictReader(io.StringIO(rows.stdout))
    assert (row["call_count"], row["served_call_count"], row["served_input_tokens"]) == ("1", "3", "30")


async def test_csv_defuses_what_a_spreadsheet_would_run(gateway: Gateway):
    done = await run(gateway, "--by", "label:team", "--csv")

    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert set(rows) == {"search", "'=HYPERLINK(1)"}
    assert rows["search"]["cost_usd"] == "0.000000035"
    assert rows["search"]["unpriced_call_count"] == "1"


async def test_json_is_the_answer_of_the_gateway(gateway: Gateway):
    done = await run(gateway, "--json", "--label", "team=search", "--stage", "write")

    answer = json.loads(done.stdout)
    assert answer["total"]["surveyCount"] == "1"
    assert answer["total"]["callCount"] == "1"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(("--by", "colour"), "--by: ", id="group"),
        pytest.param(("--stage", "dream"), "--stage: ", id="stage"),
        pytest.param(("--by", "label"), "--by: ", id="label without key"),
        pytest.param(("--from", "2026-11-02", "--to", "2026-11-01"), "--", id="no time"),
    ],
)
async def test_what_cannot_be_asked_is_told_by_its_option(gateway: Gateway, arguments: tuple[str, ...], line: str):
    done = await run(gateway, *arguments)

    if arguments[0] == "--from":  # an empty time is no mistake: nothing is in it
        assert done.returncode == 0
        return
    assert done.returncode == 2
    assert done.stderr.startswith(f"paperroute: {line}")
