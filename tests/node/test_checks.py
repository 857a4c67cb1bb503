"""A check withdraws one capability while it fails, and leaves the others alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.conftest import eventually, passport

from roster import Node, Orchestrator
from roster.errors import ConfigError, NoCapableNodesError, NodeError
from roster.node.checks import Check
from roster.node.threads import Threads

Urls = tuple[str, str]


async def look(function: Any, timeout: float = 5.0) -> tuple[str, str]:
    finding = await Check("work", function, 1.0, timeout).look(Threads("check"))
    return finding.verdict, finding.text


async def test_what_a_check_returns_or_raises_is_what_it_found() -> None:
    async def down() -> bool:
        raise ConnectionError("the model is away")

    async def hang() -> None:
        await asyncio.Event().wait()

    async def no() -> bool:
        return False

    class UnreadableError(Exception):
        def __str__(self) -> str:
            raise LookupError

    async def unreadable() -> None:
        raise UnreadableError

    assert await look(lambda: True) == ("good", "")
    verdict, text = await look(unreadable)
    assert verdict == "failing"
    assert text.startswith("UnreadableError: (")
    assert await look(lambda: None) == ("good", "")
    assert await look(no) == ("failing", "the check said no")
    assert await look(down) == ("failing", "ConnectionError: the model is away")
    assert (await look(hang, timeout=0.02))[0] == "failing"
    assert (await look(threading.Event().wait, timeout=0.02))[0] == "failing"
    assert await look(lambda: "fine") == ("malformed", "the check returned str, not a bool")
    assert (await look(lambda needed: True))[0] == "malformed"


def test_a_check_has_bounds_and_a_capability() -> None:
    with pytest.raises(ConfigError, match="every"):
        Check("work", lambda: True, 0.0, 1.0)
    node = Node(passport("a", "work"))
    with pytest.raises(NodeError, match="nothing to check"):
        node.check("fly")


async def test_a_failing_check_withdraws_its_capability_alone_and_gives_it_back(urls: Urls) -> None:
    node = Node(passport("a", "work", "rest"), registry_url=urls[0], bus_url=urls[1])
    node.capability("work")(lambda: "work")
    node.capability("rest")(lambda: "rest")
    well = False

    @node.check("work", every=0.02)
    async def model_answers() -> bool:
        return well

    async with node, Orchestrator.connect(*urls) as orchestrator:
        await orchestrator.start()
        await eventually(lambda: orchestrator.node("default/a") is not None)
        with pytest.raises(NoCapableNodesError):
            await orchestrator.call("work")
        assert await orchestrator.call("rest") == "rest"
        record = orchestrator.node("default/a")
        assert record is not None
        conditions = {one["type"]: one for one in record["status"]["conditions"]}
        assert conditions["check.ai-team.dev/work"]["status"] == "False"
        well = True
        await eventually(lambda: any(row.candidate for row in orchestrator.team.router.explain("work")))
        assert await orchestrator.call("work") == "work"
        record = orchestrator.node("default/a")
        assert record is not None
        assert "check.ai-team.dev/work" not in {one["type"] for one in record["status"].get("conditions", [])}


async def test_a_malformed_check_degrades_and_withdraws_nothing(urls: Urls) -> None:
    node = Node(passport("a", "work"), registry_url=urls[0], bus_url=urls[1])
    node.capability("work")(lambda: "work")

    @node.check("work", every=60)
    def broken() -> bool:
        return undefined  # type: ignore[name-defined,no-any-return]  # noqa: F821 - a mistake is the point

    async with node, Orchestrator.connect(*urls) as orchestrator:
        assert await orchestrator.call("work") == "work"
        record = orchestrator.node("default/a")
        assert record is not None
        conditions = {one["type"]: one for one in record["status"]["conditions"]}
        assert conditions["check.ai-team.dev/work"]["status"] == "Unknown"
