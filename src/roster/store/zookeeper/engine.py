"""The ZooKeeper engine as the rest of Roster sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from roster._clock import boottime
from roster.errors import ConflictError, StoreUnavailableError
from roster.store import limits
from roster.store.base import Batch, Check, Delete, Entry, Grade, Hint, Op, Page, Put, StoreInfo
from roster.store.url import StoreUrl
from roster.store.zookeeper import link as links
from roster.store.zookeeper.identity import first_znode, name_of
from roster.store.zookeeper.lease import LastingLease, SessionLease
from roster.store.zookeeper.link import Link
from roster.store.zookeeper.listing import Memory, entry_of, walk
from roster.store.zookeeper.names import to_path
from roster.store.zookeeper.packets import exists, get, sync
from roster.store.zookeeper.watching import Watch
from roster.store.zookeeper.writing import write

logger = logging.getLogger("roster.store.zookeeper")

# A transaction that others keep overtaking is given up after so many times the deadline of one request.
_PATIENCE = 4
# ZooKeeper counts a session's timeout in 32 bits of milliseconds, and grants what its limits allow.
_LONGEST_SESSION = 2_000_000.0


class ZookeeperStore:
    """A client of ZooKeeper 3.6 or newer; see `roster.store.base.Store`.

    A key is a znode of the same path, its value the znode's data, and a lease a session of its own whose keys are ephemeral
    znodes. Revisions are zxids, so that they also move where no key changes.

    Weaker than other engines:

    - a lease lives no longer than the server's `maxSessionTimeout` allows (40 s unless it is configured);
    - a key begins anew (`create_revision`) when it is bound to another lease, and one that is put where other keys lie below
      counts from when their directory was made;
    - one transaction makes new keys under one lease only, and no key lies below a key that is bound to a lease;
    - a listing into which others write may hold what is newer than its revision.

    Args:
        url: the servers, with user and password (digest authentication) and TLS files.

    Raises:
        ConfigError: half a credential, or TLS files that cannot be read.
    """

    grade: Grade = "state"

    def __init__(self, url: StoreUrl) -> None:
        self._url = url
        self._settings = links.settings_of(url)
        self._link: Link | None = None
        self._closed = False
        self._memory = Memory()
        self._leases: dict[str, SessionLease | LastingLease] = {}
        self._watches: set[Watch] = set()
        self._told_of_limit = False

    @property
    def url(self) -> str:
        return self._url.display

    def _joined(self) -> Link:
        if self._closed:
            raise StoreUnavailableError(f"this client of {self.url} is closed: open another")
        if self._link is None:
            self._link = links.join(self._url, self._settings)
        return self._link

    async def info(self) -> StoreInfo:
        link = self._joined()
        _, first = await link.ask([sync(), exists(first_znode(self._url))])
        session = link.session()
        details = (("server", session.server), ("session", f"{session.ttl:g} s"))
        return StoreInfo("zookeeper", name_of(self._url, first.stat()), first.zxid, 0, details)

    async def get(self, key: str) -> Entry | None:
        limits.check_key(key)
        _, reply = await self._joined().ask([sync(), get(to_path(key))])
        return None if reply.error is not None else entry_of(key, *reply.node())

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        limits.check_prefix(prefix)
        limits.check_limit(limit)
        link = self._joined()
        if revision is not None:
            return self._memory.further(prefix, revision).page(limit, after)
        found = await walk(link.ask, prefix)
        return self._memory.keep(prefix, found.entries, found.revision).page(limit, after)

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        checks = () if if_revision is None else (Check(key, if_revision),)
        return await self.transact(checks, (Put(key, value, lease),))

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        checks = () if if_revision is None else (Check(key, if_revision),)
        _, there = await self._write(checks, (Delete(key),))
        return bool(there)

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        revision, _ = await self._write(checks, ops)
        return revision

    async def _write(self, checks: Sequence[Check], ops: Sequence[Op]) -> tuple[int, frozenset[str]]:
        limits.check_transaction(checks, ops)
        return await write(self._joined(), self._leases, checks, ops, _PATIENCE * self._url.timeout)

    @asynccontextmanager
    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        limits.check_prefix(prefix)
        limits.check_from_revision(from_revision)
        watch = Watch(self._joined().session(), prefix)
        self._watches.add(watch)
        try:
            await watch.open(from_revision, self._memory)
            yield watch
        finally:
            self._watches.discard(watch)
            watch.end()

    async def grant(
        self, ttl: float, *, lingering: bool = False, hint: Hint | None = None
    ) -> SessionLease | LastingLease:
        limits.check_ttl(ttl)
        link = self._joined()
        for ended in [name for name, lease in self._leases.items() if lease.ended]:
            del self._leases[ended]
        lease: SessionLease | LastingLease
        if lingering:
            lease = LastingLease(ttl, self._look, self._forget)
            await self._look()
        else:
            sent = boottime()
            session = link.make(min(ttl, _LONGEST_SESSION), own_pings=False)
            try:
                await session.ask([exists("/")])
            except BaseException:
                await session.drop()
                raise
            lease = SessionLease(session, sent)
            self._tell_of_limit(ttl, lease.ttl)
        self._leases[lease.id] = lease
        return lease

    def _tell_of_limit(self, asked: float, granted: float) -> None:
        if granted < asked and not self._told_of_limit:
            self._told_of_limit = True
            logger.warning(
                "%s grants no lease of %g s: this one lives %g s; its maxSessionTimeout says so",
                self.url,
                asked,
                granted,
            )

    async def _look(self) -> None:
        await self._joined().ask([sync()])

    async def _forget(self, written: dict[str, int]) -> None:
        """Delete keys that are as they were written, in as few transactions as possible."""
        keys = list(written)
        for first in range(0, len(keys), limits.MAX_OPS):
            some = set(keys[first : first + limits.MAX_OPS])
            while some:
                try:
                    await self._write(
                        [Check(key, written[key]) for key in some], [Delete(key) for key in some]
                    )
                    break
                except ConflictError as error:
                    some.discard(error.key)  # somebody else's by now

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for watch in self._watches:
            watch.fail(StoreUnavailableError(f"this client of {self.url} was closed"))
        await asyncio.gather(*(lease.leave() for lease in self._leases.values()))
        if self._link is not None:
            await links.leave(self._url, self._link)

    async def __aenter__(self) -> ZookeeperStore:
        await self._look()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
