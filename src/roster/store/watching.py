"""The iterator behind the watches of the embedded engines: pull what is new, else wait; with bookmarks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from roster.store.base import Batch

# A bookmark tells at most this late that the revision moved on without a change under the prefix ...
BOOKMARK_MOVED = 1.0
# ... and one comes this often from a silent store, so that a reader can tell "nothing new" from "nothing
# heard".
BOOKMARK_IDLE = 5.0
# A batch ends at the first revision that takes it over one of these, so that a long backlog comes in bounded
# pieces.
BATCH_CHANGES = 1000
BATCH_BYTES = 4 * 1024 * 1024


class Feed(Protocol):
    """What an engine gives to a watch."""

    async def pull(self, position: int) -> Batch:
        """Return the changes after `position`; an empty batch says up to which revision there was nothing."""
        ...

    async def wait(self, timeout: float) -> None:
        """Return when there may be something new, or after `timeout` seconds."""
        ...


class Watch(AsyncIterator[Batch]):
    """An open watch. `__anext__` may be cancelled at any moment without losing a batch."""

    def __init__(self, feed: Feed, from_revision: int) -> None:
        self._feed = feed
        self._position = from_revision - 1
        self._told = self._position
        self._last = asyncio.get_running_loop().time()
        self._ended = False
        self._idle = False

    def end(self) -> None:
        """Stop the iteration: its context was left."""
        self._ended = True

    async def __anext__(self) -> Batch:
        loop = asyncio.get_running_loop()
        while not self._ended:
            if self._idle:
                # The last look, a moment ago, brought a bookmark: wait first, and do not look twice for each.
                self._idle = False
                await self._feed.wait(self._due() - loop.time())
            batch = await self._feed.pull(self._position)
            self._position = batch.revision
            now = loop.time()
            if batch.changes or now >= self._due():
                self._told = self._position
                self._last = now
                self._idle = not batch.changes
                return batch
            await self._feed.wait(self._due() - now)
        raise StopAsyncIteration

    def _due(self) -> float:
        """Return when a bookmark is due."""
        return self._last + (BOOKMARK_MOVED if self._position != self._told else BOOKMARK_IDLE)
