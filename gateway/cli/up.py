"""`paperroute up`: all roles in one process, until a signal."""

import asyncio
import signal

import click

from gateway.embedded import embedded


async def run() -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with embedded(listen=None) as address:
        click.echo(f"PaperRoute listens on {address}; try: paperroute survey QUESTION --gateway {address}")
        await stop.wait()
    return 0
