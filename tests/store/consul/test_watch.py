"""The watch of Consul: states, not events; what a look costs; what an index that falls means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from tests.store.consul.conftest import Owner

from roster._clock import boottime
from roster.errors import RevisionCompactedError, StoreUnavailableError
from roster.store import Batch, Entry, Put, store_url
from roster.store.consul import ConsulStore
from roster.store.consul.kv import Kv, Look
from roster.store.consul.listings import Versions
from roster.store.consul.watch import Watch


async def _changes(batches: AsyncIterator[Batch], number: int) -> list[Batch]:
    found: list[Batch] = []
    async with asyncio.timeout(15):
        while sum(len(batch.changes) for batch in found) < number:
            found.append(await anext(batches))
    return found


async def test_after_a_burst_the_last_state_is_seen_in_a_few_looks(
    consul_server: str, store: ConsulStore, root: str
) -> None:
    start = (await store.info()).revision
    async with (
        ConsulStore(store_url(consul_server)) as reader,
        reader.watch(root, from_revision=start + 1) as batches,
    ):
        writes = asyncio.gather(*(store.put(f"{root}{number % 30}", b"%d" % number) for number in range(300)))
        shown: dict[str, bytes | None] = {}
        seen: set[tuple[str, int]] = set()
        newest: dict[str, int] = {}
        looks = 0
        async with asyncio.timeout(30):
            while True:
                batch = await anext(batches)
                looks += bool(batch.changes)
                assert list(batch.changes) == sorted(batch.changes, key=lambda change: change.revision)
                for change in batch.changes:
                    assert (change.key, change.revision) not in seen
                    assert change.revision > newest.get(change.key, 0)
                    seen.add((change.key, change.revision))
                    newest[change.key] = change.revision
                    shown[change.key] = change.value
                if writes.done():
                    page = await store.list(root)
                    if {entry.key: entry.value for entry in page.entries} == shown:
                        break
    assert len(shown) == 30
    assert looks < 150


async def test_a_key_deleted_and_made_anew_between_two_looks_is_a_new_one(
    store: ConsulStore, root: str
) -> None:
    await store.put(root + "a", b"old")
    page = await store.list(root)
    async with store.watch(root, from_revision=page.revision + 1) as batches:
        await store.delete(root + "a")
        again = await store.put(root + "a", b"new")
        found = await _changes(batches, 1)
        while found[-1].revision < again:
            found += await _changes(batches, 1)
    change = found[-1].changes[-1]
    assert (change.value, change.create_revision, change.revision) == (b"new", again, again)


async def test_a_reader_that_comes_back_gets_the_differences_alone(store: ConsulStore, root: str) -> None:
    for name in ("kept", "gone"):
        await store.put(root + name, b"")
    position = (await store.list(root)).revision
    for turn in range(3):
        await store.put(f"{root}{turn}", b"")
        await store.delete(root + "gone")
        async with store.watch(root, from_revision=position + 1) as batches:
            batch = await anext(batches)
            position = batch.revision
        assert not batch.snapshot
        wanted = [("put", f"{root}{turn}")] + ([("delete", root + "gone")] if not turn else [])
        assert [(change.type, change.key) for change in batch.changes] == wanted


async def test_a_batch_that_nobody_took_is_told_again(store: ConsulStore, root: str) -> None:
    await store.put(root + "a", b"")
    page = await store.list(root)
    async with store.watch(root, from_revision=page.revision + 1) as batches:
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await store.put(root + "b", b"")
        await asyncio.sleep(0.3)
    async with store.watch(root, from_revision=page.revision + 1) as batches:
        batch = await anext(batches)
    assert root + "b" in {change.key for change in batch.changes}


async def test_pages_are_kept_for_as_long_as_they_are_read(store: ConsulStore, root: str) -> None:
    await store.transact((), [Put(f"{root}{number}", b"") for number in range(5)])
    page = await store.list(root, limit=2)
    # Other listings push it out: somebody who pages so slowly begins again.
    for number in range(4):
        await store.list(f"{root}{number}", limit=1)
    with pytest.raises(RevisionCompactedError, match="list again"):
        await store.list(root, limit=2, after=page.next, revision=page.revision)


async def test_foreign_keys_beside_ours_do_no_harm(store: ConsulStore, owner: Owner, root: str) -> None:
    await owner.ask("PUT", f"/v1/kv/{root[1:]}folder/", b"")
    await owner.ask("PUT", f"/v1/kv/{root[1:]}bytes", bytes(range(256)))
    await store.put(root + "ours", b"1")
    page = await store.list(root)
    assert [(entry.key, entry.value) for entry in page.entries] == [
        (root + "bytes", bytes(range(256))),
        (root + "folder/", b""),
        (root + "ours", b"1"),
    ]
    async with store.watch(root, from_revision=page.revision + 1) as batches:
        await owner.ask("DELETE", f"/v1/kv/{root[1:]}?recurse")
        (batch,) = await _changes(batches, 3)
    assert {change.type for change in batch.changes} == {"delete"}


class _Scripted:
    """A KV store whose indexes say what a test wants."""

    def __init__(self, entries: list[Entry], index: int, store_index: int, seconds: float = 0.0) -> None:
        self.entries, self.at, self.newest = entries, index, store_index
        self.looks: list[tuple[float, float]] = []
        self._seconds = seconds

    async def index(self, prefix: str, *, after: int = 0, wait: float = 0.0) -> int:
        await asyncio.sleep(0.001)
        return self.at

    async def store_index(self) -> int:
        return self.newest

    def recent(self, revision: int) -> bool:
        return True

    async def look(self, prefix: str) -> Look:
        began = boottime()
        await asyncio.sleep(self._seconds)
        self.looks.append((began, boottime()))
        return Look(tuple(self.entries), self.at)


def _watch(kv: _Scripted, versions: Versions | None, position: int = 10) -> Watch:
    return Watch(
        cast(Kv, kv), "/", "consul://test", position=position, versions=versions, remember=lambda *_: None
    )


def _entry(key: str, created: int, changed: int) -> Entry:
    return Entry(key, b"", created, changed)


async def test_an_index_that_fell_because_deletions_were_forgotten_is_looked_at() -> None:
    kv = _Scripted([_entry("/a", 1, 5)], 5, store_index=20)
    watch = _watch(kv, {"/a": (1, 5), "/b": (2, 6)})
    await watch.open()
    batch = await anext(watch)
    assert [(change.type, change.key) for change in batch.changes] == [("delete", "/b")]
    assert batch.revision >= 10
    await watch.end()


async def test_a_store_that_went_back_is_not_believed() -> None:
    kv = _Scripted([], 10, store_index=10)
    watch = _watch(kv, {"/a": (1, 5)})
    await watch.open()
    kv.at = kv.newest = 3
    with pytest.raises(RevisionCompactedError) as caught:
        await anext(watch)
    assert caught.value.compacted == 3
    assert kv.looks == []
    await watch.end()


async def test_an_entry_that_went_back_is_not_believed() -> None:
    kv = _Scripted([_entry("/a", 1, 4)], 12, store_index=12)
    watch = _watch(kv, {"/a": (1, 5)})
    await watch.open()
    with pytest.raises(RevisionCompactedError, match="restored"):
        await anext(watch)
    await watch.end()


async def test_looks_take_at_most_a_quarter_of_the_time() -> None:
    kv = _Scripted([], 11, store_index=100, seconds=0.05)
    watch = _watch(kv, {})
    await watch.open()

    async def churn() -> None:
        while True:
            kv.at += 1
            kv.entries = [_entry("/a", 1, kv.at)]
            await asyncio.sleep(0.001)

    churning = asyncio.create_task(churn())
    for _ in range(5):
        await anext(watch)
    churning.cancel()
    await watch.end()
    for (began, ended), (following, _) in zip(kv.looks, kv.looks[1:], strict=False):
        assert following - ended >= 2.9 * (ended - began)


async def test_a_client_that_is_closed_under_a_watch_leaves_no_connection(
    consul_server: str, root: str
) -> None:
    client = ConsulStore(store_url(consul_server))
    start = (await client.info()).revision
    async with client.watch(root, from_revision=start + 1) as batches:
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.1)
        wire = client.wire
        await client.close()
        with pytest.raises(StoreUnavailableError, match="closed"):
            await waiting
        with pytest.raises(StoreUnavailableError, match="closed"):
            await wire.ask("GET", "/v1/status/leader")
