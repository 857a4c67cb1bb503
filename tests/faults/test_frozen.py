"""Agents that stand still, by SIGSTOP: for a moment, and past their lease."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from chaos.team import Team, scene
from tests.conftest import eventually
from tests.faults.stage import state, until_hands

from roster import CallAnswer, Orchestrator
from roster._clock import boottime

Urls = tuple[str, str]


async def _callers(stack: AsyncExitStack, agents: Team, number: int) -> list[Orchestrator]:
    """Return callers that do not know of each other: what one sends, the next does not see coming."""
    callers = []
    for _ in range(number):
        caller = await stack.enter_async_context(Orchestrator.connect(agents.registry_url, agents.bus_url))
        await caller.start()
        callers.append(caller)
    return callers


def _ask(
    caller: Orchestrator, command: str, seconds: float, capability: str = "work"
) -> asyncio.Task[CallAnswer]:
    params = {"command": command, "seconds": seconds}
    return asyncio.create_task(caller.ask(capability, params, namespace="chaos", timeout=40))


async def test_what_was_taken_back_from_an_agent_that_stood_still_starts_nowhere_twice(urls: Urls) -> None:
    ttl = 24.0  # half of it is never reached here: the lease is not in question
    safe = {"name": "safe", "idempotent": True}
    async with (
        scene(urls, ["a1"], ttl=ttl, capabilities=[safe], capacity=1) as (agents, orchestrator),
        AsyncExitStack() as stack,
    ):
        # All at once, before the first busy agent is heard of: one runs, two wait in its hands.
        calls = [
            _ask(caller, f"c{n}", 2, "safe") for n, caller in enumerate(await _callers(stack, agents, 3))
        ]
        await until_hands(orchestrator, "chaos/a1", 1, 2)
        agents.freeze("a1")
        frozen = boottime()
        await agents.start("a2", capacity=4)
        # Harmless work is sent to another as soon as there is one, and taken back from the silent agent: unread.
        answers = await asyncio.gather(*calls)
        stood = boottime() - frozen
        agents.thaw("a1")
        assert 0.5 < stood < ttl / 2
        assert {answer.node for answer in answers} == {"chaos/a2"}
        await agents.kill("a2")
        # Whatever a1 still held would come before this one.
        after = await _ask(orchestrator, "after", 0, "safe")
        assert after.node == "chaos/a1"
        effects = agents.effects()
    ran = [
        command for command, nodes in effects.nodes.items() if nodes[0] == "chaos/a1" and command != "after"
    ]
    assert len(ran) == 1
    waited = {f"c{n}" for n in range(3)} - {*ran}
    assert {command: effects.nodes[command] for command in waited} == {key: ["chaos/a2"] for key in waited}


@pytest.mark.parametrize("kind", ["eager", "plain"])
async def test_an_agent_that_stood_still_past_its_lease_has_no_effect_any_more(urls: Urls, kind: str) -> None:
    """It starts none of what it held, answers none, and what ran is stopped before its next line of code.

    An async function that never looks is cancelled before it resumes; one on a thread learns of it when it looks.
    """
    commands = {f"c{n}" for n in range(4)}
    async with (
        scene(urls, ["a1"], ttl=4.0, capabilities=[kind], capacity=2) as (agents, orchestrator),
        AsyncExitStack() as stack,
    ):
        before = orchestrator.node("chaos/a1")
        assert before is not None
        callers = await _callers(stack, agents, 4)
        calls = [_ask(caller, f"c{n}", 1.5, kind) for n, caller in enumerate(callers)]
        await until_hands(orchestrator, "chaos/a1", 2, 2)
        await eventually(lambda: len(agents.effects().started) == 2)
        agents.freeze("a1")
        await agents.start("a2", capacity=4)
        answers = await asyncio.gather(*calls)
        assert {answer.node for answer in answers} == {"chaos/a2"}
        agents.thaw("a1")

        def reborn() -> bool:
            record = orchestrator.node("chaos/a1")
            return record is not None and record.state == "ready" and record.uid != before.uid

        await eventually(reborn)
        await eventually(lambda: agents.effects().stopped.total() == 2)
        await agents.kill("a2")
        assert (await _ask(orchestrator, "after", 0, kind)).node == "chaos/a1"
        effects = agents.effects()
    assert len(effects.stopped) == 2
    for command in commands:
        caught = ["chaos/a1"] if command in effects.stopped else []
        assert effects.nodes[command] == [*caught, "chaos/a2"]
        assert effects.finishers[command] == ["chaos/a2"]


async def test_new_work_avoids_a_frozen_agent_and_harmless_work_does_not_wait_for_it(urls: Urls) -> None:
    ttl = 12.0
    kinds = ["work", {"name": "safe", "idempotent": True}]
    async with scene(urls, ["a1"], ttl=ttl, capabilities=kinds, capacity=8) as (agents, orchestrator):
        caught = _ask(orchestrator, "caught", 2)
        hedged = _ask(orchestrator, "hedged", 2, "safe")
        await until_hands(orchestrator, "chaos/a1", 2, 0)
        agents.freeze("a1")
        frozen = boottime()
        if caught.done() or hedged.done():  # a machine so busy that the work was over first
            raise AssertionError("the agent was frozen too late for this test")
        await agents.start("a2", capacity=8)
        assert (await hedged).node == "chaos/a2"
        assert boottime() - frozen < ttl, "it was not the end of the lease that freed it"
        assert state(orchestrator, "chaos/a1") in ("ready", "busy"), "only this caller has its doubts"
        for number in range(8):
            assert (await _ask(orchestrator, f"new{number}", 0)).node == "chaos/a2"
        answer = await caught
        # Unset is not harmless: it was sent again when the executor's lease had ended, not before.
        assert answer.node == "chaos/a2"
        assert boottime() - frozen > ttl / 2
        agents.thaw("a1")
        effects = agents.effects()
    assert effects.started["caught"] == effects.started["hedged"] == 2
