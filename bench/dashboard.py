"""The dashboard with 5 000 nodes in a real Chromium: the first list, keystrokes in the search, frames while nodes change."""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
from time import perf_counter

from playwright.async_api import Page, async_playwright

from bench import AnyRow, Row, progress, runs
from bench.registry import fill
from roster.gateway import Gateway, Settings, serve
from roster.gateway.server import bind
from roster.registry import Registry
from roster.registry.holder import this_process
from roster.registry.keys import status_key
from roster.registry.status import NodeStatus
from roster.store import MAX_TTL, Put

NAME = "Dashboard: 5 000 nodes in Chromium"

NODES = 5000
CHANGES_SECONDS = 3.0
TYPED = "role=role-3 node-00"
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")

# From the keystroke until the frame that shows it has been drawn; the text comes letter by letter, then goes so.
_KEYSTROKES = """async (typed) => {
  const box = document.querySelector(".search input");
  const texts = [...typed].map((_, index) => typed.slice(0, index + 1));
  const took = [];
  for (const text of [...texts, ...texts.slice(0, -1).reverse(), ""]) {
    const begun = performance.now();
    box.value = text;
    box.dispatchEvent(new InputEvent("input", { bubbles: true }));
    await new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn, 0)));
    took.push(performance.now() - begun);
  }
  return took;
}"""

_FRAMES = """() => {
  window.frames_ms = [];
  let last = performance.now();
  const frame = () => {
    const now = performance.now();
    window.frames_ms.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""


def run() -> list[AnyRow]:
    """Measure."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return [("a keystroke in the search", "no chromium here: scripts/setup-tests")]
    return asyncio.run(_measure(chromium))


async def _measure(chromium: str) -> list[AnyRow]:
    url = "memory://bench-dashboard"
    settings = Settings(port=0)
    listening = bind(settings)
    async with Registry.connect(url) as registry:
        await fill(registry.store, NODES)
        async with (
            Gateway(settings, registry_url=url, bus_url=url) as gateway,
            async_playwright() as playwright,
        ):
            task = asyncio.create_task(serve(gateway, listening, signals=False))
            browser = await playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
            try:
                while gateway.not_ready:
                    await asyncio.sleep(0.05)
                return await _in(
                    await browser.new_page(), f"http://127.0.0.1:{listening.getsockname()[1]}/", registry
                )
            finally:
                await browser.close()
                task.cancel()
                await asyncio.wait([task])


async def _in(page: Page, address: str, registry: Registry) -> list[AnyRow]:
    page.set_default_timeout(120_000)
    opened, typical, worst, frames = [], [], [], []
    for number in range(runs()):
        progress(f"run {number + 1}")
        await page.goto("about:blank")
        begun = perf_counter()
        await page.goto(address)
        await page.wait_for_selector(".table .body .row")
        opened.append(perf_counter() - begun)
        took: list[float] = await page.evaluate(_KEYSTROKES, TYPED)
        typical.append(statistics.median(took))
        worst.append(max(took))
        await page.wait_for_selector(".connection .s-ready")
        await page.evaluate(_FRAMES)
        await _change(registry)
        shown: list[float] = await page.evaluate("window.frames_ms")
        frames.append(statistics.quantiles(shown, n=100)[98])
    return [
        Row.measured("until the list is there", opened, "s", note="from the address to the first rows"),
        Row.measured(
            "a keystroke in the search, median", typical, "ms", goal="<= 200", note="typed and drawn"
        ),
        Row.measured(
            "a keystroke in the search, slowest", worst, "ms", goal="<= 200", note="typed and drawn"
        ),
        Row.measured(
            "a frame while 1 000 nodes a second change, p99",
            frames,
            "ms",
            goal="<= 100",
            note=f"{CHANGES_SECONDS:g} s of it",
        ),
    ]


async def _change(registry: Registry) -> None:
    """Have nodes change their load, a thousand a second."""
    lease = await registry.store.grant(MAX_TTL)
    begun = perf_counter()
    for turn in range(int(CHANGES_SECONDS / 0.03)):
        ops: list[Put] = []
        for number in random.sample(range(NODES), 30):
            said = NodeStatus(
                f"00000000-0000-4000-8000-{number:012d}",
                capacity=3,
                active_tasks=turn % 4,
                holder=this_process(),
                registered_at="2025-12-15T10:00:00.000Z",
                updated_at="2025-12-15T10:00:00.000Z",
            )
            ops.append(Put(status_key(f"team-{number % 20}", f"node-{number:06d}"), said.encode(), lease.id))
        await registry.store.transact([], ops)
        await asyncio.sleep(max(0.0, begun + (turn + 1) * 0.03 - perf_counter()))
