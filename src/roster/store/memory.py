"""The store in the memory of one process: for tests, examples and teams of agents in one program."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from roster._clock import boottime
from roster.errors import LeaseLostError, RevisionCompactedError, StoreUnavailableError
from roster.store import limits
from roster.store.base import (
    Batch,
    Change,
    Check,
    Delete,
    Entry,
    Grade,
    Hint,
    Op,
    Page,
    Put,
    StoreInfo,
)
from roster.store.watching import BATCH_BYTES, BATCH_CHANGES, Watch

# The changes kept for watches hold at most so many bytes of values, whatever their number.
HISTORY_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class _LeaseState:
    """A lease as the space has it."""

    ttl: float
    deadline: float
    keys: set[str]


@dataclass(slots=True)
class _Record:
    """The changes of one revision, and what stood there before (to show an older revision)."""

    changes: tuple[Change, ...]
    before: tuple[Entry | None, ...]
    size: int


class _Space:
    """What all clients of one name share. Every method is called with `lock` held, and none of them waits."""

    def __init__(self, name: str, history: int) -> None:
        self.name = name
        self.history = history
        self.lock = threading.Lock()
        self.cluster_id = uuid.uuid4().hex
        self.revision = 0
        self.compacted = 0
        self.clients = 0
        self.entries: dict[str, Entry] = {}
        self.keys: list[str] = []  # sorted; code point order is UTF-8 byte order
        self.log: list[_Record] = []  # log[i] is revision compacted + 1 + i
        self.log_bytes = 0
        self.leases: dict[str, _LeaseState] = {}
        self.leases_made = 0
        self.feeds: set[_Feed] = set()

    def settle(self, now: float) -> None:
        """End the leases whose time is over; one revision a lease."""
        for lease_id in [i for i, lease in self.leases.items() if lease.deadline <= now]:
            self.end_lease(lease_id)

    def end_lease(self, lease_id: str) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            self.commit([Delete(key) for key in sorted(lease.keys)])

    def earliest(self) -> float:
        """Return the first deadline of a lease that holds keys."""
        return min((lease.deadline for lease in self.leases.values() if lease.keys), default=float("inf"))

    def check(self, checks: Sequence[Check]) -> None:
        for check in checks:
            entry = self.entries.get(check.key)
            found = entry.mod_revision if entry else 0
            if found != check.mod_revision:
                raise limits.conflict(check.key, check.mod_revision, found)

    def commit(self, ops: Sequence[Op]) -> int:
        """Do `ops` in one revision; what changes nothing costs none."""
        ops = [op for op in ops if isinstance(op, Put) or op.key in self.entries]
        for op in ops:
            if isinstance(op, Put) and op.lease is not None and op.lease not in self.leases:
                raise LeaseLostError(f"the lease {op.lease} has ended: grant another and write again")
        if not ops:
            return self.revision
        self.revision += 1
        before = tuple(self.entries.get(op.key) for op in ops)
        changes = tuple(self._apply(op, old) for op, old in zip(ops, before, strict=True))
        size = sum(len(change.value or b"") for change in changes)
        self.log.append(_Record(changes, before, size))
        self.log_bytes += size
        self._compact()
        for feed in tuple(self.feeds):
            feed.wake()
        return self.revision

    def _apply(self, op: Op, old: Entry | None) -> Change:
        if old is not None and old.lease is not None and old.lease in self.leases:
            self.leases[old.lease].keys.discard(op.key)
        if isinstance(op, Delete):
            del self.entries[op.key]
            del self.keys[bisect_left(self.keys, op.key)]
            return Change("delete", op.key, self.revision)
        created = old.create_revision if old else self.revision
        if old is None:
            insort(self.keys, op.key)
        self.entries[op.key] = Entry(op.key, op.value, created, self.revision, op.lease)
        if op.lease is not None:
            self.leases[op.lease].keys.add(op.key)
        return Change("put", op.key, self.revision, op.value, created, op.lease)

    def _compact(self) -> None:
        extra = max(0, len(self.log) - self.history)
        if extra < 1 + self.history // 16 and self.log_bytes <= HISTORY_BYTES:
            return  # in strides: to cut the head off a list costs its length
        size = self.log_bytes - sum(record.size for record in self.log[:extra])
        while size > HISTORY_BYTES and extra < len(self.log) - 1:
            size -= self.log[extra].size
            extra += 1
        del self.log[:extra]
        self.log_bytes = size
        self.compacted += extra

    def at(self, revision: int) -> tuple[list[str], dict[str, Entry]]:
        """Return the sorted keys and the entries as they were at `revision`."""
        if revision == self.revision:
            return self.keys, self.entries
        self.require(revision, self.compacted)
        entries = dict(self.entries)
        for record in reversed(self.log[revision - self.compacted :]):
            for change, old in zip(record.changes, record.before, strict=True):
                if old is None:
                    entries.pop(change.key, None)
                else:
                    entries[change.key] = old
        return sorted(entries), entries

    def require(self, revision: int, lowest: int) -> None:
        if revision < lowest:
            raise RevisionCompactedError(
                f"the changes up to revision {self.compacted} are gone: list again", self.compacted
            )
        if revision > self.revision + (lowest > self.compacted):
            raise RevisionCompactedError(
                f"revision {revision} lies in the future of the store (now at {self.revision}): list again",
                self.revision,
            )

    def changes_after(self, position: int, prefix: str) -> Batch:
        self.require(position + 1, self.compacted + 1)
        changes: list[Change] = []
        size = 0
        reached = position
        for record in self.log[position - self.compacted :]:
            reached += 1
            for change in record.changes:
                if change.key.startswith(prefix):
                    changes.append(change)
                    size += len(change.value or b"")
            if len(changes) >= BATCH_CHANGES or size >= BATCH_BYTES:
                break
        return Batch(tuple(changes), reached)


_spaces: dict[str, _Space] = {}
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

    def __init__(self, store: MemoryStore, space: _Space, prefix: str) -> None:
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

    def __init__(self, space: _Space, now: Callable[[], float]) -> None:
        self._space = space
        self._now = now

    def __enter__(self) -> _Space:
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
        sent = self._store.now()
        with self._store.settled() as space:
            state = space.leases.get(self._id)
            if state is None:
                self._lost = True
                raise LeaseLostError(f"the lease {self._id} has ended: grant another")
            state.deadline = sent + self._ttl
        self._deadline = sent + self._ttl

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
        self._space: _Space | None = None
        self._closed = False
        self._feeds: set[_Feed] = set()

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def space(self) -> _Space:
        """Return the space, joining it at the first use."""
        if self._closed:
            raise StoreUnavailableError(f"this client of {self.url} is closed: open another")
        if self._space is None:
            with _spaces_lock:
                self._space = _spaces.setdefault(self._name, _Space(self._name, self._history))
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
        sent = self.now()
        with self.settled() as space:
            space.leases_made += 1
            lease_id = f"{space.leases_made:x}"
            space.leases[lease_id] = _LeaseState(ttl, sent + ttl, set())
        return MemoryLease(self, lease_id, ttl, sent + ttl)

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
