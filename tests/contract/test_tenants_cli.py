"""`paperroute tenants ...` against a gateway: what it prints, and what it says when it may not."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificate
from click.testing import CliRunner
from paperroute.v1 import admin_service_pb2 as pb
from replicas import ADMIN_TOKEN, Replica, replica
from survey_rows import Gateways

from gateway.cli import tenant_admin
from gateway.cli.tenant_admin import Limits
from gateway.cli.tenants import tenants
from services.common.server import Protection
from services.common.settings import SettingsError
from services.common.tls import ServerTls

UNCHANGED = Limits(max_running=None, max_queued=None, max_month_cost=None, models=None, max_requests_per_s=None)


def limits(**given: Any) -> Limits:
    return Limits(**{name: given.get(name) for name in Limits.__dataclass_fields__})


@pytest.fixture
async def served(file_gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    monkeypatch.setenv("PAPERROUTE_TOKEN", ADMIN_TOKEN)
    async with replica(file_gateways.database, max_requests_per_s=1_000) as made:
        yield made


async def test_a_tenant_is_set_up_changed_and_listed(served: Replica, capsys: pytest.CaptureFixture[str]):
    address = served.host.address
    given = limits(max_running=3, max_month_cost="$12.5", models="openai:*, extractive:builtin")
    assert await tenant_admin.create_tenant(address, "vision", given, is_json=False) == 0
    assert await tenant_admin.update_tenant(address, "vision", limits(max_queued=7), is_json=False) == 0
    capsys.readouterr()

    assert await tenant_admin.list_tenants(address, is_json=True) == 0

    (tenant,) = json.loads(capsys.readouterr().out)["tenants"]
    assert tenant["maxRunningSurveys"] == 3  # what was not given stays
    assert tenant["maxQueuedSurveys"] == 7
    assert tenant["maxMonthCostNanoUsd"] == "12500000000"
    assert tenant["allowedModels"] == ["openai:*", "extractive:builtin"]

    assert await tenant_admin.list_tenants(address, is_json=False) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["tenant", "running", "queued"]
    assert row.split()[:3] == ["vision", "3", "7"]
    assert "$12.50" in row


async def test_an_empty_limit_is_the_gateways_again(served: Replica, capsys: pytest.CaptureFixture[str]):
    address = served.host.address
    given = limits(max_running=3, max_month_cost="1", models="openai:*", max_requests_per_s=2.5)
    await tenant_admin.create_tenant(address, "vision", given, is_json=True)
    capsys.readouterr()

    none = limits(max_running=0, max_month_cost="", models="", max_requests_per_s=0)
    assert await tenant_admin.update_tenant(address, "vision", none, is_json=True) == 0

    tenant = json.loads(capsys.readouterr().out)["tenant"]
    assert (tenant["maxRunningSurveys"], tenant["allowedModels"], tenant["maxRequestsPerS"]) == (0, [], 0)
    assert "maxMonthCostNanoUsd" not in tenant


async def test_a_secret_is_printed_once_as_a_line_for_the_shell(served: Replica, capsys: pytest.CaptureFixture[str]):
    await served.tenant("vision")
    address = served.host.address
    for make in (
        tenant_admin.create_token(address, "vision", "write", "ci", datetime(2999, 1, 2, tzinfo=UTC), is_json=False),
        tenant_admin.rotate_token(address, await token_id(served), 0, is_json=False),
    ):
        assert await make == 0
        printed = capsys.readouterr()
        assert re.fullmatch(r"export PAPERROUTE_TOKEN=pr_[A-Za-z0-9_-]{43}\n", printed.out)
        assert "pr_" not in printed.err
        assert "cannot be shown again" in printed.err


async def token_id(served: Replica) -> str:
    return (await served.token("vision")).token.token_id


async def test_tokens_are_listed_with_what_became_of_them(served: Replica, capsys: pytest.CaptureFixture[str]):
    await served.tenant("vision")
    address = served.host.address
    made = await served.token("vision", pb.TOKEN_SCOPE_WRITE, name="[bold]ci\x1b[31m")
    assert await tenant_admin.revoke_token(address, made.token.token_id, is_json=False) == 0
    assert "revoked" in capsys.readouterr().out

    assert await tenant_admin.list_tokens(address, "vision", is_json=False) == 0
    (_, line) = capsys.readouterr().out.splitlines()
    # A name is text: it neither formats the table nor the terminal.
    assert line.split()[:5] == [made.token.token_id, "vision", "[bold]ci[31m", "write", "revoked"]

    assert await tenant_admin.list_tokens(address, "vision", is_json=True) == 0
    assert made.secret not in capsys.readouterr().out


async def test_what_was_done_is_printed_over_all_pages(
    served: Replica, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tenant_admin, "PAGE_SIZE", 2)
    for name in "abcde":
        await served.tenant(name)
    address = served.host.address

    assert await tenant_admin.show_audit(address, "", 4, is_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["to", "e", "d", "c", "b"]
    assert "create tenant" in lines[1]

    assert await tenant_admin.show_audit(address, "", 100, is_json=True) == 0
    assert [event["subject"] for event in json.loads(capsys.readouterr().out)["events"]] == list("edcba")


async def test_all_bad_arguments_are_named_as_they_were_given(served: Replica, capsys: pytest.CaptureFixture[str]):
    bad = limits(max_running=10_001, max_queued=100_001, max_month_cost="much", models="a b", max_requests_per_s=-1.0)

    assert await tenant_admin.create_tenant(served.host.address, "No Name", bad, is_json=False) == 2

    named = [line.split(":")[1].strip() for line in capsys.readouterr().err.splitlines()]
    assert named == ["TENANT", "--max-running", "--max-queued", "--max-month-cost", "--models", "--max-requests-per-s"]


async def test_a_refusal_says_why_and_what_to_do(
    served: Replica, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    address = served.host.address
    assert await tenant_admin.update_tenant(address, "nobody", UNCHANGED, is_json=False) == 1
    assert "NOT_FOUND: no tenant 'nobody'" in capsys.readouterr().err
    monkeypatch.setenv("PAPERROUTE_TOKEN", "a-token-that-nobody-gave-out")
    assert await tenant_admin.list_tenants(address, is_json=False) == 1
    printed = capsys.readouterr().err
    assert "UNAUTHENTICATED" in printed
    assert "set PAPERROUTE_TOKEN" in printed


async def test_a_token_does_not_leave_the_machine_in_plain_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_TOKEN", ADMIN_TOKEN)
    with pytest.raises(SettingsError, match="PAPERROUTE_CA"):
        await tenant_admin.list_tenants("gateway.example:443", is_json=False)


async def run(address: str, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run the commands as a process of their own."""
    code = "from gateway.cli.tenants import tenants; tenants()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *arguments, "--gateway", address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_from_the_first_admin_to_a_token_in_use_over_an_encrypted_port(
    file_gateways: Gateways, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The way an operator goes: the commands themselves, the variables they read, the line they print."""
    authority = Certificate.authority()
    cert, key = authority.sign().write(tmp_path / "gateway")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    protection = Protection(tls=ServerTls(cert=cert, key=key, prefix="PAPERROUTE_GATEWAY__TLS_"))
    async with replica(file_gateways.database, protection=protection) as served:
        address, ca = served.host.address, {"PAPERROUTE_CA": str(tmp_path / "ca.pem")}
        admin = {**ca, "PAPERROUTE_TOKEN": ADMIN_TOKEN}
        made = await run(address, "create", "vision", "--max-running", "2", **admin)
        token = await run(address, "tokens", "create", "vision", "--scope", "read", **admin)
        name, _, secret = token[1].removeprefix("export ").strip().partition("=")
        rotated = await run(address, "tokens", "rotate", **ca, **{name: secret})
        refused = await run(address, "tokens", "rotate", **ca, **{name: secret})
        bad = await run(address, "list", PAPERROUTE_CA="nowhere.pem")

    assert (made[0], token[0], rotated[0], refused[0], bad[0]) == (0, 0, 0, 1, 2), (made, token, rotated, refused, bad)
    assert "UNAUTHENTICATED" in refused[2]
    assert bad[2].startswith("paperroute: PAPERROUTE_CA='nowhere.pem': cannot be read")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["tokens", "create", "vision"], id="no scope"),
        pytest.param(["tokens", "create", "vision", "--scope", "all"], id="no such scope"),
        pytest.param(["tokens", "create", "vision", "--scope", "read", "--expires", "tomorrow"], id="no day"),
        pytest.param(["create"], id="no tenant"),
        pytest.param(["update", "vision", "--max-running", "-1"], id="negative"),
        pytest.param(["update", "vision", "--max-running", str(2**40)], id="beyond what a message holds"),
        pytest.param(["audit", "--limit", "0"], id="nothing to print"),
    ],
)
def test_arguments_that_no_request_can_hold_are_refused_by_name(arguments: list[str]):
    assert CliRunner().invoke(tenants, arguments).exit_code == 2


def test_help_needs_nothing_heavy():
    """The command line answers at once."""
    code = (
        "import sys; from gateway.cli.tenants import tenants; "
        "print([name for name in ('grpc', 'rich', 'google.protobuf', 'sqlalchemy') if name in sys.modules])"
    )
    import subprocess

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
