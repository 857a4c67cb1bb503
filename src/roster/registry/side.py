"""One store of a migration, and what was last seen of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from roster.errors import RevisionCompactedError, StoreError, StoreUnavailableError
from roster.registry.keys import ROOT
from roster.registry.mirroring import Image, entry_of, keys_of
from roster.store.base import Entry, Store

logger = logging.getLogger("roster.registry")

PAGE = 500
# A copy that is to end gives up when a side is silent for so long; run again, it goes on where it stopped.
PATIENCE = 30.0
_MAX_LISTINGS = 5


class Outage:
    """Knows since when something fails, and says so once when it begins and once when it is over.

    Args:
        url: of the store.
        now: the clock that decides.
        for_ever: never lose patience.
    """

    def __init__(self, url: str, *, now: Callable[[], float], for_ever: bool) -> None:
        self._url = url
        self._now = now
        self._for_ever = for_ever
        self._since: float | None = None

    def over(self) -> None:
        """Note that it works."""
        if self._since is not None:
            logger.warning("the store %s is back", self._url, extra={"store": self._url})
        self._since = None

    def goes_on(self, error: StoreError) -> None:
        """Note that it does not; raise the error again if that has lasted too long."""
        if self._since is None:
            self._since = self._now()
            logger.warning(
                "the store %s is out of reach, trying again: %s", self._url, error, extra={"store": self._url}
            )
        elif not self._for_ever and self._now() - self._since >= PATIENCE:
            raise error


async def list_all(store: Store) -> tuple[list[Entry], int]:
    """Return every entry of the registry at one revision, and that revision.

    Raises:
        RevisionCompactedError: the store forgot the revision while it was paged, several times over.
    """
    for left in reversed(range(_MAX_LISTINGS)):
        try:
            page = await store.list(ROOT, limit=PAGE)
            entries = list(page.entries)
            while page.next is not None:
                page = await store.list(ROOT, limit=PAGE, after=page.next, revision=page.revision)
                entries += page.entries
            return entries, page.revision
        except RevisionCompactedError:
            if not left:
                raise
    raise AssertionError("unreachable")


class Side:
    """A store and what was last seen of it.

    Attributes:
        store: the engine.
        image: its keys.
        outage: of its listings and watches.
    """

    def __init__(self, store: Store, outage: Outage) -> None:
        self.store = store
        self.image = Image()
        self.outage = outage
        self._cluster = ""
        self._revision = 0

    async def list(self) -> set[str]:
        """Take in what is there now; return the units that differ from what was seen before.

        Raises:
            StoreError: it is another store, or an older state of it: what is missing there was not taken away by its owners.
        """
        info = await self.store.info()
        entries, revision = await list_all(self.store)
        if self._cluster and (info.cluster_id != self._cluster or revision < self._revision):
            raise StoreError(
                f"the store {self.store.url} was wiped or restored meanwhile: nothing was taken away on the other side; "
                "run again when its nodes have registered"
            )
        self._cluster, self._revision = info.cluster_id, revision
        return self.image.replace(entries, revision)

    async def follow(self, hear: Callable[[set[str]], None]) -> None:
        """Watch from where the copy stands, and tell each time which units have changed, until that fails.

        Raises:
            RevisionCompactedError: it is another store by now; `list` says so.
        """
        info = await self.store.info()
        if info.cluster_id != self._cluster:
            raise RevisionCompactedError(
                f"the store {self.store.url} is another one by now: list again", info.revision
            )
        async with self.store.watch(ROOT, from_revision=self._revision + 1) as batches:
            self.outage.over()
            async for batch in batches:
                self.outage.over()
                if batch.snapshot:
                    hear(self.image.replace(map(entry_of, batch.changes), batch.revision))
                else:
                    hear(self.image.apply(batch.changes))
                self._revision = max(self._revision, batch.revision)
        raise StoreUnavailableError(f"the store {self.store.url} ended the watch")

    async def refresh(self, unit: str) -> None:
        """Read one unit anew."""
        for key in keys_of(unit):
            if key is None:
                continue
            seen = self.image.get(unit)
            before = (seen.document, seen.status)
            entry = await self.store.get(key)
            seen = self.image.get(unit)
            if before != (seen.document, seen.status):
                continue  # the watch was quicker, and it knows the order of things
            if entry is None:
                self.image.drop(key)
            else:
                self.image.put(entry)
