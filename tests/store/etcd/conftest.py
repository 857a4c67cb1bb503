"""What the tests of the etcd engine share: a reader that resumes, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from roster._clock import boottime
from roster.errors import StoreUnavailableError
from roster.store import Batch, Change, Store


async def until(condition: Callable[[], bool], within: float = 30.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def eventually(ask: Callable[[], Awaitable[object]], within: float = 30.0) -> None:
    """Ask again while the store is out of reach."""
    async with asyncio.timeout(within):
        while True:
            try:
                await ask()
                return
            except StoreUnavailableError:
                await asyncio.sleep(0.05)


async def read_to_the_end(batches: AsyncIterator[Batch], within: float = 15.0) -> None:
    """Read until the watch raises."""
    async with asyncio.timeout(within):
        async for _ in batches:
            pass


class Follower:
    """Reads all changes under a prefix, resuming after each break as the registry's informer does.

    Attributes:
        changes: what has come.
        position: the last revision.
        breaks: how often the watch broke, with the reasons.
        opened: when it was opened last.
    """

    def __init__(self, store: Store, prefix: str, position: int) -> None:
        self._store = store
        self._prefix = prefix
        self.position = position
        self.changes: list[Change] = []
        self.breaks: list[str] = []
        self.opened = 0.0

    async def run(self) -> None:
        while True:
            try:
                async with self._store.watch(self._prefix, from_revision=self.position + 1) as batches:
                    self.opened = boottime()
                    async for batch in batches:
                        self.changes += batch.changes
                        self.position = batch.revision
            except StoreUnavailableError as error:
                self.breaks.append(str(error))
                await asyncio.sleep(0.05)

    def check(self) -> None:
        """Assert that nothing came twice, nor out of order."""
        revisions = [change.revision for change in self.changes]
        assert revisions == sorted(revisions)
        assert len({(change.revision, change.key) for change in self.changes}) == len(self.changes)
