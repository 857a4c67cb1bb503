"""Nodes that could not be reached just now: left out for a moment, longer each time, until they are heard of again."""

from __future__ import annotations

import asyncio

from roster.routing import Router

_FIRST = 0.25
_LONGEST = 8.0


class Suspects:
    """Marks nodes in the router. The registry learns of a death only when the lease ends; the bus knows at once."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._marked: dict[str, tuple[str, float, asyncio.TimerHandle]] = {}

    def mark(self, key: str, uid: str, why: str) -> None:
        """Leave this incarnation out for a moment."""
        before = self._marked.get(key)
        if before is not None and before[0] == uid:
            before[2].cancel()
            pause = min(before[1] * 2.0, _LONGEST)
        else:
            self.forget(key)
            pause = _FIRST
        self._router.suspect(key, why)
        timer = asyncio.get_running_loop().call_later(pause, self._router.trust, key)
        self._marked[key] = (uid, pause, timer)

    def seen(self, key: str, uid: str) -> None:
        """The registry has a node of this name: another incarnation begins without a mark."""
        before = self._marked.get(key)
        if before is not None and before[0] != uid:
            self.forget(key)

    def forget(self, key: str) -> None:
        """It answered, or is gone from the registry: nothing is held against it."""
        before = self._marked.pop(key, None)
        if before is not None:
            before[2].cancel()
            self._router.trust(key)

    def close(self) -> None:
        """Cancel every timer."""
        for _, _, timer in self._marked.values():
            timer.cancel()
        self._marked.clear()
