"""Time that passes only while a test has nothing else to do: minutes of waiting take milliseconds, and always the same.

For code on the event loop alone; what threads or sockets bring does not wait for it.
"""

import asyncio
import time
from typing import Any

import pytest


class VirtualTime:
    """What `time.monotonic`, and with it the event loop's clock, say in its stead."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def install(self, loop: asyncio.AbstractEventLoop, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(time, "monotonic", lambda: self.now)
        selector: Any = loop._selector  # type: ignore[attr-defined]
        wait = selector.select

        def select(timeout: float | None) -> Any:
            events = wait(0)
            if events or timeout == 0:
                return events
            if timeout is None:
                return wait(None)
            self.now += timeout
            return []

        patch.setattr(selector, "select", select)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    """Let time be virtual for the rest of the test."""
    made = VirtualTime()
    made.install(asyncio.get_running_loop(), monkeypatch)
    return made
