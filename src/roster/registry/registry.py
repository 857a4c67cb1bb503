"""Passports over a store: register, find, watch, and what the command line does to nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from roster._clock import boottime, utc_now
from roster._connecting import Connecting
from roster.errors import NodeNotFoundError, RegistryError, StoreError, StoreUnavailableError
from roster.passport import Selector, VersionRange
from roster.passport.document import PassportLike, passport_of
from roster.registry.admin import delete_node, identity, prune_nodes, set_mark
from roster.registry.contracts import Mismatch
from roster.registry.events import NodeEvent
from roster.registry.informer import Informer
from roster.registry.keys import node_key
from roster.registry.record import NodeRecord
from roster.registry.registration import Registration
from roster.registry.settings import DEFAULT_RETENTION, DEFAULT_TTL, PASSPORT_REFRESH, seconds
from roster.registry.summary import CapabilitySummary, summarize
from roster.registry.watching import EventWatch
from roster.store import open_store
from roster.store.base import Store

SYNC_TIMEOUT = 15.0


class Registry:
    """The registry. Made by `Registry.connect`; it belongs to the event loop that opened it.

    Lookups are answered from a local copy, which the first of them brings up; afterwards they never touch
    the store and never wait. While the store is away they go on answering, and `staleness` says how old the
    answers are.

    Example:
        >>> async with Registry.connect("memory://team") as registry:
        ...     async with await registry.register("writer-001.yaml"):
        ...         nodes = await registry.find_by_capability("write_article")
        ...         print(nodes[0].name, nodes[0].state, nodes[0].mindbus_queue)
    """

    def __init__(
        self,
        store: Store,
        *,
        thaw_grace: bool = True,
        sync_timeout: float = SYNC_TIMEOUT,
        now: Callable[[], float] = boottime,
    ) -> None:
        self.store = store
        self.informer = Informer(store, thaw_grace=thaw_grace, now=now)
        self._sync_timeout = sync_timeout
        self._now = now
        self._registrations: list[Registration] = []
        self._watches: list[EventWatch] = []
        self._closed = False

    @staticmethod
    def connect(
        url: str | None = None,
        *,
        thaw_grace: bool = True,
        sync_timeout: float = SYNC_TIMEOUT,
        now: Callable[[], float] = boottime,
    ) -> Connecting[Registry]:
        """Open the registry.

        Args:
            url: the store; without it `ROSTER_REGISTRY`, else the user's SQLite file.
            thaw_grace: hold nodes that vanish after an outage of the store, or many at once, as `unknown`
                for one TTL.
            sync_timeout: seconds that the first lookup waits for the copy.
            now: the clock that decides, `CLOCK_BOOTTIME` seconds.

        Returns:
            An object for `async with`; awaiting it gives a registry that is closed with `close`.

        Raises:
            ConfigError: the URL is wrong.
        """

        async def opened() -> Registry:
            made = Registry(open_store(url), thaw_grace=thaw_grace, sync_timeout=sync_timeout, now=now)
            try:
                await made.store.__aenter__()
            except StoreError:
                await made.store.close()
                raise
            return made

        return Connecting(opened)

    # -- being in it -------------------------------------------------------------------------------

    async def register(
        self,
        passport: PassportLike,
        *,
        ttl: float | None = None,
        retention: float | None = None,
        takeover: bool = False,
        wait: float | None = None,
        on_wait: Callable[[str], None] | None = None,
        state: str = "ready",
        passport_refresh: float | None = None,
    ) -> Registration:
        """Register a node and keep it registered until `deregister`, or until this registry is closed.

        Args:
            passport: the passport, its document, or the path of its file.
            ttl: seconds that the node stays alive after the last keep-alive; without it `ROSTER_TTL`, else
                30.
            retention: seconds that it stays listed as `offline` after its death; without it
                `ROSTER_RETENTION`, else 3600.
            takeover: replace whoever holds the name.
            wait: at most so many seconds to wait for the lease of a holder that may be dead; 0 does not
                wait; None waits as long as its lease may last.
            on_wait: called with one sentence when it begins to wait.
            state: `ready`, or `starting` if it does not take work yet.
            passport_refresh: seconds between two refreshes of the `status` section inside the stored
                passport, for readers that know the founding document only; it is refreshed on each change
                of state as well. 0: that section keeps showing the moment of registration (or of the last
                `update`). None: 30 on etcd, Consul and ZooKeeper, else 0.

        Raises:
            DocumentError: the passport is wrong.
            ConfigError: a duration or the state is wrong.
            NameConflictError: a live process holds the name.
            StoreUnavailableError: the store cannot be reached.
        """
        self._need_open()
        content = passport_of(passport)
        ttl = seconds(ttl, "ROSTER_TTL", DEFAULT_TTL)
        retention = seconds(retention, "ROSTER_RETENTION", DEFAULT_RETENTION)
        if passport_refresh is None:
            passport_refresh = PASSPORT_REFRESH.get((await self.store.info()).engine, 0.0)
        elif passport_refresh:
            passport_refresh = seconds(passport_refresh, "passport_refresh", 0.0)
        registration = Registration(
            self.store,
            content,
            ttl=ttl,
            retention=retention,
            passport_refresh=passport_refresh,
            state=state,
            now=self._now,
        )
        await registration.begin(takeover=takeover, wait=wait, on_wait=on_wait)
        self._registrations = [one for one in self._registrations if one.state != "offline"]
        self._registrations.append(registration)
        return registration

    # -- finding -----------------------------------------------------------------------------------

    async def synced(self, timeout: float | None = None) -> None:
        """Return when the copy is there; bring it up if nobody has.

        Raises:
            StoreDeniedError: the store refuses us: user, password, certificate or rights.
            StoreUnavailableError: the store could not be read in time.
        """
        self._need_open()
        if self.informer.synced.is_set():
            return
        await self.informer.start()
        limit = self._sync_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                await self.informer.wait_synced()
        except TimeoutError:
            why = self.informer.failure
            raise StoreUnavailableError(
                f"the registry {self.store.url} could not be read within {limit:g} s: {why or 'no answer'}"
            ) from why

    @property
    def staleness(self) -> float:
        """Seconds since the copy was last known to be good; 0.0 while live, infinite before it is there."""
        return self.informer.staleness

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Keys whose documents cannot be read, each with the reason; known after the first lookup."""
        return self.informer.quarantined

    async def find_by_capability(
        self,
        name: str,
        *,
        version: VersionRange | str | None = None,
        selector: Selector | Mapping[str, Any] | str | None = None,
        namespace: str | None = None,
        healthy: bool | None = True,
    ) -> list[NodeRecord]:
        """Return the nodes that offer a capability, by default those that are ready or busy; see `find`."""
        return await self.find(
            capability=name, version=version, selector=selector, namespace=namespace, healthy=healthy
        )

    async def find(
        self,
        *,
        capability: str | None = None,
        selector: Selector | Mapping[str, Any] | str | None = None,
        type: str | None = None,
        namespace: str | None = None,
        healthy: bool | None = None,
        version: VersionRange | str | None = None,
        state: str | Iterable[str] | None = None,
    ) -> list[NodeRecord]:
        """Return the nodes for which every condition holds, by namespace and name.

        Args:
            capability: it offers this one now.
            selector: `role=writer,tier in (a,b)`, its form as a map, or a `Selector`.
            type: `spec.type`.
            namespace: in this one; None: in all.
            healthy: True: ready or busy; False: neither; None: in whatever state.
            version: such as `>=1.2,<2`: of the capability if one is asked for (a capability without a
                version has its node's), else of the node. A node without a version never matches.
            state: one state, or several.

        Raises:
            SelectorError: selector or version range cannot be read.
            StoreUnavailableError: the copy is not there yet, and the store cannot be reached.
        """
        wanted, span = Selector.parse(selector), VersionRange.parse(version)
        states = {state} if isinstance(state, str) else None if state is None else set(state)
        await self.synced()
        index = self.informer.catalog.index
        candidates: Collection[NodeRecord]
        if capability is not None:
            candidates = index.by_capability(capability).values()
        elif namespace is not None:
            candidates = index.by_namespace(namespace).values()
        else:
            candidates = index.by_key.values()
        if not wanted.empty and not wanted.needs_document and index.label_sets < len(candidates):
            # Asking each distinct set of labels once is less work than asking each candidate.
            candidates = list(index.by_labels(wanted.matches))
            wanted = Selector.parse(None)
        found = []
        for record in candidates:
            if capability is not None and capability not in record.capabilities:
                continue
            if namespace is not None and record.namespace != namespace:
                continue
            if type is not None and record.type != type:
                continue
            if healthy is not None and record.healthy is not healthy:
                continue
            if states is not None and record.state not in states:
                continue
            if not span.any:
                has = record.version if capability is None else record.capabilities.get(capability)
                if not span.matches(has):
                    continue
            if not wanted.empty and not record.matches(wanted):
                continue
            found.append(record)
        found.sort(key=lambda record: (record.namespace, record.name))
        return found

    async def get(self, name: str, namespace: str | None = None) -> NodeRecord:
        """Return one node.

        Args:
            name: its name, or `namespace/name`.
            namespace: without it `default`.

        Raises:
            NodeNotFoundError: no such node is listed.
        """
        space, name = identity(name, namespace)
        await self.synced()
        record = self.informer.get(f"{space}/{name}")
        if record is None:
            reason = self.informer.catalog.quarantined.get(node_key(space, name))
            elsewhere = sorted(r.namespace for r in self.informer.all() if r.name == name)
            hint = f"its document cannot be read: {reason}" if reason else ""
            if not hint and elsewhere:
                hint = f"there is one in the namespace {', '.join(elsewhere[:3])}"
            raise NodeNotFoundError(f"no node {space}/{name} is registered" + (f" ({hint})" if hint else ""))
        return record

    async def capabilities(self, *, namespace: str | None = None) -> list[CapabilitySummary]:
        """Return a summary of each capability, by name. Decodes every passport: for people."""
        await self.synced()
        return summarize(self.informer.catalog.index.capabilities, namespace)

    async def mismatches(self) -> list[Mismatch]:
        """Return each version of a capability that nodes (in any namespace, not offline) declare with different schemas."""
        await self.synced()
        return list(self.informer.catalog.index.contracts.mismatches())

    def watch(
        self,
        *,
        capability: str | None = None,
        selector: Selector | Mapping[str, Any] | str | None = None,
        namespace: str | None = None,
    ) -> EventWatch:
        """Follow the registry: an async iterator of `NodeEvent`, usable with `async with` too.

        It begins with `added` for each node there is, in whatever state, then tells each change as it
        comes, and ends when the registry is closed. With a condition, a node that comes to match is told
        with the event of its change (not as `added`); the event by which it stops matching is told too if
        its type is `removed`.

        Raises:
            SelectorError: the selector cannot be read.
        """
        self._need_open()
        wanted = Selector.parse(selector)

        def matches(event: NodeEvent) -> bool:
            record = event.record
            return (
                (capability is None or capability in record.capabilities)
                and (namespace is None or record.namespace == namespace)
                and record.matches(wanted)
            )

        watch = EventWatch(self.synced, self.informer, matches)
        self._watches = [one for one in self._watches if not one.closed]
        self._watches.append(watch)
        return watch

    # -- what is done to nodes from outside --------------------------------------------------------

    async def drain(self, name: str, namespace: str | None = None) -> None:
        """Cordon a node: it is shown as `draining` and gets no new work, whatever it says of itself.

        The mark is the annotation `ai-team.dev/cordoned` of its stored passport. It stays until `undrain`,
        through restarts of the node too, as long as its passport is listed. It asks nothing of the node: to
        have it finish and leave, send it the control signal `drain` over the bus.

        Raises:
            NodeNotFoundError: no such node.
            DocumentError: its passport cannot be read.
        """
        self._need_open()
        await set_mark(self.store, *identity(name, namespace), utc_now())

    async def undrain(self, name: str, namespace: str | None = None) -> None:
        """Take the cordon mark away.

        Raises:
            NodeNotFoundError: no such node.
        """
        self._need_open()
        await set_mark(self.store, *identity(name, namespace), None)

    async def delete(self, name: str, namespace: str | None = None, *, force: bool = False) -> None:
        """Remove a node from the registry.

        A node that lives is not removed: its work would be thrown away, and it would register again within
        a keep-alive.

        Args:
            force: remove it all the same.

        Raises:
            NodeNotFoundError: no such node.
            RegistryError: it lives.
        """
        self._need_open()
        await delete_node(self.store, *identity(name, namespace), force=force)

    async def prune(self, older_than: float | None = None, *, dry_run: bool = False) -> list[str]:
        """Remove nodes that are offline; return their keys, `namespace/name`.

        Passports of dead nodes go by themselves after their retention. This is for those that do not:
        documents that were put without a lease, and engines without long leases.

        Args:
            older_than: only those last seen at least so many seconds ago, by the wall clock as `last_seen`
                shows it; a founding-style document without a lease, whose death takes us a minute to see,
                counts by it too.
            dry_run: remove nothing; return what would go.
        """
        await self.synced()
        return await prune_nodes(self.store, self.informer.all(), older_than, dry_run=dry_run)

    # -- life --------------------------------------------------------------------------------------

    def _need_open(self) -> None:
        if self._closed:
            raise RegistryError("this registry is closed: connect again")

    async def close(self) -> None:
        """Deregister what was registered here, end the watches, close the store."""
        if self._closed:
            return
        self._closed = True
        for watch in self._watches:
            watch.close()
        try:
            await asyncio.gather(*(one.__aexit__() for one in self._registrations))
            await self.informer.close()
        finally:
            await self.store.close()

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
