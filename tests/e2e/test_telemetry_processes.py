"""Telemetry of whole processes: switched off it costs nothing, switched on all that is measured leaves the process."""

import asyncio
import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import free_ports
from standins.otlp_collector import otlp_collector

from services.common.settings import ROLES

pytestmark = pytest.mark.timeout(240)
QUESTION = "How is LoRA used for image generation?"
TOLD = "modules: "
PROGRAM = f"""
import atexit, sys
from gateway.cli.main import main
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "prometheus_client")
atexit.register(lambda: print({TOLD!r} + repr([n for n in sys.modules if n.startswith(heavy)]), file=sys.stderr))
main()
"""


@contextlib.asynccontextmanager
async def program(*arguments: str, environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command line; it says at its end what it has imported."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *arguments),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def serving(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True)


async def ended(process: asyncio.subprocess.Process) -> str:
    """Return what a process wrote to standard error, once it has ended well."""
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return err.decode()


async def test_switched_off_no_role_imports_the_sdk():
    async def one(role: str, port: int) -> str:
        listen = f"127.0.0.1:{port}"
        async with program("serve", role, environment={f"PAPERROUTE_{role.upper()}__LISTEN": listen}) as process:
            await serving(listen)
            process.terminate()
            return await ended(process)

    told = await asyncio.gather(*(one(role, port) for role, port in zip(ROLES, free_ports(len(ROLES)), strict=True)))

    assert {role: err.split(TOLD)[1].strip() for role, err in zip(ROLES, told, strict=True)} == dict.fromkeys(
        ROLES, "[]"
    )


async def test_switched_off_a_whole_survey_does_not_import_the_sdk():
    async with program("survey", QUESTION, "--source", "sample", environment={}) as process:
        err = await ended(process)

    assert err.split(TOLD)[1].strip() == "[]"


async def test_a_survey_of_the_command_line_leaves_its_trace_and_its_metrics():
    with otlp_collector() as collector:
        environment = {"PAPERROUTE_OTLP_ENDPOINT": collector.endpoint}
        async with program("survey", QUESTION, "--source", "sample", environment=environment) as process:
            err = await ended(process)

    assert "opentelemetry.sdk" in err.split(TOLD)[1]
    (run,) = [span for span in collector.spans if span.name == "survey.run"]
    assert run.service == "paperroute-embedded"
    assert len([span for span in collector.trace(run.trace_id) if span.name.endswith("/SummarizePaper")]) >= 25
    assert collector.total("paperroute.summaries.pending") == 0
    assert {(point.name, point.value) for point in collector.points if "dropped" in point.name} == {
        ("paperroute.spans.dropped", 0)
    }


async def test_all_roles_in_one_process_are_scraped_and_log_as_json():
    listen, metrics = (f"127.0.0.1:{port}" for port in free_ports(2))
    environment = {
        "PAPERROUTE_GATEWAY__LISTEN": listen,
        "PAPERROUTE_GATEWAY__CONSOLE_LISTEN": "127.0.0.1:0",
        "PAPERROUTE_METRICS_LISTEN": metrics,
        "PAPERROUTE_LOG_FORMAT": "json",
        "PAPERROUTE_LOG_LEVEL": "info",
    }

    def scraped() -> str:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
            return answer.read().decode()

    async with program("up", environment=environment) as process:
        await serving(listen)
        text = await asyncio.to_thread(scraped)
        process.terminate()
        err = await ended(process)

    assert "paperroute_spans_dropped_total" in text
    lines = [json.loads(line) for line in err.split(TOLD)[0].splitlines()]
    assert f"metrics are served on http://{metrics}/metrics" in [line["message"] for line in lines]


async def test_what_cannot_be_used_stops_the_start_in_one_line():
    environment = {"PAPERROUTE_OTLP_ENDPOINT": "collector", "PAPERROUTE_ORDERING__LISTEN": "127.0.0.1:0"}
    async with program("serve", "ordering", environment=environment) as process:
        _, err = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 2
    (line,) = err.decode().split(TOLD)[0].splitlines()
    assert "PAPERROUTE_OTLP_ENDPOINT='collector': host:port" in line
