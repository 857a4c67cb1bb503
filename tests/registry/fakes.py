"""A clock to turn by hand, and a store that can be taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from roster.errors import StoreUnavailableError
from roster.store import Batch, Check, Entry, Hint, Lease, Op, Page, Store, StoreInfo


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time

    def pass_(self, seconds: float) -> None:
        self.time += seconds


class FaultyLease:
    """A lease whose store can be away."""

    def __init__(self, store: FaultyStore, inner: Lease) -> None:
        self._store = store
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def keep_alive(self) -> None:
        self._store.check()
        await self._inner.keep_alive()

    async def revoke(self) -> None:
        self._store.check()
        await self._inner.revoke()


class FaultyStore:
    """A real store behind a switch.

    Attributes:
        calls: how often the store was read or written through this client.
        cluster_id: shown instead of the store's own, when set.
        lose_answers: so many transactions from now on are done, and their answers lost.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url = inner.url
        self.grade = inner.grade
        self.calls = 0
        self.cluster_id = ""
        self.lose_answers = 0
        self._down = asyncio.Event()

    def take_away(self) -> None:
        """From now on every call fails, and every open watch ends."""
        self._down.set()

    def give_back(self) -> None:
        """The store is back."""
        self._down.clear()

    def check(self) -> None:
        self.calls += 1
        if self._down.is_set():
            raise StoreUnavailableError("the store was taken away by the test")

    async def info(self) -> StoreInfo:
        self.check()
        info = await self.inner.info()
        return replace(info, cluster_id=self.cluster_id) if self.cluster_id else info

    async def get(self, key: str) -> Entry | None:
        self.check()
        return await self.inner.get(key)

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        self.check()
        return await self.inner.list(prefix, limit=limit, after=after, revision=revision)

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        self.check()
        return await self.inner.put(key, value, lease=lease, if_revision=if_revision)

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        self.check()
        return await self.inner.delete(key, if_revision=if_revision)

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        self.check()
        revision = await self.inner.transact(checks, ops)
        if self.lose_answers:
            self.lose_answers -= 1
            raise StoreUnavailableError("the answer was lost by the test")
        return revision

    async def grant(self, ttl: float, *, lingering: bool = False, hint: Hint | None = None) -> Lease:
        self.check()
        return FaultyLease(self, await self.inner.grant(ttl, lingering=lingering, hint=hint))

    @asynccontextmanager
    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        self.check()
        async with self.inner.watch(prefix, from_revision=from_revision) as batches:
            yield self._until_taken_away(batches)

    async def _until_taken_away(self, batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        while True:
            coming = asyncio.ensure_future(anext(batches))
            down = asyncio.ensure_future(self._down.wait())
            try:
                await asyncio.wait({coming, down}, return_when=asyncio.FIRST_COMPLETED)
                if down.done():
                    raise StoreUnavailableError("the store was taken away by the test")
                yield coming.result()
            finally:
                for one in (coming, down):
                    one.cancel()
                await asyncio.gather(coming, down, return_exceptions=True)

    async def close(self) -> None:
        await self.inner.close()

    async def __aenter__(self) -> FaultyStore:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
