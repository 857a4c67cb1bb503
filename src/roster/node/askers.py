"""Callers that asked to be told when the node has room: who waits to hear it, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from roster.bus.base import Delivery

HOLD = 0.8
"""Seconds that a question waits for its answer: after one second RabbitMQ's client looks whether the node is still there."""

MOST = 1000
"""Questions that wait at a time; one more is answered at once."""

# Seconds that one who was told has to fill the room, before the next is told of what is left of it.
_TURN = 0.02


class Askers:
    """Tells one after the other, in order of asking: one room must not bring every caller's commands at once.

    Args:
        spare: returns how many more commands the node would start now.
        tell: answers a question; the load rides in the answer.

    Attributes:
        waiting: the questions that wait, the oldest first; read it, change it with the methods alone.
    """

    def __init__(self, spare: Callable[[], int], tell: Callable[[Delivery], None]) -> None:
        self._spare = spare
        self._tell = tell
        self.waiting: dict[Delivery, asyncio.TimerHandle] = {}
        self._turn: asyncio.TimerHandle | None = None

    def ask(self, delivery: Delivery) -> None:
        """Answer now if there is room, else when there is, after `HOLD` seconds all the same."""
        if self._spare() > 0 or len(self.waiting) >= MOST:
            self._tell(delivery)
            return
        # Late is told as well: the load may have changed without leaving room.
        self.waiting[delivery] = asyncio.get_running_loop().call_later(HOLD, self._say, delivery)
        delivery.on_cancel = lambda: self._forget(delivery)

    def look(self) -> None:
        """There may be room: tell the one who waits longest, and soon the next if there still is."""
        if not self.waiting or self._spare() <= 0:
            return
        self._say(next(iter(self.waiting)))
        if self.waiting and self._turn is None:
            self._turn = asyncio.get_running_loop().call_later(_TURN, self._next)

    def close(self) -> None:
        """Tell all who wait, and stop."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        for delivery in list(self.waiting):
            self._say(delivery)

    def _next(self) -> None:
        self._turn = None
        self.look()

    def _say(self, delivery: Delivery) -> None:
        self._forget(delivery)
        self._tell(delivery)

    def _forget(self, delivery: Delivery) -> None:
        timer = self.waiting.pop(delivery, None)
        if timer is not None:
            timer.cancel()
