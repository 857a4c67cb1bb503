"""The watch of Consul: a cheap question that blocks, a look when the index moved, the differences between two looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from roster._clock import boottime
from roster.errors import RevisionCompactedError, StoreUnavailableError
from roster.store.base import Batch, Change, Entry
from roster.store.consul.kv import FORGETS, Kv, Look
from roster.store.consul.listings import Versions, versions_of

# A question blocks so long; then it is certain that nothing changed, and a bookmark says so.
WAIT = 5.0
# A look costs the agent 2.75 MiB for 1 000 documents of 2 KB: after one that took a second, none for three seconds.
REST = 3.0
# What is small is looked at quickly; a store in which others write all the time must not be asked without end.
LEAST_REST = 0.02
# Looks that find nothing new (an empty prefix moves with the whole store) are told as bookmarks no more often than this.
BOOKMARK = 1.0


class Watch(AsyncIterator[Batch]):
    """An open watch. `__anext__` may be cancelled at any moment without losing a batch.

    Args:
        kv: reads the store.
        prefix: of the keys.
        where: the URL without secrets, for errors.
        position: the revision up to which the reader knows everything.
        versions: what the reader has seen of the prefix up to then, None if nobody knows.
        remember: called at the end with the reader's position and what it has seen by then.
    """

    def __init__(
        self,
        kv: Kv,
        prefix: str,
        where: str,
        *,
        position: int,
        versions: Versions | None,
        remember: Callable[[int, Versions], None],
    ) -> None:
        self._kv = kv
        self._prefix = prefix
        self._where = where
        self._position = position
        self._versions = versions
        self._remember = remember
        self._index = position
        self._looked = self._told = boottime()
        self._rest_until = 0.0
        self._next: asyncio.Task[Batch] | None = None
        self._closed = asyncio.get_running_loop().create_future()
        self._ended = False

    async def open(self) -> None:
        """Look once.

        Raises:
            RevisionCompactedError: the reader comes from the future: this is another store, or an older state of it.
        """
        newest = await self._kv.store_index()
        self._require(newest)
        if self._versions is not None:
            return
        look = await self._look()
        self._versions = versions_of(look.entries)
        if look.index <= self._position and self._kv.recent(self._position):
            self._index = look.index
            return  # nothing has changed since, nor was deleted
        self._position = max(self._position, newest, look.index)
        self._index = look.index
        batch = Batch(tuple(_put(entry) for entry in look.entries), self._position, snapshot=True)
        self._next = asyncio.ensure_future(_already(batch))

    async def end(self) -> None:
        """Stop the iteration: its context was left."""
        self._ended = True
        self.close()
        task, self._next = self._next, None
        if task is not None:
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is None:
                return  # a batch that nobody read: we know more than the reader
        if self._versions is not None:
            self._remember(self._position, self._versions)

    def close(self) -> None:
        """End it from outside: its client was closed."""
        if not self._closed.done():
            self._closed.set_result(None)
        if self._next is not None:
            self._next.cancel()

    async def __anext__(self) -> Batch:
        if self._ended:
            raise StopAsyncIteration
        if self._next is None:
            self._next = asyncio.create_task(self._advance())
        await asyncio.wait((self._next, self._closed), return_when=asyncio.FIRST_COMPLETED)
        if self._closed.done():
            raise StoreUnavailableError(f"this client of {self._where} is closed: open another")
        task, self._next = self._next, None
        return task.result()

    async def _advance(self) -> Batch:
        """Return the next batch."""
        while True:
            index = await self._kv.index(self._prefix, after=self._index, wait=WAIT)
            if index == self._index and not self._forgotten():
                # Something between us and Consul that does not wait must not make us ask without end.
                await asyncio.sleep(max(0.0, self._told + BOOKMARK - boottime()))
                # The store's index first: what changed after it under the prefix is not there yet.
                newest = await self._kv.store_index()
                self._require(newest)
                index = await self._kv.index(self._prefix)
                if index == self._index:
                    return self._tell((), newest)
            if index < self._index:
                # Consul forgot old deletions; or the store was wiped, or restored to an older state.
                self._require(await self._kv.store_index())
            await asyncio.sleep(max(0.0, self._rest_until - boottime()))
            look = await self._look()
            if look.index < index:
                continue  # went back between the question and the look: ask again what that means
            changes = self._differences(look)
            self._versions = versions_of(look.entries)
            self._index = look.index
            if changes or boottime() >= self._told + BOOKMARK:
                return self._tell(changes, look.index)

    def _tell(self, changes: tuple[Change, ...], revision: int) -> Batch:
        self._position = max(self._position, revision)
        self._told = boottime()
        return Batch(changes, self._position)

    def _forgotten(self) -> bool:
        return boottime() > self._looked + FORGETS

    async def _look(self) -> Look:
        began = boottime()
        look = await self._kv.look(self._prefix)
        self._looked = boottime()
        self._rest_until = self._looked + max(LEAST_REST, REST * (self._looked - began))
        return look

    def _require(self, newest: int) -> None:
        if self._position > newest:
            raise RevisionCompactedError(
                f"{self._where} is at revision {newest}, not yet at {self._position}: it was wiped or restored; list again",
                newest,
            )

    def _differences(self, look: Look) -> tuple[Change, ...]:
        """Return what changed since the look before, in order of revision; deletions, whose own nobody knows, come last."""
        before = self._versions or {}
        changed = []
        gone = dict(before)
        for entry in look.entries:
            known = gone.pop(entry.key, None)
            if known == (entry.create_revision, entry.mod_revision):
                continue
            if entry.mod_revision <= self._position and (known is None or entry.mod_revision <= known[1]):
                raise RevisionCompactedError(
                    f"{self._where} shows {entry.key!r} as it was before: it was restored; list again",
                    look.index,
                )
            changed.append(_put(entry))
        changed.sort(key=lambda change: change.revision)
        revision = max(look.index, self._position)
        return (*changed, *(Change("delete", key, revision) for key in gone))


def _put(entry: Entry) -> Change:
    return Change("put", entry.key, entry.mod_revision, entry.value, entry.create_revision, entry.lease)


async def _already(batch: Batch) -> Batch:
    return batch
