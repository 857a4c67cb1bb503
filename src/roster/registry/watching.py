"""The async iterator behind `Registry.watch`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType

from roster.errors import RegistryError
from roster.registry.events import NodeEvent
from roster.registry.informer import Informer

# Events that wait for a slow reader: 100 bytes each beside the records, which the copy holds anyway.
MAX_WAITING = 100_000


class EventWatch:
    """Follows the registry: first `added` for each node there is, then each change.

    It ends when the registry is closed.

    Args:
        start: brings the copy up; awaited by the first `anext`.
        informer: where events come from.
        wanted: which events to give.
    """

    def __init__(
        self, start: Callable[[], Awaitable[None]], informer: Informer, wanted: Callable[[NodeEvent], bool]
    ) -> None:
        self._start = start
        self._informer = informer
        self._wanted = wanted
        self._waiting: deque[NodeEvent] = deque()
        self._woken = asyncio.Event()
        self._remove: Callable[[], None] | None = None
        self._closed = False
        self._overrun = False

    def _on_event(self, event: NodeEvent) -> None:
        if not self._wanted(event):
            return
        if len(self._waiting) >= max(MAX_WAITING, 2 * len(self._informer.catalog.index.by_key)):
            self._overrun = True
        else:
            self._waiting.append(event)
        self._woken.set()

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def close(self) -> None:
        """End it; a reader that waits gets the end of the iteration, after what has come already."""
        self._closed = True
        self._woken.set()
        if self._remove is not None:
            self._remove()
            self._remove = None

    async def aclose(self) -> None:
        """The same as `close`, for `contextlib.aclosing`."""
        self.close()

    def __aiter__(self) -> EventWatch:
        return self

    async def __anext__(self) -> NodeEvent:
        if self._remove is None and not self._closed:
            await self._start()
            self._remove = self._informer.add_listener(self._on_event)
        while True:
            if self._waiting:
                return self._waiting.popleft()
            if self._overrun:
                self.close()
                raise RegistryError(
                    f"this watch fell {MAX_WAITING} events behind and lost some: watch again, and read faster"
                )
            if self._closed:
                raise StopAsyncIteration
            self._woken.clear()
            await self._woken.wait()

    async def __aenter__(self) -> EventWatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
