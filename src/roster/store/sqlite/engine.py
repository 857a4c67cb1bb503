"""The SQLite engine as the rest of Roster sees it: the protocol of a store over a worker thread."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import quote

from roster._clock import boottime
from roster.errors import LeaseLostError, StoreUnavailableError
from roster.store import limits
from roster.store.base import (
    MIN_TTL,
    Batch,
    Check,
    Delete,
    Entry,
    Grade,
    Hint,
    Op,
    Page,
    Put,
    StoreInfo,
    Term,
)
from roster.store.sqlite.census import lease_name
from roster.store.sqlite.core import Core, Shown
from roster.store.sqlite.holders import Holder
from roster.store.sqlite.inspect import lease_terms
from roster.store.sqlite.leases import Grant
from roster.store.sqlite.wakeups import LEASES
from roster.store.sqlite.warden import Warden
from roster.store.sqlite.worker import Worker
from roster.store.watching import Watch

T = TypeVar("T")

# When somebody has ended leases whose keys he cannot delete; at most, so that not all come at once.
SOON = 0.05
# A lease that is new to a watch is looked at before the shortest may end; not at once, for they come in bursts.
BEFORE_THE_SHORTEST_ENDS = MIN_TTL / 2

# The proofs of life of closed clients whose leases have not run out: closing is not dying.
_outliving: list[tuple[float, Holder]] = []
_outliving_lock = threading.Lock()


def _outlive(until: float, holder: Holder | None, now: float) -> None:
    """Keep a proof of life until a moment, and drop those whose moment has come."""
    with _outliving_lock:
        if holder is not None:
            _outliving.append((until, holder))
        for item in [item for item in _outliving if item[0] <= now]:
            _outliving.remove(item)
            item[1].close()


class SqliteLease:
    """A lease of a `sqlite://` store; see `roster.store.base.Lease`."""

    def __init__(self, store: SqliteStore, grant: Grant) -> None:
        self._store = store
        self._grant = grant
        self._deadline = grant.deadline
        self._lost = False

    @property
    def id(self) -> str:
        return lease_name(self._grant.number, self._grant.slot)

    @property
    def ttl(self) -> float:
        return self._grant.ttl

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def lost(self) -> bool:
        return self._lost or self._store.now() >= self._deadline

    async def keep_alive(self) -> None:
        if self._lost:
            raise LeaseLostError(f"the lease {self.id} has ended: grant another")
        sent = self._store.now()
        core = self._store.core
        try:
            self._deadline = await self._store.run(
                lambda: core.leases.renew(self._grant, self._deadline, sent), urgent=True
            )
        except LeaseLostError:
            self._lost = True
            raise

    async def describe(self, hint: Hint) -> None:
        pass  # nobody else looks into this store

    async def revoke(self) -> None:
        self._lost = True
        core = self._store.core
        await self._store.run(lambda: core.leases.revoke(self._grant))


class _Feed:
    """What one watch pulls from."""

    def __init__(self, store: SqliteStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._woken = asyncio.Event()
        self.shown = Shown("")

    def wake(self) -> None:
        self._woken.set()

    async def pull(self, position: int) -> Batch:
        self._woken.clear()
        core = self._store.core
        batch, self.shown, met = await self._store.run(lambda: core.pull(position, self._prefix, self.shown))
        if met:
            self._store.look_at_leases(BEFORE_THE_SHORTEST_ENDS)
        return batch

    async def wait(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._woken.wait()
        except TimeoutError:
            pass  # a bookmark is due, and a look in case a wake-up was lost


class SqliteStore:
    """A client of a registry file; see `roster.store.base.Store`.

    Nothing is opened before the first use. One thread does everything that may block.

    Args:
        path: the database, absolute.
        history: revisions kept for watches.
        now: the clock that leases run by, seconds; one for all clients of the file.
    """

    grade: Grade = "history"

    def __init__(self, path: str, *, history: int = 10_000, now: Callable[[], float] = boottime) -> None:
        self.now = now
        self._path = path
        self._history = history
        self._worker: Worker | None = None
        self._core: Core | None = None
        self._warden: Warden | None = None
        self._listening_to: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._feeds: set[_Feed] = set()
        self._leases: list[SqliteLease] = []
        self._closed = False
        self._pid = os.getpid()
        self._listening = asyncio.Lock()

    @property
    def url(self) -> str:
        return f"sqlite://{quote(os.fsencode(self._path))}"

    @property
    def core(self) -> Core:
        """The blocking half; started at the first use.

        Raises:
            StoreUnavailableError: this client is closed, or belongs to another event loop, or to the process from which
                this one was forked (SQLite and its locks do not survive that).
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise StoreUnavailableError(f"this client of {self.url} is closed: open another")
        if os.getpid() != self._pid:
            raise StoreUnavailableError(
                f"this client of {self.url} belongs to the process that opened it: open another after the fork"
            )
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise StoreUnavailableError(
                f"this client of {self.url} belongs to another event loop: open one in each"
            )
        if self._core is None or self._worker is None:
            # Resolved here and not in __init__: that is where input and output may begin.
            path = os.path.realpath(self._path)
            self._worker = Worker("roster-store", path)
            self._core = Core(path, self._history, self.now, self._worker.pause)
            self._warden = Warden(self._core, self.run, self._wake_feeds)
        return self._core

    async def run(self, function: Callable[[], T], *, urgent: bool = False) -> T:
        """Run a blocking function on this client's thread."""
        _ = self.core
        assert self._worker is not None  # noqa: S101 - for the type checker: `core` made it
        return await self._worker.run(function, urgent=urgent)

    async def info(self) -> StoreInfo:
        return await self.run(self.core.info)

    async def get(self, key: str) -> Entry | None:
        limits.check_key(key)
        core = self.core
        return await self.run(lambda: core.get(key))

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        limits.check_prefix(prefix)
        limits.check_limit(limit)
        core = self.core
        return await self.run(lambda: core.list(prefix, limit, after, revision))

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        checks = () if if_revision is None else (Check(key, if_revision),)
        return await self.transact(checks, (Put(key, value, lease),))

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        checks = () if if_revision is None else (Check(key, if_revision),)
        limits.check_transaction(checks, (Delete(key),))
        core = self.core
        return (await self.run(lambda: core.transact(checks, (Delete(key),))))[1]

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        limits.check_transaction(checks, ops)
        core = self.core
        return (await self.run(lambda: core.transact(checks, ops)))[0]

    @asynccontextmanager
    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        limits.check_prefix(prefix)
        limits.check_from_revision(from_revision)
        core = self.core
        feed = _Feed(self, prefix)
        await self._listen(feed)
        try:
            # The socket is bound by now: whatever is written from here on wakes us.
            feed.shown = await self.run(lambda: core.begin(from_revision))
            watch = Watch(feed, from_revision)
            try:
                yield watch
            finally:
                watch.end()
        finally:
            self._unlisten(feed)

    async def grant(self, ttl: float, *, lingering: bool = False, hint: Hint | None = None) -> SqliteLease:
        limits.check_ttl(ttl)
        core = self.core
        sent = self.now()
        grant = await self.run(lambda: core.leases.grant(ttl, lingering, sent))
        lease = SqliteLease(self, grant)
        self._leases = [one for one in self._leases if not one.lost]
        self._leases.append(lease)
        if self._warden is not None:
            self._warden.start()
        return lease

    async def lease_terms(self, ids: Sequence[str]) -> Mapping[str, Term]:
        cluster = (await self.info()).cluster_id
        try:
            return await self.run(lambda: lease_terms(self._path, cluster, ids, now=self.now))
        except OSError as error:
            raise StoreUnavailableError(
                f"the file of leases of {self.url} cannot be read: {error.strerror}"
            ) from error

    async def sweep(self) -> None:
        """Look at all leases now, and delete what is bound to those that have ended.

        The client does so by itself when a deadline passes; this is for tests that move the clock.
        """
        _ = self.core
        assert self._warden is not None  # noqa: S101 - for the type checker: `core` made it
        await self._warden.sweep()

    def look_at_leases(self, within: float) -> None:
        """Have the leases looked at within so many seconds."""
        if self._warden is not None:
            self._warden.look(within)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._warden is not None:
            await self._warden.stop()
        for feed in self._feeds:
            feed.wake()
        self._stop_listening()
        if self._worker is not None and self._core is not None:
            core, until = self._core, max((one.deadline for one in self._leases if not one.lost), default=0.0)
            try:
                await self._worker.run(lambda: _outlive(until, core.close(), self.now()))
            finally:
                self._worker.stop()

    async def __aenter__(self) -> SqliteStore:
        await self.run(self.core.open)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _listen(self, feed: _Feed) -> None:
        core = self.core
        async with self._listening:
            if self._listening_to is None:
                await self.run(core.listen)
                if core.listener is not None:
                    self._listening_to = core.listener.socket
                    asyncio.get_running_loop().add_reader(self._listening_to, self._on_wake)
            self._feeds.add(feed)
            if self._warden is not None:
                self._warden.watch(+1)

    def _unlisten(self, feed: _Feed) -> None:
        self._feeds.discard(feed)
        if self._warden is not None and not self._closed:
            self._warden.watch(-1)
        if not self._feeds:
            self._stop_listening()
            if self._worker is not None and self._core is not None:
                self._worker.post(self._core.leases.retire)

    def _stop_listening(self) -> None:
        source, self._listening_to = self._listening_to, None
        if source is not None and self._loop is not None:
            self._loop.remove_reader(source)
            if self._worker is not None and self._core is not None:
                self._worker.post(self._core.deafen)

    def _on_wake(self) -> None:
        listener = self._core.listener if self._core is not None else None
        if listener is not None:
            if LEASES in listener.drain():
                self.look_at_leases(random.uniform(0, SOON))  # noqa: S311 - jitter
            self._wake_feeds()

    def _wake_feeds(self) -> None:
        for feed in self._feeds:
            feed.wake()
