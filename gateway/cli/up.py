"""`paperroute up`: all roles in one process, until a signal."""

import asyncio
import signal

import click

from gateway.embedded import embedded

CONSOLE = "127.0.0.1:50080"
"""Where the console is when the settings do not say."""


async def run() -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with embedded(listen=None, console=CONSOLE) as serving:
        click.echo(f"PaperRoute listens on {serving.address}; its console: {serving.console}")
        click.echo(f"Try: paperroute survey QUESTION --gateway {serving.address}")
        await stop.wait()
    return 0
