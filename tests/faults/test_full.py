"""Nodes that others have filled: whoever waits for room hears of it from the node, whatever the registry says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.conftest import eventually
from tests.faults.stage import serving, state

from roster import Orchestrator
from roster.registry import Registration
from roster.testing import Team

Urls = tuple[str, str]


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that wait go by what they are told alone: none looks by itself after a second."""
    monkeypatch.setattr("roster.orchestrator.candidates._LOOK_AGAIN", 60.0)


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which no node of this process tells the registry its load any more."""
    return lambda: monkeypatch.setattr(Registration, "report", lambda *args, **options: None)


@asynccontextmanager
async def filled(urls: Urls) -> AsyncIterator[tuple[Orchestrator, Callable[[], Awaitable[None]]]]:
    """A caller of a node that does `work`, which another has filled, and a function after which the node is empty."""
    go = asyncio.Event()

    async def hold() -> None:
        await go.wait()

    async with (
        serving(urls, {"a": {"hold": hold, "work": lambda: "done"}}, at_once=1) as orchestrator,
        Orchestrator.connect(*urls) as other,
    ):
        holding = asyncio.create_task(other.call("hold", timeout=30))

        async def empty() -> None:
            go.set()
            await holding

        await eventually(lambda: state(orchestrator, "default/a") == "busy")
        yield orchestrator, empty


async def test_a_call_that_waits_for_a_node_which_others_have_filled_goes_there_as_soon_as_it_has_room(
    urls: Urls, mute: Callable[[], None]
) -> None:
    async with filled(urls) as (orchestrator, empty):
        mute()
        waiting = [asyncio.create_task(orchestrator.call("work", timeout=30)) for _ in range(3)]
        await eventually(lambda: orchestrator.team.waiting.waiting("work") == 3)
        await empty()
        assert await asyncio.gather(*waiting) == ["done"] * 3
        assert state(orchestrator, "default/a") == "busy", "the registry knows of no room to this moment"


async def test_a_call_that_waits_is_told_again_and_again_by_a_node_that_stays_full(
    urls: Urls, mute: Callable[[], None]
) -> None:
    """The question waits at the node, at most for a moment; then it is asked anew, for as long as the call waits."""
    async with filled(urls) as (orchestrator, empty):
        mute()
        waiting = asyncio.create_task(orchestrator.call("work", timeout=30))
        await eventually(lambda: orchestrator.team.inquiries.asked == 3)
        assert not waiting.done()
        await empty()
        assert await waiting == "done"


async def test_a_node_that_refused_for_want_of_room_is_no_worse_than_the_other_full_ones(
    mute: Callable[[], None],
) -> None:
    async with Team() as team:
        first = await team.add("work", lambda: "first", name="first", capacity=1)
        second = await team.add("work", lambda: "second", name="second", capacity=1)
        await second.node.occupy(1)
        await eventually(lambda: team.orchestrator.team.router.free("work") == 1)
        mute()
        await first.node.occupy(3)  # which nobody hears of but by its refusal
        call = asyncio.create_task(team.ask("work", timeout=30))
        await eventually(lambda: team.orchestrator.team.waiting.waiting("work") == 1)
        await first.node.occupy(0)
        answer = await call
    assert [attempt.node for attempt in answer.attempts] == [first.key] * 2
    assert [attempt.outcome for attempt in answer.attempts] == ["refused", None]


class Work:
    """What nodes do: begin, and end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.go = asyncio.Event()

    async def __call__(self, number: int) -> None:
        self.begun.append(number)
        await self.go.wait()


async def test_room_for_several_is_told_to_several(mute: Callable[[], None]) -> None:
    work = Work()
    async with Team() as team:
        node = (await team.add("work", work.__call__, capacity=3)).node
        await node.occupy(3)
        await eventually(lambda: team.orchestrator.team.router.free("work") == 0)
        mute()
        calls = [asyncio.create_task(team.call("work", {"number": n}, timeout=30)) for n in range(3)]
        await eventually(lambda: team.orchestrator.team.waiting.waiting("work") == 3)
        await node.occupy(0)
        await eventually(lambda: sorted(work.begun) == [0, 1, 2])
        work.go.set()
        await asyncio.gather(*calls)


async def test_a_call_that_wants_another_node_keeps_nobody_from_the_room_that_there_is(
    mute: Callable[[], None],
) -> None:
    work = Work()
    async with Team() as team:
        near = await team.add("work", work.__call__, capacity=1, labels={"zone": "near"})
        await team.add("work", work.__call__, capacity=1, labels={"zone": "far"})

        def call(number: int, **options: Any) -> asyncio.Task[Any]:
            return asyncio.create_task(team.call("work", {"number": number}, timeout=30, **options))

        calls = [call(0, selector="zone=far")]
        await near.node.occupy(1)
        await eventually(lambda: work.begun == [0] and team.orchestrator.team.router.free("work") == 0)
        mute()
        calls += [call(1, selector="zone=far", priority=9), call(2)]
        await eventually(lambda: team.orchestrator.team.waiting.waiting("work") == 2)
        await near.node.occupy(0)
        await eventually(lambda: work.begun == [0, 2])
        work.go.set()
        await asyncio.gather(*calls)
