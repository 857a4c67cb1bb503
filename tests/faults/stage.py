"""What the fault tests share: nodes in this process, the hands of an agent, and who was ever called dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.conftest import eventually, passport

from roster import Node, Orchestrator
from roster.bus import Message

Handler = Callable[..., Any]


@asynccontextmanager
async def serving(
    urls: tuple[str, str], nodes: Mapping[str, Mapping[str, Handler]], at_once: int = 3
) -> AsyncIterator[Orchestrator]:
    """Yield a caller that knows these nodes: a name, and its handlers by capability. They live in this process."""
    async with AsyncExitStack() as stack:
        for name, handlers in nodes.items():
            node = Node(passport(name, *handlers, at_once=at_once), registry_url=urls[0], bus_url=urls[1])
            for capability, handler in handlers.items():
                node.capability(capability)(handler)
            await stack.enter_async_context(node)
        orchestrator = await stack.enter_async_context(Orchestrator.connect(*urls))
        await orchestrator.start()
        await eventually(lambda: all(state(orchestrator, f"default/{name}") == "ready" for name in nodes))
        yield orchestrator


def state(orchestrator: Orchestrator, key: str) -> str | None:
    """Return what the caller's copy says of a node."""
    record = orchestrator.node(key)
    return None if record is None else record.state


async def hands(orchestrator: Orchestrator, key: str) -> tuple[int, int]:
    """Ask a node how many commands run and how many wait in its hands."""
    record = orchestrator.node(key)
    assert record is not None
    exchange = await orchestrator.bus.send(record.mindbus_queue, Message.control("ping", source="/test"))
    async with asyncio.timeout(5):
        result = (await exchange.answer).data["result"]
    return len(result["running"]), len(result["waiting"])


async def until_hands(orchestrator: Orchestrator, key: str, running: int, waiting: int) -> None:
    """Wait until that many commands run and wait at a node."""
    async with asyncio.timeout(10):
        while await hands(orchestrator, key) != (running, waiting):
            await asyncio.sleep(0.01)


class Witness:
    """Notes every event of the registry that calls a node anything but alive."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.events: list[tuple[str, str]] = []
        self._task = asyncio.create_task(self._watch(orchestrator))

    async def _watch(self, orchestrator: Orchestrator) -> None:
        async for event in orchestrator.registry.watch(namespace="chaos"):
            if event.type in ("unknown", "offline", "removed"):
                self.events.append((event.type, event.name))

    def end(self) -> list[tuple[str, str]]:
        """Stop watching, and return what was noted."""
        assert not self._task.done(), "the watch itself must not end"
        self._task.cancel()
        return self.events
