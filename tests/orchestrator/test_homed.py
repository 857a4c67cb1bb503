"""Calls of a run's steps: the node that had the work before is asked first, and waited for where it has the answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from roster._clock import boottime
from roster.errors import DeliveryError
from roster.orchestrator.homed import HomedCall


class Team:
    """Two nodes, and what the first says of the key, question by question."""

    def __init__(self, *said: str) -> None:
        self.keys = self
        self.said = list(said)
        self.start("1")
        self.second = SimpleNamespace(key="default/second", uid="1", state="ready")
        self.dispatched: list[str] = []
        self.waited = 0

    def start(self, uid: str) -> None:
        """The first one is there under a uid."""
        self.first = SimpleNamespace(key="default/first", uid=uid, state="ready")

    def node(self, key: str) -> Any:
        return self.first if key == self.first.key else self.second

    async def ask(self, node: Any, scope: str, limit: float) -> str:
        return self.said.pop(0)

    async def wait(self, key: str, priority: int, seconds: float) -> None:
        self.waited += 1

    def call(self) -> HomedCall:
        now = boottime()

        async def dispatch(node: Any) -> None:
            self.dispatched.append(node.key)

        call: Any = SimpleNamespace(
            team=self,
            query=SimpleNamespace(capability="do"),
            began=now,
            deadline=now + 600,
            priority=0,
            last=DeliveryError("its connection was lost"),
        )
        return HomedCall(call, "key", "source", self.first.key, dispatch, lambda: False)

    @property
    def candidates(self) -> Any:
        """Whoever is no home may go to the second."""

        async def choose() -> Any:
            return self.second

        return SimpleNamespace(choose=choose, excluded=tuple, gone=lambda node: None)


async def tries(call: HomedCall, team: Team) -> Any:
    node = None
    while node is None:
        node = await call.choose(team.candidates)
    return node


async def test_a_node_that_had_the_answer_and_died_before_it_gave_it_is_waited_for() -> None:
    team = Team("kept", "gone", "gone", "kept")
    call = team.call()
    node = await tries(call, team)
    call.cut = True
    team.start("2")  # it was killed, and is starting again
    await call.failed(node, team.candidates)
    assert await tries(call, team) is team.first
    assert team.waited >= 1
    assert team.dispatched == ["default/first"] * 2


@pytest.mark.parametrize("said", ["running", "kept"])
async def test_a_node_that_does_not_come_back_or_died_at_it_is_replaced(said: str) -> None:
    team = Team(said, "gone", "unknown")
    call = team.call()
    node = await tries(call, team)
    call.cut = True
    team.start("2")
    await call.failed(node, team.candidates)
    assert await tries(call, team) is team.second
    assert bool(team.waited) is (said == "kept")
