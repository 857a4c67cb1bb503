"""Calls that wait for room, by capability, in order of priority and arrival."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Place:
    """One call's place in the queue. It is kept while the call tries again, so that nobody overtakes it."""

    order: tuple[int, int]
    woken: asyncio.Future[None]
    queued: bool = False


class WaitingRoom:
    """Wakes as many calls as there is room for, best first.

    A call that is woken and finds the room taken (its selector may not match the node that became free) goes back to its
    old place, and passes the wake-up on.
    """

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[tuple[int, int], Place]]] = {}
        self._counter = itertools.count()

    def place(self, priority: int) -> Place:
        """Return a new place at the end of its priority."""
        return Place((-priority, next(self._counter)), asyncio.get_running_loop().create_future())

    def waiting(self, capability: str) -> int:
        """Return how many calls wait for this capability."""
        return sum(place.queued for _, place in self._heaps.get(capability, ()))

    async def wait(self, capability: str, place: Place, timeout: float) -> bool:
        """Wait to be woken; return False when `timeout` seconds have passed."""
        place.woken = asyncio.get_running_loop().create_future()
        place.queued = True
        heapq.heappush(self._heaps.setdefault(capability, []), (place.order, place))
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
        """Wake the first `count` calls that wait for this capability."""
        heap = self._heaps.get(capability)
        if heap is None:
            return
        while heap and count > 0:
            _, place = heapq.heappop(heap)
            if place.queued and not place.woken.done():
                place.queued = False
                place.woken.set_result(None)
                count -= 1
        if not heap:
            del self._heaps[capability]
