"""The dashboard as people use it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bench.registry import CAPABILITIES, fill
from playwright.async_api import Page, expect
from tests.gateway.browser.conftest import BOUND_MS, Open
from tests.gateway.conftest import Serving, team_passport, until
from tests.gateway.test_calls import Gate, agent, known
from tests.gateway.test_doors import OPERATOR, READER, token_file

from roster.registry import Registry

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
expect.set_options(timeout=BOUND_MS)

CARD: dict[str, Any] = {
    "name": "article",
    "version": "1.2.0",
    "steps": [
        {"id": "count", "action": "count_words", "params": {"text": "${input.text}"}},
        {"id": "enough", "type": "condition", "condition": "${input.ask}", "then": "ask", "else": "done"},
        {"id": "ask", "type": "human_checkpoint", "message": "Publish <b>it</b>?"},
        {"id": "done", "type": "complete", "result": "published"},
    ],
}


def row(page: Page, name: str) -> Any:
    return page.locator(f'.table [role=row][data-key="ai-team/{name}"]')


@asynccontextmanager
async def registered(urls: tuple[str, str], *passports: dict[str, Any]) -> AsyncIterator[Registry]:
    async with Registry.connect(urls[0]) as registry:
        for one in passports:
            await registry.register(one, ttl=120)
        yield registry


async def test_nodes_come_work_are_drained_and_die_before_ones_eyes(
    serving: Serving, file_urls: tuple[str, str], tmp_path: Path, open_page: Open
) -> None:
    gate = Gate()
    passport = tmp_path / "doomed.json"
    passport.write_text(json.dumps(team_passport("doomed-001", "count_words")))
    async with serving(file_urls) as served:
        page = await open_page(served.url)
        await expect(page.get_by_role("heading", name="No node is registered yet")).to_be_visible()
        async with agent(file_urls, "counter-001", gate, at_once=1):
            await expect(row(page, "counter-001")).to_contain_text("ready")
            call = asyncio.create_task(
                served.client.post(
                    "/api/v1/call", json={"capability": "count_words", "params": {"text": "a b"}}
                )
            )
            await expect(row(page, "counter-001")).to_contain_text("busy")
            meter = row(page, "counter-001").get_by_role("meter")
            await expect(meter).to_have_attribute("aria-valuetext", "1 of 1 tasks")
            gate.open.set()
            await call
            await expect(row(page, "counter-001")).to_contain_text("ready")
            await expect(meter).to_have_attribute("aria-valuetext", "0 of 1 tasks")
            doomed = subprocess.Popen(
                [sys.executable, "-m", "roster", "--registry", file_urls[0], "register", "-f", str(passport)],
                env={**os.environ, "ROSTER_STATE_DIR": str(tmp_path / "state"), "ROSTER_BUS": file_urls[1]},
                stdout=subprocess.DEVNULL,
            )
            try:
                await expect(row(page, "doomed-001")).to_contain_text("ready")
                await served.client.post("/api/v1/nodes/ai-team/counter-001/drain", json={})
                await expect(row(page, "counter-001")).to_contain_text("draining")
            finally:
                doomed.send_signal(signal.SIGKILL)
                doomed.wait()
            await expect(row(page, "doomed-001")).to_contain_text("offline")
            await expect(row(page, "doomed-001").locator("time")).to_be_visible()
        await expect(row(page, "counter-001")).to_have_count(0)


async def test_the_list_is_searched_filtered_and_sorted(
    serving: Serving, memory_urls: tuple[str, str], open_page: Open
) -> None:
    team = [
        team_passport("writer-001", "write_article", labels={"role": "writer", "tier": "a"}),
        team_passport("writer-002", "write_article", "edit_text", labels={"role": "writer", "tier": "b"}),
        team_passport("editor-001", "edit_text", labels={"role": "editor"}),
    ]
    async with serving() as served, registered(memory_urls, *team) as registry:
        await registry.drain("editor-001", "ai-team")
        page = await open_page(served.url)
        search = page.get_by_role("searchbox", name="Search nodes")
        names = page.locator(".table .body .row .name")
        await expect(names).to_have_text(["editor-001", "writer-001", "writer-002"])

        await page.keyboard.press("/")
        await page.keyboard.type("role=writer tier=b")
        await expect(names).to_have_text(["writer-002"])
        await page.wait_for_url("**/#/nodes?q=role%3Dwriter+tier%3Db")
        await page.reload()
        await expect(names).to_have_text(["writer-002"])
        await search.fill("nobody")
        await expect(page.get_by_role("heading", name="No node matches")).to_be_visible()
        await page.get_by_role("button", name="Clear filters").click()
        await page.get_by_label("Capability").select_option("edit_text")
        await expect(names).to_have_text(["editor-001", "writer-002"])
        await page.get_by_role("group", name="States").get_by_role("button", name="ready").click()
        await expect(names).to_have_text(["writer-002"])
        await page.get_by_role("button", name="Clear filters").click()
        await page.get_by_label("Label", exact=True).select_option("tier=a")
        await expect(names).to_have_text(["writer-001"])
        await page.get_by_role("button", name="Clear filters").click()
        await page.get_by_role("button", name="Node").click()
        await expect(names).to_have_text(["writer-002", "writer-001", "editor-001"])

        assert await page.get_by_role("columnheader", name="Node").get_attribute("aria-sort") == "descending"

        # A node that comes to match appears where it belongs.
        await search.fill("role=writer")
        await registry.register(team_passport("writer-0015", "x", labels={"role": "writer"}), ttl=120)
        await expect(names).to_have_text(["writer-002", "writer-0015", "writer-001"])
        await expect(page.get_by_role("status").filter(has_text="of 4")).to_contain_text("3 of 4")


async def test_a_nodes_page_shows_all_of_it_and_drains_it(
    serving: Serving, memory_urls: tuple[str, str], open_page: Open
) -> None:
    async with serving() as served, agent(memory_urls, "counter-001"):
        await known(served)
        for text in ("a b c", "fail"):
            await served.client.post(
                "/api/v1/call", json={"capability": "count_words", "params": {"text": text}}
            )
        page = await open_page(served.url)
        await row(page, "counter-001").get_by_role("link").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("counter-001")
        await expect(page.get_by_label("Passport as YAML")).to_contain_text(
            "apiVersion: ai-team.dev/v1\nkind: NodePassport"
        )
        tasks = page.get_by_role("table", name="Recent tasks")
        await expect(tasks).to_contain_text("done")
        await expect(tasks).to_contain_text("no words")
        await expect(page.get_by_text("first seen here")).to_be_visible()

        await page.get_by_role("button", name="Drain").click()
        await expect(page.get_by_role("dialog", name="Drain counter-001?")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Drain").click()
        await page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        await expect(page.get_by_role("button", name="Undrain").first).to_be_visible()
        await expect(page.locator("header.title")).to_contain_text("drained by hand")
        await expect(page.locator(".history")).to_contain_text("draining")
        assert served.gateway.registry.informer.get("ai-team/counter-001").cordoned  # type: ignore[union-attr] # it is there

        await page.get_by_role("button", name="Undrain").first.click()
        await page.get_by_role("dialog").get_by_role("button", name="Undrain").click()
        await expect(page.locator("header.title")).to_contain_text("ready")
        await expect(page.get_by_role("heading", level=1)).to_have_text("counter-001")
        await page.close()  # its agent leaves now: the page would ask for a node that is not there


async def test_a_passport_full_of_markup_stays_text(
    serving: Serving, memory_urls: tuple[str, str], open_page: Open
) -> None:
    evil = "<script>window.hit=1</script><img src=x onerror='window.hit=1'>\"'`${window.hit=1}\u202e</pre>"
    document = team_passport("evil-001", {"name": "be_evil", "description": evil, "version": "1.0.0"})
    document["metadata"]["annotations"] = {"note": evil}
    document["spec"]["resources"]["llm_model"] = evil
    document["spec"][evil] = evil
    async with serving() as served, registered(memory_urls, document):
        page = await open_page(served.url, "#/nodes/ai-team/evil-001")
        scripts = await page.locator("script").count()
        await expect(page.get_by_label("Passport as YAML")).to_contain_text("<script>window.hit=1</script>")
        await expect(page.locator(".offers")).to_contain_text("<script>window.hit=1</script><img src=x")
        await expect(page.locator(".offers")).to_contain_text("\\u202e</pre>")
        await page.get_by_role("link", name="Capabilities", exact=True).click()
        await expect(page.get_by_role("table", name="Capabilities")).to_contain_text("<img src=x")
        await page.goto(f"{served.url}/#/nodes/{evil.replace('/', '%2F').replace('#', '')}/%zz")
        await expect(page.get_by_role("heading", level=1)).to_be_visible()

        assert await page.locator("script").count() == scripts
        assert await page.locator("main img, main iframe").count() == 0
        assert await page.evaluate("window.hit") is None


async def test_the_matrix_says_who_can_do_what_and_where_one_failure_is_enough(
    serving: Serving, memory_urls: tuple[str, str], open_page: Open
) -> None:
    team = [
        team_passport("writer-001", "write_article", "translate", at_once=2),
        team_passport("writer-002", "write_article", at_once=3),
    ]
    async with serving() as served, registered(memory_urls, *team) as registry:
        page = await open_page(served.url, "#/capabilities")
        table = page.get_by_role("table", name="Capabilities")
        write, translate = (
            table.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
            for name in ("write_article", "translate")
        )
        await expect(write).to_contain_text("2 of 2")
        await expect(write).to_contain_text("5 free")
        await expect(write).not_to_contain_text("Single point of failure")
        await expect(translate).to_contain_text("Single point of failure")
        await registry.drain("writer-001", "ai-team")
        await expect(translate).to_contain_text("Nobody can take work")
        await expect(write).to_contain_text("1 of 2")
        await page.get_by_role("button", name="As a grid").click()
        await expect(page.locator("table.grid tbody tr")).to_have_count(2)
        await expect(page.locator("table.grid td .state")).to_have_count(3)


async def test_a_run_is_watched_step_by_step_and_approved(
    serving: Serving, memory_urls: tuple[str, str], open_page: Open
) -> None:
    async with serving() as served, agent(memory_urls):
        await known(served)
        page = await open_page(served.url, "#/runs")
        await expect(page.get_by_role("heading", name="No process card has run yet")).to_be_visible()
        begun = await served.client.post(
            "/api/v1/runs", json={"card": CARD, "inputs": {"text": "a b", "ask": True}, "run_id": "article-1"}
        )
        assert begun.status_code == 201, begun.text
        await page.get_by_role("link", name="article-1").click()
        graph = page.get_by_label("Graph of the steps")

        def step(state: str, name: str) -> Any:
            titled = page.locator("text", has_text=re.compile(f"^{name}$"))
            return graph.locator(f".step.s-{state}").filter(has=titled)

        await expect(step("succeeded", "count")).to_have_count(1)
        await expect(step("waiting", "ask")).to_have_count(1)
        await expect(graph.locator(".way")).to_have_count(6)
        await expect(graph).to_contain_text("else")
        timeline = page.get_by_label("Timeline of the steps")
        await expect(timeline.locator("rect.bar")).to_have_count(3)
        await expect(timeline.locator("rect.open")).to_have_count(1)
        await expect(page.get_by_role("table", name="Tries")).to_contain_text("ai-team/counter-001")

        asked = page.get_by_label("Decision: ask")
        await expect(asked).to_contain_text("Publish <b>it</b>?")
        await asked.get_by_role("button", name="Approve").click()
        await page.get_by_label("Comment, for the record").fill("well done")
        await page.keyboard.press("Enter")
        await expect(page.locator("header.title")).to_contain_text("succeeded")
        await expect(page.get_by_label("Result")).to_have_text('"published"')
        await expect(asked).to_have_count(0)
        await expect(step("succeeded", "ask")).to_have_count(1)


async def test_five_thousand_nodes_are_a_window_of_rows_that_filters_rightly(
    serving: Serving, memory_urls: tuple[str, str], open_page: Open
) -> None:
    async with Registry.connect(memory_urls[0]) as registry:
        await fill(registry.store, 5000)
        async with serving() as served:
            await until(lambda: len(served.gateway.registry.informer.all()) == 5000)
            page = await open_page(served.url)
            await expect(page.locator(".tally")).to_contain_text("5000 nodes")
            assert await page.locator(".table .body .row").count() < 60
            assert await page.get_by_role("table", name="Nodes").get_attribute("aria-rowcount") == "5001"

            await page.get_by_role("searchbox").press_sequentially("node-0012")
            await expect(page.locator(".tally")).to_contain_text("100 of 5000")
            await expect(page.locator(".name").first).to_contain_text("node-0012")
            await page.get_by_label("Capability").select_option(CAPABILITIES[0])
            await expect(page.locator(".tally")).to_contain_text("50 of 5000")
            await page.get_by_role("button", name="Clear filters").click()

            await page.evaluate("scrollTo(0, document.body.scrollHeight)")
            await expect(page.locator('.row[aria-rowindex="5001"]')).to_be_visible()
            assert await page.locator(".table .body .row").count() < 60
            # To a node and back: the list is where it was.
            await page.evaluate("scrollTo(0, 100000)")
            middle = page.locator('.row[aria-rowindex="1930"] a')
            name = await middle.inner_text()
            await middle.click()
            await expect(page.get_by_role("heading", level=1)).to_have_text(name)
            await expect(page.get_by_role("heading", level=1)).to_be_focused()
            await page.go_back()
            await expect(middle).to_be_in_viewport()
            await page.evaluate("scrollTo(0, document.body.scrollHeight)")
            # Through all of it with the keyboard: the rows come as they are needed.
            await page.locator('.row[aria-rowindex="5001"] a').focus()
            await page.keyboard.press("Home")
            await expect(page.locator('.row[aria-rowindex="2"] a')).to_be_focused()
            await page.keyboard.press("ArrowDown")
            await expect(page.locator('.row[aria-rowindex="3"] a')).to_be_focused()


async def test_a_token_is_asked_for_kept_in_the_tab_and_decides_what_may_be_done(
    serving: Serving, memory_urls: tuple[str, str], tmp_path: Path, open_page: Open
) -> None:
    async with (
        serving(tokens=token_file(tmp_path)) as served,
        registered(memory_urls, team_passport("writer-001", "write_article")),
    ):
        page = await open_page(served.url, "#/nodes/ai-team/writer-001", expected="401")
        token = page.get_by_label("Token", exact=True)
        await token.fill("a wrong one, which nobody knows, at all")
        await page.get_by_role("button", name="Enter").click()
        await expect(page.get_by_role("alert")).to_contain_text("not known here")
        await token.fill(READER)
        await token.press("Enter")
        await expect(page.get_by_label("Passport as YAML")).to_contain_text("writer-001")
        await expect(page.locator(".role")).to_have_text("reader")
        await expect(page.locator(".connection")).to_have_text("Live")
        await expect(page.get_by_role("button", name="Drain")).to_have_count(0)
        assert await page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [
            1,
            0,
            "",
        ]
        await page.reload()
        await expect(page.locator(".role")).to_have_text("reader")

        await page.get_by_role("button", name="Leave").click()
        await token.fill(OPERATOR)
        await token.press("Enter")
        await expect(page.locator(".role")).to_have_text("operator")
        await expect(page.get_by_role("button", name="Drain")).to_have_count(1)


# How wide the page is while it says this of its connection to the gateway, in pixels.
WIDTH_WITH = """word => {
  document.querySelector(".connection .state").lastChild.data = word;
  return document.documentElement.scrollWidth;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_fits_a_phone_and_is_reached_by_the_keyboard(
    scheme: str, serving: Serving, memory_urls: tuple[str, str], open_page: Open
) -> None:
    long = team_passport(
        "a-very-long-name-for-a-node-that-somebody-has-thought-of-001", "x" * 60, labels={"k": "v" * 60}
    )
    async with serving() as served, registered(memory_urls, long):
        await known(served)
        await served.client.post(
            "/api/v1/runs",
            json={"card": CARD, "inputs": {"text": "a", "ask": True}, "run_id": "r-" + "1" * 90},
        )
        page = await open_page(served.url, width=375, height=700, color_scheme=scheme)
        for place, ready in {
            "#/nodes": ".table .name",
            f"#/nodes/ai-team/{long['metadata']['name']}": "pre.yaml",
            "#/capabilities": ".matrix .name",
            "#/runs": ".matrix .name",
            "#/runs/r-" + "1" * 90: ".graph svg",
            "#/nowhere": ".empty",
        }.items():
            await page.goto(f"{served.url}/{place}")
            await expect(page.locator(ready).first).to_be_visible()
            for word in ("Live", "Connecting", "Reconnecting"):
                assert await page.evaluate(WIDTH_WITH, word) <= 375, (place, word)
        await page.goto(f"{served.url}/#/nodes")
        await page.reload()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        assert page.url.endswith("#/nodes")

        def background() -> Any:
            return page.evaluate("getComputedStyle(document.body).backgroundColor")

        before = await background()
        button = page.get_by_role("button", name="Theme")
        for _ in ("light", "dark")[: 2 if scheme == "light" else 1]:
            await button.click()
        assert await background() != before
        await page.reload()
        assert await background() != before


async def test_a_gateway_that_goes_away_and_comes_back_is_followed(
    serving: Serving, memory_urls: tuple[str, str], open_page: Open
) -> None:
    async with registered(memory_urls, team_passport("writer-001", "write_article")) as registry:
        async with serving() as served:
            page = await open_page(served.url)
            await expect(row(page, "writer-001")).to_be_visible()
        await expect(page.locator(".notice")).to_contain_text("out of reach")
        await expect(row(page, "writer-001")).to_be_visible()
        await registry.register(team_passport("writer-002", "write_article"), ttl=120)
        await registry.delete("writer-001", "ai-team", force=True)
        async with serving(port=served.port):
            await expect(row(page, "writer-002")).to_be_visible()
            await expect(row(page, "writer-001")).to_have_count(0)
            await expect(page.locator(".notice")).to_have_count(0)
