"""Nodes that others have filled: whoever waits for room hears of it from the node, whatever the registry says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.conftest import eventually
from tests.faults.stage import serving, state

from roster import Orchestrator
from roster.registry import Registration

Urls = tuple[str, str]


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which no node of this process tells the registry its load any more."""
    return lambda: monkeypatch.setattr(Registration, "report", lambda *args, **options: None)


async def test_a_call_that_waits_for_a_node_which_others_have_filled_goes_there_as_soon_as_it_has_room(
    urls: Urls, mute: Callable[[], None]
) -> None:
    go = asyncio.Event()

    async def hold() -> None:
        await go.wait()

    async with (
        serving(urls, {"a": {"hold": hold, "work": lambda: "done"}}, at_once=1) as orchestrator,
        Orchestrator.connect(*urls) as other,
    ):
        holding = asyncio.create_task(other.call("hold", timeout=30))
        await eventually(lambda: state(orchestrator, "default/a") == "busy")
        mute()
        waiting = [asyncio.create_task(orchestrator.call("work", timeout=30)) for _ in range(3)]
        await eventually(lambda: orchestrator.waiting.waiting("work") == 3)
        go.set()
        await holding
        assert await asyncio.gather(*waiting) == ["done"] * 3
        assert state(orchestrator, "default/a") == "busy", "the registry knows of no room to this moment"


async def test_a_call_that_waits_is_told_again_and_again_by_a_node_that_stays_full(
    urls: Urls, mute: Callable[[], None]
) -> None:
    """The question waits at the node, at most for a moment; then it is asked anew, for as long as the call waits."""
    go = asyncio.Event()

    async def hold() -> None:
        await go.wait()

    async with (
        serving(urls, {"a": {"hold": hold, "work": lambda: "done"}}, at_once=1) as orchestrator,
        Orchestrator.connect(*urls) as other,
    ):
        holding = asyncio.create_task(other.call("hold", timeout=30))
        await eventually(lambda: state(orchestrator, "default/a") == "busy")
        mute()
        waiting = asyncio.create_task(orchestrator.call("work", timeout=30))
        await eventually(lambda: orchestrator.inquiries.asked == 3)
        assert not waiting.done()
        go.set()
        await holding
        assert await waiting == "done"
