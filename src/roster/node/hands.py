"""What a node holds in its hands: the commands that run, and those that wait, in order of priority."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from roster.bus import Message
from roster.bus.base import Delivery
from roster.bus.context import Handling
from roster.node.context import Context
from roster.node.handlers import Handler

if TYPE_CHECKING:
    from roster.node.keyed import Entry


# Behind every priority: what must be alone starts when the rest has ended.
_LAST = 1


class Stage(Enum):
    """How far a command is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Work:
    """One command from its arrival to its answer.

    `task` belongs to the loop of the handlers, everything else to the loop of the bus.
    """

    delivery: Delivery
    message: Message
    handler: Handler
    context: Context
    handling: Handling
    stage: Stage = Stage.WAITING
    solo: bool = False
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[Any] | None = None
    entry: Entry | None = None  # of its idempotency key


@dataclass(slots=True)
class Hands:
    """Counts and orders the commands in hand. Pure: it neither runs nor answers anything.

    A node takes `capacity` commands to run and `max(2, capacity)` more to have the next ones at hand; above that it is
    full, and says so at once, since the caller may know a better place.
    """

    capacity: int
    beside: int = 0  # tasks that came by another door
    running: set[Work] = field(default_factory=set)
    _heap: list[tuple[int, int, Work]] = field(default_factory=list)
    _waiting: int = 0
    _counter: itertools.count[int] = field(default_factory=itertools.count)
    _by_sender: dict[int, int] = field(default_factory=dict)

    @property
    def active(self) -> int:
        """How many commands are in hand, running or waiting, and the tasks beside them."""
        return len(self.running) + self._waiting + self.beside

    @property
    def empty(self) -> bool:
        """Whether no command is in hand."""
        return not self.running and not self._waiting

    @property
    def waiting(self) -> int:
        """How many of them wait."""
        return self._waiting

    @property
    def limit(self) -> int:
        """How many commands may be in hand at once, those that wait included."""
        return self.capacity + max(2, self.capacity)

    @property
    def full(self) -> bool:
        """Whether one more must be refused."""
        return self.active >= self.limit

    def of(self, sender: int) -> int:
        """Return how many of the commands in hand came from this sender."""
        return self._by_sender.get(sender, 0)

    def take(self, work: Work) -> None:
        """Take a command in: it waits until `next` gives it out."""
        rank = _LAST if work.solo else -work.message.priority
        heapq.heappush(self._heap, (rank, next(self._counter), work))
        self._waiting += 1
        self._by_sender[work.delivery.sender] = self._by_sender.get(work.delivery.sender, 0) + 1

    def next(self, held: Collection[int] = ()) -> Work | None:
        """Give out the command to run now, or None: no slot is free, or nothing waits.

        Args:
            held: senders whose commands must wait.
        """
        if len(self.running) + self.beside >= self.capacity:
            return None
        kept: list[tuple[int, int, Work]] = []
        found = None
        while self._heap and found is None:
            entry = heapq.heappop(self._heap)
            work = entry[2]
            if work.stage is not Stage.WAITING:
                continue
            if held and work.delivery.sender in held:
                kept.append(entry)
                continue
            if work.solo and (self.running or self.beside or self._waiting > 1):
                kept.append(entry)  # its turn comes when nothing else is in hand
                break
            self._waiting -= 1
            work.stage = Stage.RUNNING
            self.running.add(work)
            found = work
        for entry in kept:
            heapq.heappush(self._heap, entry)
        return found

    def drop(self, work: Work) -> bool:
        """Let go of a command, running or waiting; return whether it was still in hand."""
        if work.stage is Stage.DONE:
            return False
        if work.stage is Stage.RUNNING:
            self.running.discard(work)
        else:
            self._waiting -= 1  # its heap entry is skipped when it comes up
            if len(self._heap) > 64 and len(self._heap) > 4 * (self._waiting + 1):
                # Many were taken back while they waited: do not hold on to them.
                self._heap = [
                    entry for entry in self._heap if entry[2].stage is Stage.WAITING and entry[2] is not work
                ]
                heapq.heapify(self._heap)
        work.stage = Stage.DONE
        sender = work.delivery.sender
        left = self._by_sender.get(sender, 1) - 1
        if left > 0:
            self._by_sender[sender] = left
        else:
            self._by_sender.pop(sender, None)
        return True

    def everything(self) -> list[Work]:
        """Return all commands in hand: the running ones, then the waiting ones in order."""
        waiting = [
            entry[2] for entry in sorted(self._heap, key=lambda e: e[:2]) if entry[2].stage is Stage.WAITING
        ]
        return [*self.running, *waiting]
