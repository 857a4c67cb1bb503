"""`wait` returns when what it names is so, and says how things stand when it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.cli.conftest import Stage, ended, roster, writer
from tests.cli.test_watch import start
from tests.conftest import passport

from roster import Registry
from roster.cli import wait


def test_what_is_ready_needs_no_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.start(writer, "writer-001")
    stage.start(writer, "writer-002")

    async def no_copy(registry: Registry) -> None:
        raise AssertionError("a probe read the whole registry")

    monkeypatch.setattr(Registry, "synced", no_copy)
    for words in (
        ["node/writer-001", "-n", "ai-team"],
        ["node", "writer-001", "writer-002", "-n", "ai-team"],
        ["nodes", "writer-001", "-n", "ai-team", "--timeout", "0"],
    ):
        assert (roster("wait", *words).status, roster("wait", *words).out) == (0, "")


def test_a_capability_is_ready_when_somebody_healthy_has_it(stage: Stage) -> None:
    stage.start(writer, "writer-001")
    assert roster("wait", "capability/write_article", "--timeout", "0").status == 0
    assert roster("wait", "cap", "write_article", "-n", "ai-team", "--timeout", "0").status == 0
    none = roster("wait", "cap", "write_article", "-n", "default", "--timeout", "0")
    assert (none.status, none.err) == (
        10,
        "error: not ready: capability/write_article is offered by 0 healthy nodes\n",
    )
    gone = roster("wait", "cap", "write_article", "--for", "gone", "--timeout", "0")
    assert (gone.status, gone.err) == (
        10,
        "error: not gone: capability/write_article is offered by 1 healthy nodes\n",
    )


def test_all_that_is_named_has_to_be_so(stage: Stage) -> None:
    stage.start(writer, "writer-001")
    found = roster("wait", "node", "writer-001", "writer-009", "-n", "ai-team", "--timeout", "10ms")
    assert (found.status, found.out) == (10, "")
    assert found.err == "error: not ready within 0.01 s: node ai-team/writer-009 is not registered\n"


def test_a_cordoned_node_is_not_ready(stage: Stage) -> None:
    stage.start(writer, "writer-001")
    assert roster("drain", "writer-001", "-n", "ai-team").status == 0
    found = roster("wait", "node/writer-001", "-n", "ai-team", "--timeout", "0")
    assert (found.status, found.err) == (10, "error: not ready: node ai-team/writer-001 is draining\n")


def test_an_agent_of_the_founding_document_is_waited_for_as_well(stage: Stage) -> None:
    stage.put(passport("writer-007", "write_article", namespace="ai-team"))
    found = roster("wait", "node/writer-007", "-n", "ai-team", "--timeout", "0")
    assert found.status in (0, 10)  # who has just appeared may be seen as unknown first
    assert "not registered" not in found.err


def test_gone_is_offline_or_not_there(stage: Stage) -> None:
    node = stage.start(writer, "writer-001")
    found = roster("wait", "node/writer-001", "-n", "ai-team", "--for", "gone", "--timeout", "0")
    assert (found.status, found.err) == (10, "error: not gone: node ai-team/writer-001 is ready\n")
    stage.thread.run(node.stop(grace=0.1), timeout=10)
    assert roster("wait", "node/writer-001", "-n", "ai-team", "--for", "gone", "--timeout", "0").status == 0


async def test_it_returns_when_a_node_comes_and_when_it_leaves(
    file_urls: tuple[str, str], tmp_path: Path
) -> None:
    async with (
        Registry.connect(file_urls[0]) as registry,
        ended(await start(file_urls, "wait", "node/worker", "-n", "team", "--timeout", "60s")) as coming,
        ended(await start(file_urls, "wait", "cap/dig", "--timeout", "60s")) as able,
    ):
        registration = await registry.register(
            passport("worker", "dig", namespace="team"), state="starting", ttl=30
        )
        assert (await start_and_end(file_urls, "wait", "node/worker", "-n", "team", "--timeout", "0")) == 10
        await registration.set_state("ready")
        assert await asyncio.wait_for(coming.wait(), 30) == 0
        assert await asyncio.wait_for(able.wait(), 30) == 0
        async with ended(
            await start(file_urls, "wait", "node/worker", "-n", "team", "--for", "gone")
        ) as going:
            await registration.deregister()
            assert await asyncio.wait_for(going.wait(), 30) == 0


async def start_and_end(urls: tuple[str, str], *args: str) -> int:
    async with ended(await start(urls, *args)) as process:
        return await asyncio.wait_for(process.wait(), 30)


@pytest.mark.parametrize("words", [["node"], ["pod/x"], ["node/"], ["node/x", "--timeout", "soon"]])
def test_wrong_usage_is_told(words: list[str], stage: Stage) -> None:
    found = roster("wait", *words)
    assert found.status == 2
    assert found.err.startswith("error: ")


def test_its_status_is_that_of_a_deadline() -> None:
    from roster.errors import CallTimeoutError

    assert CallTimeoutError.exit_code == wait._TIME_IS_UP
