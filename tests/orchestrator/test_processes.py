"""Agents as processes of their own, with real signals."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chaos.load import send
from chaos.team import Team, team
from tests.conftest import eventually

from roster import Orchestrator
from roster.errors import DeliveryError, NoCapableNodesError

Urls = tuple[str, str]


def running(agents: Team, *, on: str) -> list[str]:
    """Return the commands that this agent has begun and not finished."""
    effects = agents.effects()
    return [
        c
        for c, nodes in effects.nodes.items()
        if nodes[-1] == f"chaos/{on}" and effects.ended[c] < effects.started[c]
    ]


def _begun(agents: Team, command: str, times: int) -> bool:
    return agents.effects().started[command] == times


async def test_what_a_killed_agent_had_in_hand_is_answered_by_another_at_once() -> None:
    async with (
        team(None, None, ttl=30.0, capacity=4) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(agents.start("a1"), agents.start("a2"))
        await agents.ready(orchestrator, ["a1", "a2"])
        load = asyncio.create_task(send(orchestrator, 24, in_flight=6, seconds=0.6))
        await eventually(lambda: len(running(agents, on="a1")) >= 2)
        await agents.kill("a1")
        outcome = await load
        effects = agents.effects()
    assert not outcome.errors
    assert len(outcome.answers) == 24
    assert outcome.twice == 0
    assert outcome.rerouted
    assert max(outcome.gaps) < 8.0, "long before its lease has ended"
    assert not effects.finished_twice


async def test_work_that_must_not_run_twice_is_not_sent_again_after_a_kill() -> None:
    async with (
        team(None, None, capabilities=[{"name": "work", "idempotent": False}]) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(agents.start("a1"), agents.start("a2"))
        await agents.ready(orchestrator, ["a1", "a2"])
        call = asyncio.create_task(
            orchestrator.call("work", {"command": "once", "seconds": 30}, timeout=60, namespace="chaos")
        )
        await eventually(lambda: agents.effects().nodes.get("once"))
        victim = agents.effects().nodes["once"][0].split("/")[1]
        await agents.kill(victim)
        with pytest.raises(DeliveryError) as caught:
            await call
        assert caught.value.outcome == "unknown"
        assert agents.effects().started["once"] == 1


async def test_what_has_begun_is_never_called_unsent_even_when_nobody_is_left_to_try() -> None:
    async with (
        team(None, None, ttl=4.0) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await agents.start("a1")
        await agents.ready(orchestrator, ["a1"])
        call = asyncio.create_task(
            orchestrator.call("work", {"command": "begun", "seconds": 30}, timeout=60, namespace="chaos")
        )
        await eventually(lambda: _begun(agents, "begun", 1))
        await agents.kill("a1")
        with pytest.raises(NoCapableNodesError) as caught:
            await call
        assert caught.value.outcome == "unknown"
        assert caught.value.attempts[0].outcome == "unknown"


async def test_a_command_that_kills_three_agents_is_not_tried_on_a_fourth(tmp_path: Path) -> None:
    async with (
        team(None, None) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        names = ["a1", "a2", "a3", "a4"]
        await asyncio.gather(*(agents.start(name) for name in names))
        await agents.ready(orchestrator, names)
        call = asyncio.create_task(
            orchestrator.call("work", {"command": "deadly", "seconds": 30}, timeout=60, namespace="chaos")
        )
        for strike in range(3):
            await eventually(partial(_begun, agents, "deadly", strike + 1))
            await agents.kill(agents.effects().nodes["deadly"][-1].split("/")[1])
        with pytest.raises(DeliveryError) as caught:
            await call
        assert len(caught.value.attempts) == 3
        assert len({attempt.node for attempt in caught.value.attempts}) == 3


async def test_an_agent_killed_and_started_again_at_once_does_not_wait_out_its_old_lease() -> None:
    async with (
        team(None, None, ttl=30.0) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await agents.start("a1")
        await agents.ready(orchestrator, ["a1"])
        before = await orchestrator.registry.get("a1", "chaos")
        await agents.kill("a1")
        await agents.start("a1")

        def reborn() -> bool:
            record = orchestrator.node("chaos/a1")
            return record is not None and record.uid != before.uid and record.state == "ready"

        await eventually(reborn, 10)
        assert await orchestrator.call("work", {"command": "c", "seconds": 0}, namespace="chaos", timeout=10)


async def test_a_terminated_agent_finishes_its_work_exits_with_zero_and_leaves_no_trace() -> None:
    async with (
        team(None, None) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await agents.start("a1")
        await agents.ready(orchestrator, ["a1"])
        call = asyncio.create_task(
            orchestrator.call("work", {"command": "c", "seconds": 0.3}, namespace="chaos")
        )
        await eventually(lambda: agents.effects().started["c"] == 1)
        status = asyncio.create_task(agents.retire("a1"))
        assert (await call)["node"] == "chaos/a1"
        assert await status == 0
        await eventually(lambda: orchestrator.node("chaos/a1") is None)
        with pytest.raises(NoCapableNodesError):
            await orchestrator.call("work", {"command": "d", "seconds": 0}, namespace="chaos")


async def test_an_agent_frozen_for_longer_than_its_ttl_comes_back_by_itself_under_a_new_uid() -> None:
    async with (
        team(None, None, ttl=1.0) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await agents.start("a1")
        await agents.ready(orchestrator, ["a1"])
        before = (await orchestrator.registry.get("a1", "chaos")).uid

        def state() -> Any:
            record = orchestrator.node("chaos/a1")
            return None if record is None else (record.state, record.uid)

        agents.freeze("a1")
        await eventually(lambda: state() is not None and state()[0] == "offline", 15)
        agents.thaw("a1")
        await eventually(lambda: state() is not None and state()[0] == "ready" and state()[1] != before, 15)
        assert await orchestrator.call("work", {"command": "c", "seconds": 0}, namespace="chaos", timeout=10)


async def test_a_rolling_restart_under_load_fails_nothing_and_does_nothing_twice() -> None:
    names = ["a1", "a2", "a3"]
    async with (
        team(None, None, ttl=30.0, capacity=4) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(*(agents.start(name) for name in names))
        await agents.ready(orchestrator, names)
        load = asyncio.create_task(send(orchestrator, 150, in_flight=8, seconds=0.05, rate=60))
        for name in names:
            assert await agents.retire(name) == 0
            await agents.start(name)
            await agents.ready(orchestrator, names)
        outcome = await load
        effects = agents.effects()
    assert not outcome.errors
    assert len(outcome.answers) == 150
    assert set(effects.ended.values()) == {1}
    assert set(effects.started.values()) == {1}


async def test_an_agent_that_was_silent_and_answers_again_gets_work_again_though_nothing_was_out_there() -> (
    None
):
    capabilities = [{"name": "work", "idempotent": True}]
    async with (
        team(None, None, ttl=30.0, capabilities=capabilities) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(agents.start("a1"), agents.start("a2"))
        await agents.ready(orchestrator, ["a1", "a2"])

        def suspect() -> bool:
            return any(
                row.node == "chaos/a1" and row.reason.startswith("suspect")
                for row in orchestrator.team.router.explain("work")
            )

        agents.freeze("a1")
        calls = [
            orchestrator.call("work", {"command": f"c{number}", "seconds": 0}, namespace="chaos", timeout=10)
            for number in range(6)
        ]
        assert {answer["node"] for answer in await asyncio.gather(*calls)} == {"chaos/a2"}
        await eventually(suspect)
        agents.thaw("a1")
        await eventually(lambda: not suspect())
