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
_SOON = [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")]
"""Looks often whether a process serves."""


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
    """One process a role, each on a port of its own; a role can be stopped, killed and started again.

    A process goes by the name of its role; further gateways are "gateway-2", "gateway-3".
    """

    def __init__(
        self, data_dir: Path, extra: Mapping[str, str], *, gateways: int = 1, has_metrics: bool = False
    ) -> None:
        """Name the processes; none is started yet.

        Args:
            data_dir: of all of them; their logs are there too.
            extra: variables of all of them, such as PAPERROUTE_DATABASE_URL.
            gateways: how many gateways there are.
            has_metrics: whether each can be scraped, at its address in `metrics`.
        """
        names = [*ROLES, *(f"gateway-{number}" for number in range(2, gateways + 1))]
        listening = [f"127.0.0.1:{port}" for port in free_ports(2 * len(names))]
        self.addresses = dict(zip(names, listening[: len(names)], strict=True))
        self.metrics = dict(zip(names, listening[len(names) :], strict=True)) if has_metrics else {}
        self._data_dir = data_dir
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PAPERROUTE_")}
        self._environment = {**inherited, **extra, "PAPERROUTE_DATA_DIR": str(data_dir)}
        for role in ROLES:
            if role != "gateway":
                self._environment[f"PAPERROUTE_GATEWAY__{role.upper()}"] = self.addresses[role]
        for role in ("RETRIEVAL", "GENERATION"):
            self._environment[f"PAPERROUTE_{role}__EMBEDDING"] = self.addresses["embedding"]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self, names: Sequence[str] = ROLES) -> None:
        """Start processes and wait until each says that it serves."""
        for name in names:
            role = name.partition("-")[0]
            own = {f"PAPERROUTE_{role.upper()}__LISTEN": self.addresses[name]}
            if name in self.metrics:
                own["PAPERROUTE_METRICS_LISTEN"] = self.metrics[name]
            with (self._data_dir / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    paperroute("serve", role), env={**self._environment, **own}, stdout=log, stderr=log
                )
        for name in names:
            await self._serving(name)

    def freeze(self, name: str) -> None:
        """Let a process stand still: it takes connections and answers nothing."""
        self._processes[name].send_signal(signal.SIGSTOP)

    async def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status once the process has ended."""
        process = self._processes.pop(name)
        process.send_signal(number)
        return await asyncio.to_thread(process.wait, 30)

    async def close(self) -> None:
        """End every process."""
        for name in list(self._processes):
            await self.stop(name, signal.SIGKILL)

    def log(self, name: str) -> str:
        """Return what a process wrote."""
        return (self._data_dir / f"{name}.log").read_text()

    async def _serving(self, name: str) -> None:
        async with grpc.aio.insecure_channel(self.addresses[name], _SOON) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S, wait_for_ready=True)
            except grpc.aio.AioRpcError as failure:
                raise AssertionError(f"{name} does not serve:\n{self.log(name)}") from failure
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
