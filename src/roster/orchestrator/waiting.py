"""Calls that wait for room, by capability, in order of priority and arrival."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Place:
    """One call's place in the queue. It is kept while the call tries again, so that nobody overtakes it."""

    order: tuple[int, int]
    woken: asyncio.Future[None]
    queued: bool = False


class WaitingRoom:
    """Wakes as many calls as there is room for, best first.

    Room is for whoever may take it: of the calls that ask for the same nodes the best are woken, and of each other question
    as many, since the first in order may want none of the nodes that became free. Who finds the room taken goes back to its
    old place.
    """

    def __init__(self) -> None:
        self._heaps: dict[str, dict[Hashable, list[tuple[tuple[int, int], Place]]]] = {}
        self._counter = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._heaps)

    def place(self, priority: int) -> Place:
        """Return a new place at the end of its priority."""
        return Place((-priority, next(self._counter)), asyncio.get_running_loop().create_future())

    def waiting(self, capability: str) -> int:
        """Return how many calls wait for this capability."""
        heaps = self._heaps.get(capability, {})
        return sum(place.queued for heap in heaps.values() for _, place in heap)

    async def wait(self, capability: str, place: Place, timeout: float, question: Hashable = None) -> bool:
        """Wait to be woken; return False when `timeout` seconds have passed.

        Args:
            question: which nodes will do; calls with the same one are in each other's way.
        """
        place.woken = asyncio.get_running_loop().create_future()
        place.queued = True
        heap = self._heaps.setdefault(capability, {}).setdefault(question, [])
        heapq.heappush(heap, (place.order, place))
        try:
            async with asyncio.timeout(timeout):
                await place.woken
        except TimeoutError:
            if not place.woken.done() or place.woken.cancelled():
                return False
        except BaseException:
            if place.woken.done() and not place.woken.cancelled():
                # Woken and cancelled at once: the room is another's now.
                self.wake(capability)
            raise
        finally:
            place.queued = False
        return True

    def wake(self, capability: str, count: int = 1) -> None:
        """Wake the first `count` calls of each question that wait for this capability."""
        heaps = self._heaps.get(capability)
        if heaps is None:
            return
        found = [place for question in list(heaps) for place in self._first(heaps, question, count)]
        if not heaps:
            del self._heaps[capability]
        for place in sorted(found, key=lambda place: place.order):
            place.woken.set_result(None)

    def _first(
        self, heaps: dict[Hashable, list[tuple[tuple[int, int], Place]]], question: Hashable, count: int
    ) -> list[Place]:
        heap = heaps[question]
        found: list[Place] = []
        while heap and len(found) < count:
            _, place = heapq.heappop(heap)
            if place.queued and not place.woken.done():
                place.queued = False
                found.append(place)
        if not heap:
            del heaps[question]
        return found
