"""How long a node that lives may take to answer: one that is far away is not silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from roster._clock import boottime
from roster.bus import Message
from roster.bus.asking import answer_of
from roster.bus.base import Bus, OutlivesCallers
from roster.registry import NodeRecord

# Seconds that nobody is waited for any longer, and how often the time of the last answer, or of our own way to the broker.
_LONGEST = 4.0
_TIMES = 2.0
_MAX_REMEMBERED = 10_000


class Patience:
    """Asks nodes over control, and waits the longer for one the longer it has needed.

    With a broker between, a node's time begins when the broker has confirmed the question: until then it is our own line
    that is silent.

    Args:
        bus: the caller's.
        shortest: seconds that every node has.
        now: the clock that decides.
    """

    def __init__(self, bus: Bus, shortest: float, now: Callable[[], float] = boottime) -> None:
        self._bus = bus
        self._shortest = shortest
        self._now = now
        self._needed: dict[str, float] = {}

    async def hear(self, node: NodeRecord, message: Message) -> Message:
        """Send a control message to a node, and return its answer.

        Raises:
            TimeoutError: there is none in time; the next time it has longer.
            CallError: nobody serves its queue, or the connection broke.
        """
        patience = min(_LONGEST, max(self._shortest, _TIMES * self._needed.pop(node.key, 0.0)))
        began = self._now()
        if isinstance(self._bus, OutlivesCallers):
            exchange = await self._bus.send(node.mindbus_queue, message)
            # Whoever is as far from the broker as we are needs so long again.
            patience = min(_LONGEST, max(patience, _TIMES * (self._now() - began)))
        else:
            async with asyncio.timeout(patience):
                exchange = await self._bus.send(node.mindbus_queue, message)
            patience -= self._now() - began
        try:
            async with asyncio.timeout(patience):
                answer = await answer_of(exchange)
        except TimeoutError:
            self._remember(node.key, patience)
            raise
        self._remember(node.key, self._now() - began)
        return answer

    def _remember(self, key: str, needed: float) -> None:
        self._needed[key] = needed
        if len(self._needed) > _MAX_REMEMBERED:
            del self._needed[next(iter(self._needed))]
