"""Agents that live and cannot do their work: a blocked event loop, a queue that nobody can reach."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos.load import send
from chaos.team import scene
from tests.conftest import eventually
from tests.faults.stage import Witness, state

from roster import Orchestrator
from roster._clock import boottime
from roster.errors import AllNodesBusyError, NoCapableNodesError

Urls = tuple[str, str]


def condition(orchestrator: Orchestrator, key: str, type: str) -> str | None:
    """Return what a node says of itself: `True`, `False`, or None if nothing."""
    record = orchestrator.node(key)
    if record is None or record.status is None:
        return None
    return next((one.status for one in record.status.conditions if one.type == type), None)


async def test_a_handler_that_blocks_the_loop_for_three_ttls_costs_the_node_its_work_and_not_its_life(
    urls: Urls,
) -> None:
    ttl = 4.0
    async with scene(urls, ["a1", "a2"], ttl=ttl, capabilities=["work"], capacity=4) as (
        agents,
        orchestrator,
    ):
        await agents.start("blocker", capabilities=["work", "block"])
        await agents.ready(orchestrator, ["blocker"])
        uid = orchestrator.node("chaos/blocker").uid  # type: ignore[union-attr]  # it is ready
        witness = Witness(orchestrator)
        blocked = asyncio.create_task(
            orchestrator.ask("block", {"command": "blocked", "seconds": 3 * ttl}, namespace="chaos")
        )
        await eventually(lambda: condition(orchestrator, "chaos/blocker", "Responsive") == "False")
        said = boottime()
        await eventually(lambda: state(orchestrator, "chaos/blocker") == "draining")
        outcome = await send(orchestrator, 40, in_flight=4, seconds=0.05, rate=40)
        assert not blocked.done(), "the load was to be sent while it blocked"
        answer = await blocked
        await eventually(lambda: state(orchestrator, "chaos/blocker") == "ready")
        assert condition(orchestrator, "chaos/blocker", "Responsive") == "True"
        events, effects = witness.end(), agents.effects()
        assert orchestrator.node("chaos/blocker").uid == uid  # type: ignore[union-attr]  # it is ready
    assert events == [], "it was never called dead"
    assert answer.node == "chaos/blocker"
    assert len(answer.attempts) == 1
    assert effects.started["blocked"] == effects.ended["blocked"] == 1
    assert not outcome.errors
    assert min(outcome.began.values()) >= said
    assert {answer.node for answer in outcome.answers.values()} == {"chaos/a1", "chaos/a2"}


async def test_an_agent_that_is_alive_but_deaf_is_not_ready_until_it_is_heard_again(
    tmp_path: Path,
) -> None:
    async with scene((None, None), ["a1"], ttl=6.0) as (agents, orchestrator):
        uid = orchestrator.node("chaos/a1").uid  # type: ignore[union-attr]  # it is ready
        bus = agents.directory / "bus"
        bus.rename(agents.directory / "aside")
        bus.touch()  # a directory without write permission would not stop root
        await eventually(lambda: condition(orchestrator, "chaos/a1", "Reachable") == "False", 20)
        await eventually(lambda: state(orchestrator, "chaos/a1") == "draining")
        # A caller that was never connected: the old connections of others may well live on.
        async with Orchestrator.connect(agents.registry_url, f"local://{tmp_path}/other-bus") as stranger:
            with pytest.raises((NoCapableNodesError, AllNodesBusyError), match="draining"):
                await stranger.call("work", {"command": "c", "seconds": 0}, namespace="chaos", timeout=5)
        bus.unlink()
        await eventually(lambda: state(orchestrator, "chaos/a1") == "ready", 20)
        record = orchestrator.node("chaos/a1")
        assert record is not None
        assert record.uid == uid, "it was deaf, never dead"
        assert await orchestrator.call("work", {"command": "d", "seconds": 0}, namespace="chaos", timeout=10)
