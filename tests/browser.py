"""A browser of the tests' own: Debian's Chromium, driven by Playwright, with axe-core to look for barriers.

Where a program is missing, the tests that want it are skipped; under CI they fail, so that nobody forgets them.
"""

import contextlib
import functools
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

AXE = "AXE_CORE"
"""Names the file axe.min.js of the npm package axe-core."""
TIMEOUT_MS = 20_000
"""Longest wait for something to show."""
LOST = ("ERR_CONNECTION_REFUSED", "ERR_INTERNET_DISCONNECTED", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING")
STATUS = "Failed to load resource: the server responded with a status of"
"""What the browser says of a page that is there to tell what was refused."""
BARRIERS = """async () => {
    const found = await axe.run(document, { resultTypes: ["violations"] });
    return found.violations
        .filter(({ impact }) => impact === "serious" || impact === "critical")
        .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def _missing(what: str) -> Any:
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def chromium_path() -> str:
    """Return where Chromium is; a test that asks is skipped, or under CI fails, without it."""
    return shutil.which("chromium") or _missing("Chromium is not installed (Debian: apt-get install chromium)")


@functools.cache
def axe_source() -> str:
    """Return the text of axe-core; a test that asks is skipped, or under CI fails, without it."""
    path = Path(os.environ.get(AXE, ""))
    if not path.is_file():
        _missing(f"{AXE} names no axe.min.js (npm install --prefix FOLDER axe-core; it is in FOLDER/node_modules)")
    return path.read_text(encoding="utf-8")


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a browser."""
    path = chromium_path()
    axe_source()  # both or none: a page is always looked at for barriers too
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # its sandbox refuses to run as root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(kw_only=True, slots=True)
class Visit:
    """A page in the browser, and what went wrong on it."""

    page: Page
    home: str
    """Address of the one place it may ask."""
    problems: list[str] = field(default_factory=list)
    _pages: set[str] = field(default_factory=set)
    is_loss_expected: bool = False
    """Whether the connection is cut: the browser then writes so itself."""

    async def check(self) -> None:
        """Look at the page as it is now: no barrier for anybody, nothing wider than the window."""
        await self.page.evaluate(axe_source())
        barriers = await self.page.evaluate(BARRIERS)
        assert not barriers, "\n".join(barriers)
        assert await self.page.evaluate(OVERFLOW) <= 0, "the page scrolls sideways"

    async def go(self, path: str) -> None:
        """Open a page of the console."""
        await self.page.wait_for_load_state()  # of the page before: what is cut off would count as failed
        await self.page.goto(self.home + path)

    async def see(self, selector: str) -> None:
        """Wait until an element is shown."""
        await self.page.wait_for_selector(selector)

    async def text(self, selector: str) -> str:
        """Return the text of an element as it shows."""
        return await self.page.inner_text(selector)

    async def see_focus(self, element_id: str) -> None:
        """Wait until an element has the focus, which a browser gives a moment after it shows a page."""
        await self.page.wait_for_function("(id) => document.activeElement.id === id", arg=element_id)

    def listen(self) -> None:
        """Note what goes wrong from now on."""
        # Functions, not methods: Playwright would keep an attribute of its own beside a method.
        self.page.on("console", lambda said: self._said(said))  # noqa: PLW0108
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("requestfailed", lambda request: self._failed(request))  # noqa: PLW0108
        self.page.on("request", lambda request: self._asked(request))  # noqa: PLW0108

    def _asked(self, request: Request) -> None:
        self._note(not request.url.startswith(self.home), f"asked {request.url}")
        if request.is_navigation_request():
            self._pages.add(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        is_status_of_page = message.text.startswith(STATUS) and message.location["url"] in self._pages
        self._note(message.type in {"error", "warning"} and not is_status_of_page, message.text)

    def _failed(self, request: Request) -> None:
        is_left = request.failure == "net::ERR_ABORTED"  # the page closed it itself, or was left, or it is a download
        self._note(not is_left, f"{request.url}: {request.failure}")

    def _note(self, is_problem: bool, text: str) -> None:
        is_known = self.is_loss_expected and any(each in text for each in LOST)
        if is_problem and not is_known:
            self.problems.append(text)


@contextlib.asynccontextmanager
async def visiting(browser: Browser, home: str, width: int = 1_100, **options: Any) -> AsyncIterator[Visit]:
    """Open a window of its own and yield it; nothing may have gone wrong at the end.

    Args:
        browser: from `chromium`.
        home: address of the console.
        width: of the window, in pixels.
        options: of Playwright's contexts: `color_scheme="dark"`, `java_script_enabled=False`.
    """
    context = await browser.new_context(viewport={"width": width, "height": 900}, **options)
    context.set_default_timeout(TIMEOUT_MS)
    try:
        visit = Visit(page=await context.new_page(), home=home)
        visit.listen()
        yield visit
        assert not visit.problems, "\n".join(visit.problems)
    finally:
        await context.close()
