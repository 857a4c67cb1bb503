"""A node tells those who asked when it has room, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.conftest import eventually, passport

from roster import Node, Orchestrator
from roster.bus.base import Delivery
from roster.bus.mindbus import MindBus
from roster.errors import CallError, NodeError
from roster.node import askers
from roster.node.askers import Askers

Urls = tuple[str, str]


class Question:
    """A delivery, as far as it is looked at here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.on_cancel: Callable[[], None] | None = None


class Desk:
    """Askers of a node whose room is the test's."""

    def __init__(self) -> None:
        self.spare = 0
        self.told: list[str] = []
        self.askers = Askers(
            lambda: self.spare, lambda delivery: self.told.append(cast("Question", delivery).name)
        )

    def ask(self, name: str) -> Question:
        question = Question(name)
        self.askers.ask(cast("Delivery", question))
        return question


async def test_who_asks_while_there_is_room_is_told_at_once() -> None:
    desk = Desk()
    desk.spare = 1
    desk.ask("a")
    assert desk.told == ["a"]
    assert not desk.askers.waiting


async def test_one_is_told_of_each_room_and_the_next_when_some_is_left() -> None:
    desk = Desk()
    for name in "abcd":
        desk.ask(name)
    desk.askers.look()
    assert desk.told == [], "there is none"
    desk.spare = 1
    desk.askers.look()
    assert desk.told == ["a"], "the first in order, and no other in the same moment"
    desk.askers.look()
    assert desk.told == ["a", "b"], "another command has ended"
    await eventually(lambda: desk.told == ["a", "b", "c", "d"])


async def test_when_the_room_is_taken_the_next_one_waits_on() -> None:
    desk = Desk()
    for name in "ab":
        desk.ask(name)
    desk.spare = 1
    desk.askers.look()
    desk.spare = 0
    await eventually(lambda: desk.askers._turn is None)
    assert desk.told == ["a"]
    desk.askers.close()
    assert desk.told == ["a", "b"], "whoever waits when the node leaves is told so"


async def test_a_question_that_is_taken_back_is_forgotten() -> None:
    desk = Desk()
    gone, _ = desk.ask("a"), desk.ask("b")
    assert gone.on_cancel is not None
    gone.on_cancel()
    desk.spare = 1
    desk.askers.look()
    assert desk.told == ["b"]


async def test_a_question_is_answered_after_a_while_and_too_many_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(askers, "HOLD", 0.01)
    monkeypatch.setattr(askers, "MOST", 2)
    desk = Desk()
    for name in "abc":
        desk.ask(name)
    assert desk.told == ["c"]
    await eventually(lambda: desk.told == ["c", "a", "b"])


async def test_a_full_node_answers_when_it_has_room_and_one_that_takes_no_work_denies_it(urls: Urls) -> None:
    go = asyncio.Event()
    node = Node(passport("writer-001", "work", at_once=1), registry_url=urls[0], bus_url=urls[1])

    @node.capability("work")
    async def work() -> None:
        await go.wait()

    with pytest.raises(NodeError):
        node.signal("room")(lambda data: None)
    async with node, Orchestrator.connect(*urls) as orchestrator, MindBus.connect(urls[1]) as mindbus:
        queue = node.passport.mindbus_queue

        def ask() -> asyncio.Task[Any]:
            return asyncio.create_task(mindbus.send_control(queue, "room", timeout=20))

        assert (await ask())["node"] == node.key
        call = asyncio.create_task(orchestrator.call("work", timeout=20))
        await eventually(lambda: node.active_tasks == 1)
        asked = ask()
        await mindbus.send_control(queue, "ping")
        assert not asked.done()
        go.set()
        await asked
        await call
        await mindbus.send_control(queue, "pause")
        with pytest.raises(CallError, match="is paused"):
            await ask()
