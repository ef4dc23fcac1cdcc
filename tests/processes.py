"""Roles as processes of their own, as a cluster runs them: real command line, real ports, real signals."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.settings import ROLES

START_TIMEOUT_S = 60


def paperroute(*arguments: str) -> list[str]:
    """Return the command line that runs our own program in this interpreter."""
    return [sys.executable, "-c", "from gateway.cli.main import main; main()", *arguments]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now.

    They lie below those the system gives to outgoing connections, or one of these could take a port before its role.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


class Cluster:
    """One process a role, each on a port of its own; a role can be stopped, killed and started again."""

    def __init__(self, data_dir: Path, extra: Mapping[str, str]) -> None:
        self.addresses = {role: f"127.0.0.1:{port}" for role, port in zip(ROLES, free_ports(len(ROLES)), strict=True)}
        self._data_dir = data_dir
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
        self._environment = {**inherited, **extra, "PAPERROUTE_DATA_DIR": str(data_dir)}
        for role, address in self.addresses.items():
            self._environment[f"PAPERROUTE_{role.upper()}__LISTEN"] = address
            if role != "gateway":
                self._environment[f"PAPERROUTE_GATEWAY__{role.upper()}"] = address
        self._environment["PAPERROUTE_RETRIEVAL__EMBEDDING"] = self.addresses["embedding"]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self, roles: Sequence[str] = ROLES) -> None:
        """Start roles and wait until each says that it serves."""
        for role in roles:
            with (self._data_dir / f"{role}.log").open("ab") as log:
                self._processes[role] = subprocess.Popen(
                    paperroute("serve", role), env=self._environment, stdout=log, stderr=log
                )
        for role in roles:
            await self._serving(role)

    async def stop(self, role: str, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status once the process has ended."""
        process = self._processes.pop(role)
        process.send_signal(number)
        return await asyncio.to_thread(process.wait, 30)

    async def close(self) -> None:
        """End every process."""
        for role in list(self._processes):
            await self.stop(role, signal.SIGKILL)

    def log(self, role: str) -> str:
        """Return what a role wrote."""
        return (self._data_dir / f"{role}.log").read_text()

    async def _serving(self, role: str) -> None:
        async with grpc.aio.insecure_channel(self.addresses[role]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S, wait_for_ready=True)
            except grpc.aio.AioRpcError as failure:
                raise AssertionError(f"{role} does not serve:\n{self.log(role)}") from failure
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
