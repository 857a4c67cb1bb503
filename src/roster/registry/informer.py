"""The local copy of the registry, kept fresh by list + watch."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping

from roster._clock import boottime
from roster.errors import RevisionCompactedError, StoreDeniedError, StoreError, StoreUnavailableError
from roster.registry.catalog import Catalog, Staging
from roster.registry.events import NodeEvent
from roster.registry.keys import ROOT
from roster.registry.record import NodeRecord
from roster.store.base import Batch, Entry, Store

logger = logging.getLogger("roster.registry")

Listener = Callable[[NodeEvent], None]

PAGE = 500  # 2 KB documents: a megabyte a page, far below every engine's message limit
AT_ONCE = 50  # of which so many are read before others get their turn: 2 to 5 ms
# Full jitter over a doubling bound: a thousand informers that lost one store come back over seconds, not at
# once (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
FIRST_DELAY = 0.1
# A store that is back must be followed again within a few seconds; to ask one that is away costs it nothing.
LONGEST_DELAY = 2.0
# A compaction reaches every reader at once; a listing is the dearest thing that they ask of a store.
LISTING_SPREAD = 1.0
# A wake-up that comes this much later than planned means that this process stood still.
PAUSE = 2.0


class Informer:
    """A copy of every node in the store, with indexes.

    What it promises (compare client-go's `SharedInformer`):

    - **Eventual.** The copy follows the store; a lookup never touches the store, and may be behind it by
      the time a change needs to travel. While the store is away the last good copy is served, and
      `staleness` says since when.
    - **Ordered per node.** Listeners hear of one node's changes in the order in which the store made them.
      Between nodes there is no order.
    - **Each change once.** One event for each change of a node; a listing after a compaction, a restored or
      another store is told as its differences to the copy, none twice. On engines of grade `state`, and for
      changes of one node in one revision, several changes may be told as one.
    - **Nobody dies of our blindness.** No node is called dead because we could not see: ageing stops while
      the store is away, and starts anew after an outage or a pause of this process.
    - **Bad documents hurt their own key alone**: see `quarantined`.

    Listeners are called on the loop, one after the other, while nobody else runs: they must be quick, and
    must not raise (what they raise is logged, and the others are called all the same).

    It is started by the first lookup, not before: a node that never calls anybody opens no watch.

    Args:
        store: read only.
        thaw_grace: see `Catalog`.
        now: the clock that decides.
        rng: draws from 0 to 1, for jitter.
    """

    def __init__(
        self,
        store: Store,
        *,
        thaw_grace: bool = True,
        now: Callable[[], float] = boottime,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._now = now
        self._rng = rng
        self.catalog = Catalog(now=now, thaw_grace=thaw_grace, fresh=lambda: self.staleness)
        self.synced = asyncio.Event()
        self.listings = 0
        self._listeners: dict[int, Listener] = {}
        self._numbers = 0
        self._task: asyncio.Task[None] | None = None
        self._clock: asyncio.Task[None] | None = None
        self._due_changed = asyncio.Event()
        self._tried = asyncio.Event()
        self._cluster = ""
        self._must_list = True
        self._heard = False
        self._confirmed: float | None = None
        self._connected = False
        self._failure: StoreError | None = None
        self._closed = False

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to list and watch, in the background; a second call does nothing. `synced` is set when the copy is there."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run(), name="roster-informer")
            self._clock = asyncio.create_task(self._run_clock(), name="roster-informer-clock")

    async def wait_synced(self) -> None:
        """Return when the copy is there.

        Raises:
            StoreDeniedError: the store refuses us. The informer goes on asking: rights may be given later.
        """
        while not self.synced.is_set():
            if isinstance(self._failure, StoreDeniedError):
                raise StoreDeniedError(str(self._failure)) from self._failure
            self._tried.clear()
            await self._tried.wait()

    async def close(self) -> None:
        """End the watch. The copy stays readable."""
        self._closed = True
        tasks = [task for task in (self._task, self._clock) if task is not None]
        self._task = self._clock = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._connected = False
        self._listeners.clear()

    @property
    def started(self) -> bool:
        """Whether it lists and watches."""
        return self._task is not None

    @property
    def connected(self) -> bool:
        """Whether the watch is open."""
        return self._connected

    @property
    def failure(self) -> StoreError | None:
        """Why the store cannot be read at present, None while it can."""
        return self._failure

    @property
    def staleness(self) -> float:
        """Seconds since the copy was last known to be good: 0.0 while live, infinite before it is there."""
        if self._confirmed is None:
            return float("inf")
        return 0.0 if self._connected else max(0.0, self._now() - self._confirmed)

    # -- the copy ----------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The store's revision that the copy shows."""
        return self.catalog.revision

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Keys whose documents cannot be read, each with the reason."""
        return dict(self.catalog.quarantined)

    def get(self, key: str) -> NodeRecord | None:
        """Return the node `namespace/name`, or None."""
        return self.catalog.index.by_key.get(key)

    def all(self) -> list[NodeRecord]:
        """Return every node, in whatever state."""
        return list(self.catalog.index.by_key.values())

    def by_capability(self, name: str) -> list[NodeRecord]:
        """Return every node that offers a capability, in whatever state."""
        return list(self.catalog.index.by_capability(name).values())

    def by_namespace(self, namespace: str) -> list[NodeRecord]:
        """Return every node of a namespace, in whatever state."""
        return list(self.catalog.index.by_namespace(namespace).values())

    def by_queue(self, queue: str) -> list[NodeRecord]:
        """Return the nodes that name a queue as theirs."""
        return list(self.catalog.index.by_queue(queue))

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called for each change from now on; first, before this returns, `added` for each node there is.

        Returns:
            A function that ends it.
        """
        for record in self.all():
            self._tell(listener, NodeEvent("added", record.namespace, record.name, record, self.revision))
        self._numbers += 1
        number = self._numbers
        self._listeners[number] = listener
        return lambda: self._listeners.pop(number, None) and None

    def _dispatch(self, events: list[NodeEvent]) -> None:
        if not events:
            return
        for listener in list(self._listeners.values()):
            for event in events:
                self._tell(listener, event)

    @staticmethod
    def _tell(listener: Listener, event: NodeEvent) -> None:
        try:
            listener(event)
        except Exception:
            # One bad listener must not cost the others their events, nor the copy its watch.
            logger.exception("a listener failed on %s of %s", event.type, event.key)

    # -- list and watch ----------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._follow()
                failures = 0
            except RevisionCompactedError as error:
                logger.info("listing again: %s", error)
                self._disconnected(None)
                self._must_list = True
            except StoreError as error:
                self._disconnected(error)
            except Exception as error:
                # A mistake of ours or of an engine's: a copy that silently stops would be worse than one made anew.
                logger.exception("following the store %s failed, listing again", self._store.url)
                self._disconnected(StoreUnavailableError(f"following the store failed: {error}"))
                self._must_list = True
            # A watch that had been open long enough to hear something starts the doubling anew.
            failures = 0 if self._heard else failures + 1
            bound = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures, 10))
            if self._must_list:
                bound = max(bound, LISTING_SPREAD)
            await asyncio.sleep(bound * self._rng())

    async def _follow(self) -> None:
        """List if the copy cannot be continued, then watch until that ends."""
        self._heard = False
        info = await self._store.info()
        revision = self.catalog.revision
        # A revision that went back is another store, whatever it says; a watch from the future
        # would be silent.
        rebuilt = self._cluster != "" and (info.cluster_id != self._cluster or info.revision < revision)
        if rebuilt:
            logger.warning("the store is another one, or was restored from an older state: listing again")
        if self._must_list or rebuilt or info.compacted > revision:
            revision = await self._list(rebuilt)
            self._cluster = info.cluster_id
            self._must_list = False
        async with self._store.watch(ROOT, from_revision=revision + 1) as batches:
            self._reconnected()
            async for batch in batches:
                self._heard = True
                self._confirmed = self._now()
                await self._take(batch)
        raise StoreUnavailableError(f"the store {self._store.url} ended the watch")

    async def _list(self, rebuilt: bool) -> int:
        staging = Staging()
        page = await self._store.list(ROOT, limit=PAGE)
        revision = page.revision
        while True:
            # The store works on the next page while this one is read.
            after = page.next
            following = (
                asyncio.create_task(self._store.list(ROOT, limit=PAGE, after=after, revision=revision))
                if after is not None
                else None
            )
            try:
                for start in range(0, len(page.entries), AT_ONCE):
                    # Other tasks get their turn: a hundred thousand nodes take seconds.
                    await asyncio.sleep(0)
                    self.catalog.stage(page.entries[start : start + AT_ONCE], staging)
                if following is None:
                    break
                page = await following
            finally:
                if following is not None:
                    following.cancel()
        if self._failure is not None:
            self.catalog.outage_over()
        self.listings += 1
        for events in self.catalog.swap(staging, revision, rebuilt=rebuilt):
            self._dispatch(events)
            await asyncio.sleep(0)
        self._due_changed.set()
        return revision

    async def _take(self, batch: Batch) -> None:
        if batch.snapshot:
            staging = Staging()
            entries = [
                Entry(change.key, change.value or b"", change.create_revision, change.revision, change.lease)
                for change in batch.changes
            ]
            self.catalog.stage(entries, staging)
            for events in self.catalog.swap(staging, batch.revision):
                self._dispatch(events)
                await asyncio.sleep(0)
        else:
            self._dispatch(self.catalog.apply(batch.changes, batch.revision))
        self._due_changed.set()

    def _reconnected(self) -> None:
        if self._failure is not None:
            logger.info(
                "the store %s is back after %.1f s",
                self._store.url,
                self.staleness,
                extra={"store": self._store.url},
            )
            self.catalog.outage_over()
        self._failure = None
        self._connected = True
        self._confirmed = self._now()
        self._due_changed.set()
        self.synced.set()
        self._tried.set()

    def _disconnected(self, error: StoreError | None) -> None:
        self._connected = False
        if error is not None:
            if self._failure is None:
                logger.log(
                    # Before there is a copy it is the first lookup that fails, and says why.
                    logging.WARNING if self.synced.is_set() else logging.INFO,
                    "the store %s %s: %s",
                    self._store.url,
                    "is away, serving the copy" if self.synced.is_set() else "cannot be read, trying again",
                    error,
                    extra={"store": self._store.url},
                )
            self._failure = error
            self._tried.set()

    # -- clocks ------------------------------------------------------------------------------------

    async def _run_clock(self) -> None:
        """Let what has run out run out, while the store can be seen."""
        while True:
            self._due_changed.clear()
            due = self.catalog.next_due if self._connected else None
            if due is None:
                await self._due_changed.wait()
                continue
            delay = max(0.0, due - self._now())
            try:
                async with asyncio.timeout(delay):
                    await self._due_changed.wait()
                continue
            except TimeoutError:
                pass  # it is due
            if not self._connected:
                continue
            if self._now() > due + PAUSE:
                # We slept through it: what would have been heard meanwhile has not been read yet.
                logger.info("this process stood still: every ageing starts anew")
                self.catalog.restart_clocks()
                continue
            self._dispatch(self.catalog.tick())
