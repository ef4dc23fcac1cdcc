"""Runs every check and shows what it found."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import click
from pydantic import ValidationError
from rich.text import Text

from gateway.cli.doctor import machine, network
from gateway.cli.doctor.finding import Finding, Health, problem
from gateway.cli.report import OurConsole
from gateway.cli.running import EXIT_DONE, EXIT_FAILED
from services.common.markdown import plain
from services.common.settings import Settings, SharedSettings

STYLES = {Health.OK: "green", Health.NOTE: "cyan", Health.WARNING: "yellow", Health.PROBLEM: "bold red"}
"""The word says it; colour only helps."""
CHECK_TIMEOUT_S = 20.0


async def run(gateway: str, *, is_json: bool, is_offline: bool) -> int:
    """Check and report; return the exit status, which tells of problems but not of warnings.

    Args:
        gateway: address of a gateway to ask instead of looking at this machine's stores; empty for none.
        is_json: print JSON lines.
        is_offline: ask nobody outside of this machine's network.
    """
    worst = EXIT_DONE
    async for finding in _findings(gateway, is_offline=is_offline):
        if finding.health is Health.PROBLEM:
            worst = EXIT_FAILED
        _show_json(finding) if is_json else _show(finding)
    return worst


async def _findings(gateway: str, *, is_offline: bool) -> AsyncIterator[Finding]:
    for finding in (*machine.check_program(), *machine.check_settings()):
        yield finding
    if gateway:
        async for finding in network.check_gateway(gateway):
            yield finding
        return
    shared = _readable(SharedSettings)
    if shared is None:
        return  # nothing can be looked for without it
    for finding in machine.check_data_folder(shared):
        yield finding
    for finding in await machine.check_database(shared):
        yield finding
    async for finding in _of_roles(shared, is_offline=is_offline):
        yield finding


async def _of_roles(shared: SharedSettings, *, is_offline: bool) -> AsyncIterator[Finding]:
    from gateway.settings import GatewaySettings
    from services.common.paid.settings import ModelSettings
    from services.embedding.settings import EmbeddingSettings
    from services.retrieval.settings import RetrievalSettings

    def index_of(settings: RetrievalSettings) -> Iterator[Finding]:
        return machine.check_index(shared, settings.index_path, settings.max_index_age_days)

    checks = [
        _with(ModelSettings, _in_thread(machine.check_models)),
        _with(RetrievalSettings, _in_thread(index_of)),
        _with(EmbeddingSettings, network.check_vectors),
        _with(GatewaySettings, lambda settings: network.check_services(shared, settings)),
    ]
    if not is_offline:
        checks.append(_with(RetrievalSettings, lambda settings: network.check_arxiv(shared, settings)))
    for check in checks:
        for finding in await check:
            yield finding


def _in_thread(check: Callable[[Settings], Iterator[Finding]]) -> Callable[[Settings], Awaitable[list[Finding]]]:
    async def run_there(settings: Settings) -> list[Finding]:
        return await asyncio.to_thread(lambda: list(check(settings)))

    return run_there


async def _with(kind: type[Settings], check: Callable[[Settings], Awaitable[list[Finding]]]) -> list[Finding]:
    """Return what a check finds that needs settings; nothing where these cannot be read."""
    settings = _readable(kind)
    if settings is None:
        return []  # `check_settings` has said why
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check(settings)
    except TimeoutError:
        return [problem(kind.__name__.removesuffix("Settings").lower(), f"no answer within {CHECK_TIMEOUT_S:g} s")]


def _readable(kind: type[Settings]) -> Settings | None:
    """Return settings whose values can be read, whatever unknown names stand beside them; None when they cannot."""
    try:
        return kind()
    except ValidationError:
        return None


def _show(finding: Finding) -> None:
    line = Text()
    line.append(f"{finding.health.value:<8}", style=STYLES[finding.health])
    line.append(f" {plain(finding.what)}: {plain(finding.found)}")
    console = OurConsole()
    console.print(line, soft_wrap=True)
    if finding.advice:
        console.print(Text(f"{'':8} {plain(finding.advice)}", style="dim"), soft_wrap=True)


def _show_json(finding: Finding) -> None:
    shown = {"what": finding.what, "health": finding.health.value, "found": finding.found, "advice": finding.advice}
    click.echo(json.dumps(shown, ensure_ascii=False))
