"""The store in the memory of one process: for tests, examples and teams of agents in one program."""

from __future__ import annotations

import asyncio
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from roster._clock import boottime
from roster.errors import LeaseLostError, StoreUnavailableError
from roster.store import limits
from roster.store.base import (
    Batch,
    Check,
    Delete,
    Entry,
    Grade,
    Hint,
    Op,
    Page,
    Put,
    Store,
    StoreInfo,
)
from roster.store.space import LeaseState, Space
from roster.store.watching import Watch

stand_ins: dict[str, Callable[[], Store]] = {}
"""What `open_store` makes for `memory://NAME` instead of a client of this engine, by name: see `roster.testing`."""


_spaces: dict[str, Space] = {}
_spaces_lock = threading.Lock()


def _forget_after_fork() -> None:
    # A forked child shares nothing with its parent: without this it would go on with a copy, and perhaps a
    # held lock.
    global _spaces_lock
    _spaces.clear()
    _spaces_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)


class _Feed:
    """What one watch pulls from; woken from any thread."""

    def __init__(self, store: MemoryStore, space: Space, prefix: str) -> None:
        self._store = store
        self._space = space
        self._prefix = prefix
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:
            # Its loop was closed without leaving the watch: nobody listens there any more.
            self._space.feeds.discard(self)

    async def pull(self, position: int) -> Batch:
        self._woken.clear()
        with self._store.settled() as space:
            return space.changes_after(position, self._prefix)

    async def wait(self, timeout: float) -> None:
        until = self._store.earliest() - self._store.now()
        try:
            async with asyncio.timeout(max(0.0, min(timeout, until))):
                await self._woken.wait()
        except TimeoutError:
            pass  # a bookmark or the end of a lease is due: the watch pulls again


class _Settled:
    """The space with its lock held and its dead leases ended."""

    def __init__(self, space: Space, now: Callable[[], float]) -> None:
        self._space = space
        self._now = now

    def __enter__(self) -> Space:
        self._space.lock.acquire()
        try:
            self._space.settle(self._now())
        except BaseException:
            self._space.lock.release()
            raise
        return self._space

    def __exit__(self, *exc: object) -> None:
        self._space.lock.release()


class MemoryLease:
    """A lease of a `memory://` store; see `roster.store.base.Lease`."""

    def __init__(self, store: MemoryStore, lease_id: str, ttl: float, deadline: float) -> None:
        self._store = store
        self._id = lease_id
        self._ttl = ttl
        self._deadline = deadline
        self._lost = False

    @property
    def id(self) -> str:
        return self._id

    @property
    def ttl(self) -> float:
        return self._ttl

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def lost(self) -> bool:
        return self._lost or self._store.now() >= self._deadline

    async def keep_alive(self) -> None:
        with self._store.settled() as space:
            state = space.leases.get(self._id)
            if state is None:
                self._lost = True
                raise LeaseLostError(f"the lease {self._id} has ended: grant another")
            # Read under the lock: two threads may renew it at once, and time never goes back.
            self._deadline = state.deadline = self._store.now() + self._ttl

    async def describe(self, hint: Hint) -> None:
        pass  # nobody else looks into this store

    async def revoke(self) -> None:
        self._lost = True
        with self._store.settled() as space:
            space.end_lease(self._id)


class MemoryStore:
    """A client of the space of this name in this process; see `roster.store.base.Store`.

    The space lives from its first client to its last. Clients may live in different threads and event loops.

    Args:
        name: which space; the empty name is one like any other.
        history: revisions kept for watches; the client that makes the space decides.
        now: the clock that leases run by, seconds.
    """

    grade: Grade = "history"

    def __init__(self, name: str = "", *, history: int = 10_000, now: Callable[[], float] = boottime) -> None:
        self.now = now
        self._name = name
        self._history = history
        self._space: Space | None = None
        self._closed = False
        self._feeds: set[_Feed] = set()

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def space(self) -> Space:
        """Return the space, joining it at the first use."""
        if self._closed:
            raise StoreUnavailableError(f"this client of {self.url} is closed: open another")
        if self._space is None:
            with _spaces_lock:
                self._space = _spaces.setdefault(self._name, Space(self._name, self._history))
                self._space.clients += 1
        return self._space

    def settled(self) -> _Settled:
        """Return a context in which the space is locked and shows no dead lease."""
        return _Settled(self.space(), self.now)

    def earliest(self) -> float:
        """Return when the next lease ends unless it is renewed, by the store's clock."""
        with self.settled() as space:
            return space.earliest()

    async def info(self) -> StoreInfo:
        with self.settled() as space:
            details = (("keys", str(len(space.entries))), ("leases", str(len(space.leases))))
            return StoreInfo("memory", space.cluster_id, space.revision, space.compacted, details)

    async def get(self, key: str) -> Entry | None:
        limits.check_key(key)
        with self.settled() as space:
            return space.entries.get(key)

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        limits.check_prefix(prefix)
        limits.check_limit(limit)
        with self.settled() as space:
            shown = space.revision if revision is None else revision
            keys, entries = space.at(shown)
            first = bisect_left(keys, prefix)
            if after is not None:
                first = max(first, bisect_right(keys, after))
            found: list[Entry] = []
            for index in range(first, len(keys)):
                if not keys[index].startswith(prefix):
                    break
                if limit and len(found) == limit:
                    return Page(tuple(found), shown, found[-1].key)
                found.append(entries[keys[index]])
            return Page(tuple(found), shown)

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        checks = () if if_revision is None else (Check(key, if_revision),)
        return await self.transact(checks, (Put(key, value, lease),))

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        checks = () if if_revision is None else (Check(key, if_revision),)
        limits.check_transaction(checks, (Delete(key),))
        with self.settled() as space:
            space.check(checks)
            before = space.revision
            return space.commit((Delete(key),)) != before

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        limits.check_transaction(checks, ops)
        with self.settled() as space:
            space.check(checks)
            return space.commit(ops)

    @asynccontextmanager
    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        limits.check_prefix(prefix)
        limits.check_from_revision(from_revision)
        with self.settled() as space:
            space.require(from_revision, space.compacted + 1)
            feed = _Feed(self, space, prefix)
            space.feeds.add(feed)
        self._feeds.add(feed)
        watch = Watch(feed, from_revision)
        try:
            yield watch
        finally:
            watch.end()
            self._feeds.discard(feed)
            with space.lock:
                space.feeds.discard(feed)

    async def grant(self, ttl: float, *, lingering: bool = False, hint: Hint | None = None) -> MemoryLease:
        limits.check_ttl(ttl)
        with self.settled() as space:
            space.leases_made += 1
            lease_id = f"{space.leases_made:x}"
            deadline = self.now() + ttl
            space.leases[lease_id] = LeaseState(ttl, deadline, set())
        return MemoryLease(self, lease_id, ttl, deadline)

    async def close(self) -> None:
        self._closed = True
        if self._space is not None:
            with _spaces_lock:
                self._space.clients -= 1
                if self._space.clients == 0 and _spaces.get(self._name) is self._space:
                    del _spaces[self._name]
            self._space = None
        for feed in self._feeds:
            feed.wake()

    async def __aenter__(self) -> MemoryStore:
        self.space()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
