"""Keys and agents that are killed, frozen and started again, as processes of their own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chaos.team import Team, team
from tests.conftest import eventually

from roster import Orchestrator
from roster.bus.keys import scope_of
from roster.routing.strategies import rendezvous

NAMES = ("a1", "a2")


@pytest.fixture(autouse=True)
def _state(private_state: Path) -> None:
    """Answers are kept in a directory of this test alone."""


@asynccontextmanager
async def agents(ttl: float = 3.0) -> AsyncIterator[tuple[Team, Orchestrator]]:
    async with team(None, None, ttl=ttl) as made, caller(made) as orchestrator:
        await asyncio.gather(*(made.start(name) for name in NAMES))
        await made.ready(orchestrator, NAMES)
        yield made, orchestrator


@asynccontextmanager
async def caller(made: Team) -> AsyncIterator[Orchestrator]:
    async with Orchestrator.connect(made.registry_url, made.bus_url) as orchestrator:
        yield orchestrator


def key_of(name: str) -> str:
    """Return a key that belongs to this agent."""
    for number in range(1000):
        score = rendezvous(scope_of("default", "work", f"key-{number}"))
        if max(NAMES, key=lambda one: score(f"chaos/{one}")) == name:
            return f"key-{number}"
    raise AssertionError("no key")


async def work(orchestrator: Orchestrator, seconds: float = 0.0, timeout: float = 30.0) -> Any:
    return await orchestrator.call(
        "work",
        {"command": "c", "seconds": seconds},
        namespace="chaos",
        timeout=timeout,
        idempotency_key=key_of("a1"),
    )


def begun_on(made: Team) -> list[str]:
    return list(made.effects().nodes["c"])


async def uid_of(orchestrator: Orchestrator, name: str) -> str:
    return (await orchestrator.registry.get(name, "chaos")).uid


async def reborn(orchestrator: Orchestrator, name: str, before: str) -> None:
    def ready() -> bool:
        record = orchestrator.node(f"chaos/{name}")
        return record is not None and record.uid not in ("", before) and record.state == "ready"

    await eventually(ready, 15)


async def test_when_the_executor_is_killed_another_does_it_once_for_all_who_asked() -> None:
    async with agents() as (made, orchestrator), caller(made) as other:
        await other.start()
        calls = [asyncio.create_task(work(one, 2)) for one in (orchestrator, orchestrator, other)]
        await eventually(lambda: begun_on(made) == ["chaos/a1"])
        made.processes["a1"].send_signal(signal.SIGKILL)
        answers = await asyncio.gather(*calls)
        assert [answer["node"] for answer in answers] == ["chaos/a2"] * 3
        assert begun_on(made) == ["chaos/a1", "chaos/a2"]
        assert made.effects().ended["c"] == 1
        await made.processes["a1"].wait()
        await made.start("a1")
        await made.ready(orchestrator, NAMES)
        async with caller(made) as fresh:
            assert (await work(orchestrator, 2))["node"] == "chaos/a2"
            await made.ready(fresh, NAMES)
            assert (await work(fresh, 2))["node"] == "chaos/a2", "though the key belongs to a1, which is back"
        assert made.effects().started["c"] == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_agent_that_was_killed_or_restarted_answers_what_it_kept(number: signal.Signals) -> None:
    async with agents() as (made, orchestrator):
        answer = await work(orchestrator)
        assert answer["node"] == "chaos/a1"
        before = await uid_of(orchestrator, "a1")
        made.processes["a1"].send_signal(number)
        await made.processes["a1"].wait()
        await made.start("a1")
        await reborn(orchestrator, "a1", before)
        assert await work(orchestrator) == answer
        async with caller(made) as fresh:
            await made.ready(fresh, NAMES)
            assert await work(fresh) == answer
        assert begun_on(made) == ["chaos/a1"]


async def test_an_executor_frozen_past_its_lease_is_replaced_and_finishes_nothing() -> None:
    async with agents(ttl=4.0) as (made, orchestrator):
        before = await uid_of(orchestrator, "a1")
        call = asyncio.create_task(work(orchestrator, 2))
        await eventually(lambda: begun_on(made) == ["chaos/a1"])
        made.freeze("a1")
        assert (await call)["node"] == "chaos/a2"
        made.thaw("a1")
        await reborn(orchestrator, "a1", before)
        async with caller(made) as fresh:
            await made.ready(fresh, NAMES)
            assert (await work(fresh, 2))["node"] == "chaos/a2"
        assert (await work(orchestrator, 2))["node"] == "chaos/a2"
        effects = made.effects()
    assert effects.nodes["c"] == ["chaos/a1", "chaos/a2"]
    assert effects.ended["c"] == 1


async def test_an_executor_frozen_for_less_is_waited_for_by_everybody() -> None:
    async with agents(ttl=20.0) as (made, orchestrator), caller(made) as fresh:
        call = asyncio.create_task(work(orchestrator, 2))
        await eventually(lambda: begun_on(made) == ["chaos/a1"])
        made.freeze("a1")
        repeat = asyncio.create_task(work(fresh, 2))
        await eventually(lambda: orchestrator.team.vigil._silent, 15)
        made.thaw("a1")
        assert (await call) == (await repeat)
        assert begun_on(made) == ["chaos/a1"]
        assert made.effects().ended["c"] == 1
