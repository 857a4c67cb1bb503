"""A store that fails on demand: delegates to a real engine, and is away, cut off or dead when a test says so.

It is one more implementation of `roster.store.base.Store`; everything that it does not forbid, the engine behind it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from roster.errors import LeaseLostError, StoreUnavailableError
from roster.registry.keys import ROOT, STATUS
from roster.store.base import Batch, Check, Entry, Grade, Hint, Lease, Op, Page, Put, Store, StoreInfo
from roster.testing.bell import Bell


class StoreFaults:
    """What all clients of one team's registry share: whether it is away, and who looks at it.

    Attributes:
        away: no client reaches the store.
    """

    def __init__(self, bell: Bell) -> None:
        self.away = False
        self.bell = bell
        self._lock = threading.Lock()
        self._clients: list[FaultyStore] = []

    def add(self, client: FaultyStore) -> None:
        """Know a client."""
        with self._lock:
            self._clients.append(client)

    def remove(self, client: FaultyStore) -> None:
        """Forget a client: it was closed."""
        with self._lock:
            if client in self._clients:
                self._clients.remove(client)
        self.bell.ring()

    @property
    def clients(self) -> list[FaultyStore]:
        """The clients that are open."""
        with self._lock:
            return list(self._clients)

    def of(self, status_key: str) -> list[FaultyStore]:
        """Return the clients that wrote a node's status: the node's own."""
        return [client for client in self.clients if status_key in client.statuses]

    def all_have_seen(self, revision: int) -> bool:
        """Return whether every copy of the registry has come to a revision."""
        return all(client.has_seen(revision) for client in self.clients)

    def break_watches(self) -> None:
        """End every watch of a client that cannot reach the store."""
        for client in self.clients:
            if client.unreachable is not None:
                client.break_watches()


class FaultyStore:
    """A client of a team's registry.

    Args:
        inner: the engine behind it.
        faults: what its team shares.

    Attributes:
        cut: why this client alone does not reach the store, empty when it does.
        statuses: the status keys that were written through it.
        leases: those that it was granted, as far as they have not been revoked.
    """

    def __init__(self, inner: Store, faults: StoreFaults) -> None:
        self.inner = inner
        self.cut = ""
        self.statuses: set[str] = set()
        self.leases: list[FaultyLease] = []
        self._faults = faults
        self._watches: set[_Watch] = set()
        self._watching = False
        self._loop: asyncio.AbstractEventLoop | None = None
        faults.add(self)

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def grade(self) -> Grade:
        return self.inner.grade

    @property
    def unreachable(self) -> str | None:
        """Why the store cannot be reached through this client, None when it can."""
        if self.cut:
            return self.cut
        return "the test has taken it away" if self._faults.away else None

    def reach(self) -> None:
        """Return if the store can be reached.

        Raises:
            StoreUnavailableError: it cannot.
        """
        if (why := self.unreachable) is not None:
            raise StoreUnavailableError(f"the store {self.url} is out of reach: {why}")

    def has_seen(self, revision: int) -> bool:
        """Return whether whoever follows the registry through this client has come to a revision."""
        if not self._watching or self.unreachable is not None:
            return True
        watches = list(self._watches)
        return bool(watches) and all(watch.seen >= revision for watch in watches)

    def break_watches(self) -> None:
        """End what is being watched, with an error. Any thread."""
        for watch in list(self._watches):
            watch.stop()

    async def end_leases(self) -> None:
        """Have the store end the leases of this client, as when it can prove that their holder is dead. Any loop.

        Those that outlive their holder stay: they keep its passport listed.
        """

        async def end() -> None:
            for lease in self.leases:
                if not lease.lingering:
                    await lease.inner.revoke()

        if self._loop is not None and not self._loop.is_closed():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(end(), self._loop))

    async def renew_leases(self) -> None:
        """Keep its leases alive now, if it reaches the store; those that have ended are left alone."""
        if self.unreachable is None:
            for lease in list(self.leases):
                with contextlib.suppress(LeaseLostError):
                    await lease.inner.keep_alive()

    async def info(self) -> StoreInfo:
        self.reach()
        return await self.inner.info()

    async def get(self, key: str) -> Entry | None:
        self.reach()
        return await self.inner.get(key)

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        self.reach()
        return await self.inner.list(prefix, limit=limit, after=after, revision=revision)

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        self.reach()
        self._note((Put(key, value, lease),))
        return await self.inner.put(key, value, lease=lease, if_revision=if_revision)

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        self.reach()
        return await self.inner.delete(key, if_revision=if_revision)

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        self.reach()
        self._note(ops)
        return await self.inner.transact(checks, ops)

    def _note(self, ops: Sequence[Op]) -> None:
        self.statuses.update(op.key for op in ops if isinstance(op, Put) and op.key.startswith(STATUS))

    @asynccontextmanager
    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        self.reach()
        async with self.inner.watch(prefix, from_revision=from_revision) as batches:
            watch = _Watch(self, batches, from_revision - 1, self._faults.bell)
            follows = prefix == ROOT
            if follows:
                self._watching = True
                self._watches.add(watch)
            try:
                yield watch
            finally:
                self._watches.discard(watch)
                self._faults.bell.ring()

    async def grant(self, ttl: float, *, lingering: bool = False, hint: Hint | None = None) -> FaultyLease:
        self.reach()
        lease = FaultyLease(self, await self.inner.grant(ttl, lingering=lingering, hint=hint), lingering)
        self.leases.append(lease)
        return lease

    async def close(self) -> None:
        self._watching = False
        self._faults.remove(self)
        await self.inner.close()

    async def __aenter__(self) -> FaultyStore:
        self.reach()
        self._loop = asyncio.get_running_loop()
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class FaultyLease:
    """A lease that is renewed only while its client reaches the store."""

    def __init__(self, store: FaultyStore, inner: Lease, lingering: bool) -> None:
        self.inner = inner
        self.lingering = lingering
        self._store = store

    @property
    def id(self) -> str:
        return self.inner.id

    @property
    def ttl(self) -> float:
        return self.inner.ttl

    @property
    def deadline(self) -> float:
        return self.inner.deadline

    @property
    def lost(self) -> bool:
        return self.inner.lost

    async def keep_alive(self) -> None:
        self._store.reach()
        await self.inner.keep_alive()

    async def describe(self, hint: Hint) -> None:
        self._store.reach()
        await self.inner.describe(hint)

    async def revoke(self) -> None:
        self._store.reach()
        if self in self._store.leases:
            self._store.leases.remove(self)
        await self.inner.revoke()


class _Watch(AsyncIterator[Batch]):
    """A watch that can be broken, and that knows which revision its reader is done with."""

    def __init__(self, store: FaultyStore, batches: AsyncIterator[Batch], seen: int, bell: Bell) -> None:
        self.seen = -1
        self._store = store
        self._batches = batches
        self._reached = seen
        self._bell = bell
        self._loop = asyncio.get_running_loop()
        self._broken = asyncio.Event()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody reads it any more
            self._loop.call_soon_threadsafe(self._broken.set)

    async def __anext__(self) -> Batch:
        # Whoever asks for the next batch has dealt with the one before.
        self.seen = self._reached
        self._bell.ring()
        step = asyncio.ensure_future(anext(self._batches))
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait({step, broken}, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.is_set():
                self._store.reach()
                raise StoreUnavailableError(f"the store {self._store.url} was out of reach for a moment")
            batch = await step
        finally:
            for task in (step, broken):
                task.cancel()
            await asyncio.gather(step, broken, return_exceptions=True)
        self._reached = batch.revision
        return batch
