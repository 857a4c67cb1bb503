"""A watch on ZooKeeper: told which znodes changed, it reads them again and says what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from roster.errors import RevisionCompactedError, StoreUnavailableError
from roster.store.base import Batch, Change, Entry
from roster.store.zookeeper.listing import Memory, entry_of, walk
from roster.store.zookeeper.names import directory_of, directory_of_prefix, to_key
from roster.store.zookeeper.packets import exists, get_all, nodes_of, sync
from roster.store.zookeeper.session import Session

# Seconds without a change after which the server is asked how far it is; it has the time of one request to answer.
_BOOKMARK = 4.0
# A first listing is read on until it has caught up with those who write meanwhile, at most so often.
_CATCHING_UP = 10


class Watch(AsyncIterator[Batch]):
    """An open watch of grade `state`. `__anext__` may be cancelled at any moment without losing anything.

    All that a server tells of a change is its path; the order of things makes up for the rest. A connection tells of each
    change before it answers any request with the zxid of that change or of a later one. So while no path waits to be read
    again, all changes up to the newest zxid heard are known; and while some do, all up to the zxid heard before the first.

    Args:
        session: reads and is told.
        prefix: what is watched.
    """

    def __init__(self, session: Session, prefix: str) -> None:
        self._session = session
        self._prefix = prefix
        self._directory = directory_of_prefix(prefix)
        self._woken = asyncio.Event()
        self._fault: StoreUnavailableError | None = None
        self._left = False
        self._waiting: set[str] = set()
        self._floor = 0  # the newest zxid heard before the first of those that wait
        self._told: dict[str, tuple[int, int]] = {}  # create_revision and mod_revision by key
        self._held: dict[
            str, tuple[Entry | None, int]
        ] = {}  # what was read, and its revision, while it is not told
        self._snapshot: Batch | None = None
        self._due = 0.0

    async def open(self, from_revision: int, memory: Memory) -> None:
        """Begin: watch first, then look, so that nothing is missed.

        Raises:
            RevisionCompactedError: `from_revision` lies beyond the next revision.
            StoreUnavailableError: the servers are out of reach.
        """
        await self._session.watch(self._directory, self._on_change)
        found = await walk(self._session.ask, self._prefix)
        if from_revision > found.revision + 1:
            raise RevisionCompactedError(
                f"revision {from_revision} lies in the future of this store, which is at {found.revision}: "
                "it was restored or wiped; list again",
                found.revision,
            )
        shown = memory.recall(self._prefix, from_revision - 1)
        if found.newest < from_revision:
            self._tell_of(found.entries.values())
        elif shown is not None:
            self._tell_of(shown.entries)
            for key in self._told.keys() | found.entries.keys():
                self._note(key, found.entries.get(key), found.revision)
        else:
            self._snapshot = await self._settled(found.entries)
        self._put_off()

    async def _settled(self, found: dict[str, Entry]) -> Batch:
        """Return a listing as one batch, after reading again what was written meanwhile."""
        self._tell_of(found.values())
        for _ in range(_CATCHING_UP):
            if not self._waiting:
                break
            await self._read_again()
            for key, (entry, _) in self._held.items():
                found.pop(key, None)
                if entry is not None:
                    found[key] = entry
            self._held.clear()
            self._tell_of(found.values())
        changes = sorted(map(_put, found.values()), key=_order)
        return Batch(tuple(changes), self._heard(), snapshot=True)

    def _tell_of(self, entries: Iterable[Entry]) -> None:
        self._told = {entry.key: (entry.create_revision, entry.mod_revision) for entry in entries}

    # -- what the session tells

    def _on_change(self, path: str | None) -> None:
        if path is None:
            self.fail(
                StoreUnavailableError(
                    "the connection was lost under a watch: list again, and watch from there"
                )
            )
            return
        key = to_key(path)
        if key is not None and key.startswith(self._prefix):
            if not self._waiting:
                self._floor = self._session.zxid
            self._waiting.add(path)
            self._woken.set()

    def _heard(self) -> int:
        """Return the revision up to which all changes were read."""
        return self._floor if self._waiting else self._session.zxid

    def fail(self, fault: StoreUnavailableError) -> None:
        """Have the next look raise this."""
        self._fault = fault
        self._woken.set()

    def end(self) -> None:
        """Stop the iteration: its context was left."""
        self._left = True
        self._session.unwatch(self._directory, self._on_change)
        self._woken.set()

    # -- what the reader asks

    async def __anext__(self) -> Batch:
        loop = asyncio.get_running_loop()
        while True:
            if self._left:
                raise StopAsyncIteration
            if self._fault is not None:
                raise self._fault
            if self._snapshot is not None:
                batch, self._snapshot = self._snapshot, None
                return batch
            if self._waiting:
                await self._read_again()
            changes = self._take()
            if changes:
                self._put_off()
                return Batch(changes, self._heard())
            if self._waiting:
                continue
            self._woken.clear()
            if loop.time() < self._due:
                try:
                    async with asyncio.timeout_at(self._due):
                        await self._woken.wait()
                except TimeoutError:
                    pass  # a bookmark is due
                continue
            await self._session.ask([sync(), exists(self._directory)])
            if not self._waiting:
                self._put_off()
                return Batch((), self._heard())

    def _put_off(self) -> None:
        self._due = asyncio.get_running_loop().time() + _BOOKMARK

    async def _read_again(self) -> None:
        """Read what has changed."""
        waiting, floor = self._waiting, self._floor
        self._waiting = set()
        try:
            paths = sorted(waiting)
            nodes = nodes_of(await self._session.ask(get_all(paths)))
            gone = {directory_of(path) for path, node in zip(paths, nodes, strict=True) if node is None}
            looks = dict(zip(gone, await self._session.ask([exists(each) for each in gone]), strict=True))
        except BaseException:
            self._waiting |= waiting
            self._floor = floor
            raise
        for path, node in zip(paths, nodes, strict=True):
            key = to_key(path)
            if key is None:
                continue
            if node is not None:
                # A key that is a directory from now on was deleted by a write.
                self._note(key, entry_of(key, *node), node[1].mzxid)
            else:
                # Nothing tells when it went. Not before the last coming or going beside it.
                above = looks[directory_of(path)]
                stat = above.stat()
                self._note(key, None, stat.pzxid if stat is not None else above.zxid)

    def _note(self, key: str, entry: Entry | None, revision: int) -> None:
        """Take note of what a key is, unless that was told."""
        told = self._told.get(key)
        if entry is None and told is not None:
            self._held[key] = (None, revision)
        elif entry is not None and told != (entry.create_revision, entry.mod_revision):
            self._held[key] = (entry, entry.mod_revision)
        else:
            self._held.pop(key, None)

    def _take(self) -> tuple[Change, ...]:
        """Return what may be told, in order; a newer change waits until all older ones are known."""
        heard = self._heard()
        changes = []
        for key, (entry, revision) in list(self._held.items()):
            if revision > heard:
                continue
            del self._held[key]
            if entry is None:
                del self._told[key]
                changes.append(Change("delete", key, revision))
            else:
                self._told[key] = (entry.create_revision, entry.mod_revision)
                changes.append(_put(entry))
        return tuple(sorted(changes, key=_order))


def _put(entry: Entry) -> Change:
    return Change("put", entry.key, entry.mod_revision, entry.value, entry.create_revision, entry.lease)


def _order(change: Change) -> tuple[int, bytes]:
    return change.revision, change.key.encode()
