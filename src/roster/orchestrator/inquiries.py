"""Asks nodes that others have filled to say when they have room, as long as calls wait for it.

A caller hears of a node's load with each answer of that node. Of one where nothing of its own is out it hears from the
registry alone, which is told at most once a second; its calls would wait for that though the node has long been free. So the
node is asked, over control `room`, and answers when it has room, or after a moment all the same. That costs nothing at the
registry, keeps no command in a busy node's hands, and nobody asks in a loop: the question itself waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from roster._clock import boottime
from roster.bus import Message
from roster.bus.message import Kind
from roster.errors import CallError
from roster.orchestrator.patience import Patience
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.orchestrator.query import Query
    from roster.orchestrator.teamview import TeamView

logger = logging.getLogger("roster.orchestrator")

# Seconds between two looks. Who was heard of since the last one has work of ours in hand, as a rule: the next answer tells.
_LOOK = 0.05
# Questions that are out at a time, and those begun in a second.
_AT_ONCE = 8
_RATE = 10.0
# Seconds: longer than a node keeps a question; who was silent for so long, or takes no work, is left alone for a while.
_PATIENCE = 1.5
_REST = 1.0


class Inquiries:
    """The questions of one orchestrator.

    Args:
        team: its registry, its router and its bus.
        now: the clock that decides.
    """

    def __init__(self, team: TeamView, now: Callable[[], float] = boottime) -> None:
        self._team = team
        self._now = now
        self.asked = 0
        self._patience = Patience(team.bus, _PATIENCE, now)
        self._wanted: dict[Query, int] = {}
        self._heard: dict[str, int] = {}
        self._resting: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._tokens = float(_AT_ONCE)
        self._filled_at = now()
        self._looked = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def waits(self, query: Query) -> None:
        """A call begins to wait for room."""
        self._wanted[query] = self._wanted.get(query, 0) + 1
        if self._timer is None and not self._closed:
            self._plan(self._looked + _LOOK - self._now())

    def over(self, query: Query) -> None:
        """It waits no longer."""
        left = self._wanted[query] - 1
        if left:
            self._wanted[query] = left
        else:
            del self._wanted[query]

    def close(self) -> None:
        """Ask nobody any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._asking.values()):
            task.cancel()

    def _plan(self, delay: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self.look)

    def look(self) -> None:
        """Ask whoever should be asked now, and look again soon, as long as calls wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._now()
        if not self._wanted:
            return
        if (early := self._looked + _LOOK - now) > 0:
            self._plan(early)
            return
        self._looked = now
        if len(self._asking) < _AT_ONCE:
            for node in self._silent(now):
                if len(self._asking) >= _AT_ONCE or not self._may_ask(now):
                    break
                self._ask(node)
        self._plan(_LOOK)

    def _silent(self, now: float) -> list[NodeRecord]:
        """Return those that others fill, for all we know, and of whom nothing was heard since the last look.

        Those where nothing of ours is out come first, in an order that differs from caller to caller.
        """
        team, heard = self._team, self._heard
        self._heard = {}
        self._resting = {key: until for key, until in self._resting.items() if until > now}
        found: dict[str, tuple[bool, float, NodeRecord]] = {}
        for query in self._wanted:
            filled = team.router.filled(query.capability, **query.where)
            for node, load in filled:
                self._heard[node.key] = load.seq
                if (
                    heard.get(node.key) == load.seq
                    and node.key not in self._asking
                    and node.key not in self._resting
                ):
                    # The router knows no other nodes than the records that the orchestrator gave it.
                    found[node.key] = load.mine > 0, team.rng.random(), cast("NodeRecord", node)
        return [node for *_, node in sorted(found.values(), key=lambda one: one[:2])]

    def _may_ask(self, now: float) -> bool:
        self._tokens = min(float(_AT_ONCE), self._tokens + (now - self._filled_at) * _RATE)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _ask(self, node: NodeRecord) -> None:
        self.asked += 1
        task = asyncio.create_task(self._hear(node), name=f"ask {node.key} for room")
        self._asking[node.key] = task
        task.add_done_callback(lambda done: self._over(node.key, done))

    async def _hear(self, node: NodeRecord) -> None:
        team = self._team
        message = Message.control("room", source=team.source, uid=node.uid)
        answer = await self._patience.hear(node, message)
        load = answer.load
        if answer.kind is not Kind.RESULT or load is None:
            self._resting[node.key] = self._now() + _REST
            return
        team.router.full(node.key, (load.active, load.mine, load.capacity, load.seq), uid=node.uid)
        team.room(node)

    def _over(self, key: str, task: asyncio.Task[None]) -> None:
        self._asking.pop(key, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # Nothing of ours is out there: this says nothing of the node that its leases and answers do not say better.
        self._resting[key] = self._now() + _REST
        level = logging.DEBUG if isinstance(error, (CallError, TimeoutError)) else logging.ERROR
        logger.log(level, "%s did not help: %s", task.get_name(), str(error) or "no answer")
