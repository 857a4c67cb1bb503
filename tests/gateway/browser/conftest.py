"""A real Chromium, one for each module of tests, and pages in it that tolerate no error and no outside address."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright
from tests.engines import not_here

BOUND_MS = 60_000
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
Open = Callable[..., Awaitable[Page]]


def chromium() -> str:
    """Return where the browser is. `ROSTER_CHROMIUM` names another one."""
    named = os.environ.get("ROSTER_CHROMIUM")
    found = named or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None or not Path(found).exists():
        not_here(
            "the dashboard in a browser",
            "no chromium here: run scripts/setup-tests, or apt-get install chromium",
        )
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests of a module: what tests must not share they have in contexts of their own."""
    async with async_playwright() as playwright:
        one = await playwright.chromium.launch(
            executable_path=chromium(), args=ARGUMENTS, timeout=BOUND_MS, handle_sigint=False
        )
        yield one
        await one.close()


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(browser: Browser) -> AsyncIterator[Open]:
    """Open a page: `await open_page(url, "#/nodes", width=375)`. At the end nothing may have gone wrong in any of them."""
    contexts: list[Any] = []
    wrong: list[str] = []

    async def open_page(
        url: str, place: str = "", *, width: int = 1280, height: int = 800, expected: str = "", **options: Any
    ) -> Page:
        """`expected` is a part of the console's errors that belong to the test."""
        context = await browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(BOUND_MS)
        page = await context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"an error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))

        def on_console(message: Any) -> None:
            # A gateway that is gone, as at the end of each test, is none of the page's faults.
            meant = "net::ERR_" in message.text or (expected and expected in message.text)
            if message.type in ("error", "warning") and not meant:
                wrong.append(f"the console says: {message.text}")

        def on_request(request: Any) -> None:
            if urlsplit(request.url).netloc != urlsplit(url).netloc:
                wrong.append(f"asked another server: {request.url}")

        page.on("console", on_console)
        page.on("request", on_request)
        await page.goto(f"{url}/{place}")
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert wrong == []
