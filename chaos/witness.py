"""A process that follows a registry and notes all that it is told: by an informer, and by a watch on the store itself.

Run as `python -m chaos.witness FILE URL`. Told `report`, it notes its copy of the registry; it ends with its input.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
from collections.abc import AsyncIterator

from chaos.ledger import LedgerWriter
from roster import Registry
from roster.errors import RevisionCompactedError, StoreError
from roster.registry.events import NodeEvent
from roster.registry.informer import FIRST_DELAY, LONGEST_DELAY, Informer
from roster.registry.keys import ROOT
from roster.store import Batch, Store, open_store

_LOOK = 0.02


class RawWatch:
    """Follows the store as an informer does, and notes every change."""

    def __init__(self, store: Store, ledger: LedgerWriter) -> None:
        self._store = store
        self._note = ledger.write
        self._cluster = ""
        self._revision = 0
        self._must_list = True

    async def run(self) -> None:
        """Follow without end."""
        failures = 0
        while True:
            try:
                failures += 1
                async for batch in self._follow():
                    failures = 0
                    self._revision = batch.revision
                    self._take(batch)
            except RevisionCompactedError as error:
                self._note(what="compacted", why=str(error))
                self._must_list = True
            except StoreError as error:
                self._note(what="away", why=str(error))
            await asyncio.sleep(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures, 10)) * random.random())

    async def _follow(self) -> AsyncIterator[Batch]:
        info = await self._store.info()
        if self._must_list or info.cluster_id != self._cluster or info.revision < self._revision:
            page = await self._store.list(ROOT)
            self._note(
                what="listing", revision=page.revision, keys={e.key: e.mod_revision for e in page.entries}
            )
            self._revision, self._cluster, self._must_list = page.revision, info.cluster_id, False
        async with self._store.watch(ROOT, from_revision=self._revision + 1) as batches:
            self._note(what="following", since=self._revision)
            async for batch in batches:
                yield batch

    def _take(self, batch: Batch) -> None:
        if batch.snapshot:
            self._note(
                what="listing",
                revision=batch.revision,
                keys={change.key: change.revision for change in batch.changes},
            )
        for change in () if batch.snapshot else batch.changes:
            self._note(what="seen", key=change.key, revision=change.revision, gone=change.value is None)


def _on_event(ledger: LedgerWriter, event: NodeEvent) -> None:
    record = event.record
    ledger.write(
        what="event",
        type=event.type,
        name=event.name,
        uid=record.uid,
        seq=record.seq,
        state=record.state,
        revision=record.revision,
    )


async def _look(informer: Informer, ledger: LedgerWriter) -> None:
    """Note each time that the informer says that it lost or found the store."""
    before: bool | None = None
    while True:
        if informer.connected is not before:
            before = informer.connected
            ledger.write(what="connected", value=before, staleness=round(informer.staleness, 3))
        await asyncio.sleep(_LOOK)


def _report(informer: Informer, ledger: LedgerWriter) -> None:
    ledger.write(
        what="copy",
        nodes={record.key: [record.uid, record.state] for record in informer.all()},
        quarantined=sorted(informer.quarantined),
        listings=informer.listings,
        megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


async def _main(ledger: LedgerWriter, url: str) -> None:
    async with Registry.connect(url) as registry, open_store(url) as store, asyncio.TaskGroup() as group:
        informer = registry.informer
        informer.add_listener(lambda event: _on_event(ledger, event))
        looking = [
            group.create_task(_look(informer, ledger)),
            group.create_task(RawWatch(store, ledger).run()),
        ]
        await registry.synced(60)
        ledger.write(what="synced")
        while await asyncio.to_thread(sys.stdin.readline):
            _report(informer, ledger)
        for task in looking:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(_main(LedgerWriter(sys.argv[1]), sys.argv[2]))
