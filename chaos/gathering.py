"""What a caller sees of its team, moment by moment: who is found, who is called dead, and how fresh its copy is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from roster import NodeEvent, Orchestrator
from roster._clock import boottime

_LOOK = 0.02


class Onlooker:
    """Looks at a caller's registry all the time, and listens to its events.

    Attributes:
        fewest: the smallest number of candidates that a lookup has returned.
        slowest: seconds of the slowest lookup.
        stalest: seconds, the greatest staleness.
        looks: how many lookups.
        dead: events by which a node was called dead.
        doubted: how many events called a node `unknown`.
        unready: the last moment at which a candidate was not healthy, CLOCK_BOOTTIME seconds; 0.0: none.
        edges: when the caller lost and found its registry, CLOCK_BOOTTIME seconds: (when, connected).
    """

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._registry = orchestrator.registry
        self.fewest = 10**9
        self.slowest = self.stalest = 0.0
        self.looks = 0
        self.unready = 0.0
        self.dead: list[str] = []
        self.doubted = 0
        self.edges: list[tuple[float, bool]] = []
        self._remove = self._registry.informer.add_listener(self._on_event)
        self._task = asyncio.create_task(self._look())

    def _on_event(self, event: NodeEvent) -> None:
        if event.type in ("offline", "removed"):
            self.dead.append(f"{event.name} {event.type}")
        self.doubted += event.type == "unknown"

    async def _look(self) -> None:
        informer = self._registry.informer
        while True:
            began = boottime()
            found = await self._registry.find(capability="work", state=("ready", "busy", "unknown"))
            self.slowest = max(self.slowest, boottime() - began)
            self.fewest = min(self.fewest, len(found))
            self.stalest = max(self.stalest, informer.staleness)
            self.looks += 1
            if not all(node.healthy for node in found):
                self.unready = boottime()
            if not self.edges or self.edges[-1][1] is not informer.connected:
                self.edges.append((boottime(), informer.connected))
            await asyncio.sleep(_LOOK)

    def after(self, when: float, connected: bool) -> float | None:
        """Return the seconds from a moment to the first time after it that the registry was lost, or found; None: never."""
        return next((at - when for at, now in self.edges if at >= when and now is connected), None)

    def uids(self) -> dict[str, str]:
        """Return the incarnations of the nodes that are healthy now."""
        return {node.name: node.uid for node in self._registry.informer.all() if node.healthy}

    async def until(self, condition: Callable[[dict[str, str]], bool], deadline: float) -> float | None:
        """Wait until a condition on `uids` holds; return the seconds that it took, None if it never did."""
        began = boottime()
        while not condition(self.uids()):
            if boottime() > began + deadline:
                return None
            await asyncio.sleep(_LOOK)
        return boottime() - began

    async def end(self) -> None:
        """Look no more."""
        self._remove()
        self._task.cancel()
        await asyncio.wait([self._task])


@asynccontextmanager
async def onlooker(orchestrator: Orchestrator) -> AsyncIterator[Onlooker]:
    """Yield one who looks until the block ends."""
    one = Onlooker(orchestrator)
    try:
        yield one
    finally:
        await one.end()


def took(seconds: float | None) -> str:
    """Return a duration for people."""
    return "never" if seconds is None else f"{seconds:.2f} s"
