"""The Consul engine as the rest of Roster sees it: the protocol of a store over Consul's HTTP API."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from roster.errors import ConfigError, RevisionCompactedError, StoreDeniedError, StoreUnavailableError
from roster.store import limits
from roster.store.base import Batch, Check, Entry, Grade, Hint, Op, Page, Put, StoreInfo
from roster.store.consul import wire as wires
from roster.store.consul.kv import Kv
from roster.store.consul.lease import SessionLease, grant_service, grant_session
from roster.store.consul.listings import Listings, Versions
from roster.store.consul.watch import Watch
from roster.store.consul.wire import Wire, unreadable
from roster.store.consul.writing import Writer
from roster.store.url import StoreUrl

_TOKEN = re.compile(r"[!-~]{1,4096}")


class ConsulStore:
    """A client of a Consul agent; see `roster.store.base.Store`.

    Stores of one event loop and one URL share their connections.

    Args:
        url: hosts, token, TLS files and timeout. A lease is kept by the agent at which it was granted; everything else goes
            to the next host when one fails.

    Raises:
        ConfigError: the token is none.
    """

    grade: Grade = "state"

    def __init__(self, url: StoreUrl) -> None:
        if url.password is not None and not _TOKEN.fullmatch(url.password):
            raise ConfigError(
                f"{url.display}: a Consul token is letters, digits and signs of ASCII without spaces"
            )
        self._url = url
        self.timeout = url.timeout
        self._wire: Wire | None = None
        self._kv: Kv | None = None
        self._closed = False
        self._listings = Listings()
        self._watches: set[Watch] = set()

    @property
    def url(self) -> str:
        return self._url.display

    @property
    def wire(self) -> Wire:
        """The connections, from the first use on."""
        if self._closed:
            raise StoreUnavailableError(f"this client of {self.url} is closed: open another")
        if self._wire is None:
            self._wire = wires.join(self._url)
        return self._wire

    @property
    def _reads(self) -> Kv:
        wire = self.wire
        if self._kv is None:
            self._kv = Kv(wire, self.url, self._url.prefix[1:] + "/")
        return self._kv

    @property
    def _writes(self) -> Writer:
        return Writer(self.wire, self._reads, self.url, self.timeout)

    def denied(self, said: str, what: str) -> StoreDeniedError:
        """Return the error for a token that may not do what was asked."""
        return wires.denied(self.url, said, what)

    async def info(self) -> StoreInfo:
        cluster, details = await self._identity()
        return StoreInfo("consul", cluster, await self._reads.store_index(), 0, details)

    async def _identity(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Return what tells this Consul from another, and details for people.

        The oldest of its servers stays the same while its data live. A token that may not see it sees the datacenter.
        """
        answer = await self.wire.ask(
            "GET", "/v1/catalog/service/consul", {"consistent": ""}, expect=(200, 403)
        )
        servers: list[Any] = answer.json() if answer.status == 200 else []
        if not servers:
            answer = await self.wire.ask("GET", "/v1/catalog/datacenters")
            datacenters = answer.json()
            if not isinstance(datacenters, list) or not datacenters:
                raise unreadable(self.url)
            return str(datacenters[0]), (("datacenter", str(datacenters[0])),)
        try:
            oldest = min(servers, key=lambda server: (int(server["CreateIndex"]), str(server["ID"])))
            datacenter = str(oldest["Datacenter"])
            version = str((oldest.get("ServiceMeta") or {}).get("version", "unknown"))
            cluster = f"{datacenter}/{oldest['ID']}/{oldest['CreateIndex']}"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unreadable(self.url) from error
        return cluster, (("datacenter", datacenter), ("version", version), ("servers", str(len(servers))))

    async def get(self, key: str) -> Entry | None:
        limits.check_key(key)
        return await self._reads.get(key)

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        limits.check_prefix(prefix)
        limits.check_limit(limit)
        kv = self._reads
        if revision is None:
            return self._listings.page(prefix, await kv.look(prefix), limit)
        page = self._listings.next_page(prefix, revision, after, limit)
        if page is None:
            raise RevisionCompactedError(
                f"{self.url}: the listing of revision {revision} is not at hand (any more): list again",
                await kv.store_index(),
            )
        return page

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        checks = () if if_revision is None else (Check(key, if_revision),)
        return await self.transact(checks, (Put(key, value, lease),))

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        limits.check_transaction(() if if_revision is None else (Check(key, if_revision),), ())
        limits.check_key(key)
        return await self._writes.delete(key, if_revision)

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        limits.check_transaction(checks, ops)
        return await self._writes.commit(checks, ops)

    @asynccontextmanager
    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        limits.check_prefix(prefix)
        limits.check_from_revision(from_revision)

        def remember(position: int, versions: Versions) -> None:
            if not self._closed:
                self._listings.remember(prefix, position, versions)

        watch = Watch(
            self._reads,
            prefix,
            self.url,
            position=from_revision - 1,
            versions=self._listings.shown(prefix, from_revision - 1),
            remember=remember,
        )
        self._watches.add(watch)
        try:
            await watch.open()
            yield watch
        finally:
            self._watches.discard(watch)
            await watch.end()

    async def grant(self, ttl: float, *, lingering: bool = False, hint: Hint | None = None) -> SessionLease:
        limits.check_ttl(ttl)
        _ = self.wire
        return await (grant_session if lingering else grant_service)(self, ttl, hint)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._listings.clear()
        for watch in self._watches:
            watch.close()
        if self._wire is not None:
            self._wire = None
            await wires.leave(self._url)

    async def __aenter__(self) -> ConsulStore:
        _ = self.wire
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
