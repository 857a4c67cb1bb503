"""When something is due for each of many keys: the next is found without a look at all of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Due:
    """Due times by key. Putting one off costs nothing: the heap hears of it when the old time has come."""

    __slots__ = ("_heap", "_times")

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __contains__(self, key: str) -> bool:
        return key in self._times

    def set(self, key: str, when: float) -> None:
        """Have it due then, and at no other time."""
        known = self._times.get(key)
        self._times[key] = when
        if known is None or when < known:
            heapq.heappush(self._heap, (when, key))

    def drop(self, key: str) -> None:
        """Have it due no more."""
        self._times.pop(key, None)

    def put_off(self, until: Callable[[str], float]) -> None:
        """Set the time of each anew, to a later one."""
        for key in self._times:
            self._times[key] = until(key)

    @property
    def next(self) -> float | None:
        """When the first of them is due; None if there are none."""
        while self._heap:
            when, key = self._heap[0]
            due = self._times.get(key)
            if due == when:
                return when
            heapq.heappop(self._heap)
            if due is not None and due > when:
                heapq.heappush(self._heap, (due, key))
        return None

    def take(self, now: float) -> str | None:
        """Take out the first one if it is due, and return its key."""
        due = self.next
        if due is None or due > now:
            return None
        _, key = heapq.heappop(self._heap)
        del self._times[key]
        return key
