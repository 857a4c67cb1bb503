"""Watches on real servers: what they tell, in which order, and when they end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.store.zookeeper.conftest import answers, client, eventually, until

from roster._clock import boottime
from roster.errors import LeaseLostError, RevisionCompactedError, StoreUnavailableError
from roster.store import Batch, Change, Delete, Put
from roster.store.zookeeper import ZookeeperStore
from servers import ZooKeeper

Start = Callable[..., ZooKeeper]


class Copy:
    """What a reader of a watch knows: every promise is asserted as the batches come."""

    def __init__(self) -> None:
        self.keys: dict[str, Change] = {}
        self.revision = 0
        self.changes: list[Change] = []
        self.batches: list[Batch] = []

    def take(self, batch: Batch) -> None:
        assert batch.revision >= self.revision
        self.revision = batch.revision
        self.batches.append(batch)
        if batch.snapshot:
            self.keys = {change.key: change for change in batch.changes}
            return
        assert [change.revision for change in batch.changes] == sorted(
            change.revision for change in batch.changes
        )
        for change in batch.changes:
            assert change.revision <= batch.revision
            known = self.keys.get(change.key)
            if change.type == "delete":
                assert known is not None, "a delete of what was not there"
                del self.keys[change.key]
            else:
                assert known is None or known.revision < change.revision, "told twice, or out of order"
                self.keys[change.key] = change
            self.changes.append(change)

    async def read(self, batches: AsyncIterator[Batch]) -> None:
        async for batch in batches:
            self.take(batch)

    def shows(self) -> dict[str, tuple[bytes | None, int]]:
        return {key: (change.value, change.revision) for key, change in self.keys.items()}


def shows(copy: Copy, keys: dict[str, tuple[bytes | None, int]]) -> bool:
    return copy.shows() == keys


async def truth(store: ZookeeperStore, root: str) -> dict[str, tuple[bytes | None, int]]:
    return {entry.key: (entry.value, entry.mod_revision) for entry in (await store.list(root)).entries}


async def test_what_is_written_while_a_watch_begins_is_in_it(
    store: ZookeeperStore, other: ZookeeperStore, root: str
) -> None:
    """First the watch, then the look: nothing falls in between."""
    for turn in range(10):
        prefix = f"{root}{turn}/"

        async def write(prefix: str = prefix) -> None:
            for number in range(20):
                await other.put(f"{prefix}{number % 5}", b"%d" % number)

        start = (await store.info()).revision
        writing = asyncio.create_task(write())
        copy = Copy()
        async with store.watch(prefix, from_revision=start + 1) as batches:
            reading = asyncio.create_task(copy.read(batches))
            await writing
            now = await truth(store, prefix)
            await until(shows, copy, now)
            reading.cancel()


async def test_a_transaction_is_told_whole(store: ZookeeperStore, other: ZookeeperStore, root: str) -> None:
    copy = Copy()
    start = (await store.info()).revision
    async with store.watch(root, from_revision=start + 1) as batches:
        reading = asyncio.create_task(copy.read(batches))
        for turn in range(30):
            await other.transact((), [Put(f"{root}d{n}/{n}", b"%d" % turn) for n in range(20)])
        revision = await other.transact((), [Delete(f"{root}d{n}/{n}") for n in range(20)])
        await until(shows, copy, {})
        reading.cancel()
    for batch in copy.batches:
        counts = [sum(each.revision == change.revision for each in batch.changes) for change in batch.changes]
        # A later transaction may have come in between, and then its own 20 are told.
        assert set(counts) <= {20}
    assert copy.changes[-1].revision >= revision


async def test_under_writers_leases_and_deletes_the_copy_ends_up_true(
    store: ZookeeperStore, other: ZookeeperStore, root: str
) -> None:
    dice = random.Random(5)
    start = (await store.info()).revision
    copy = Copy()

    async def write(client: ZookeeperStore) -> None:
        lease = await client.grant(5)
        for _ in range(150):
            key = f"{root}{dice.randrange(3)}/{dice.randrange(8)}"
            match dice.randrange(5):
                case 0:
                    await client.delete(key)
                case 1:
                    await client.put(key, b"leased", lease=lease.id)
                case 2:
                    await lease.revoke()
                    lease = await client.grant(5)
                case _:
                    await client.put(key, b"%d" % dice.randrange(1000))

    async with store.watch(root, from_revision=start + 1) as batches:
        reading = asyncio.create_task(copy.read(batches))
        await asyncio.gather(write(store), write(other), write(other))
        now = await truth(store, root)
        await until(shows, copy, now)
        reading.cancel()
    assert len(copy.changes) > 50


async def test_a_resumed_watch_tells_the_difference_to_what_was_listed(
    store: ZookeeperStore, other: ZookeeperStore, root: str
) -> None:
    await store.transact((), [Put(f"{root}{n}", b"1") for n in range(10)])
    page = await store.list(root)
    changed = await other.put(root + "3", b"2")
    gone = await other.transact((), [Delete(root + "4")])
    async with store.watch(root, from_revision=page.revision + 1) as batches:
        batch = await anext(batches)
    assert not batch.snapshot
    assert batch.changes[0] == Change("put", root + "3", changed, b"2", page.entries[3].create_revision)
    assert (batch.changes[1].type, batch.changes[1].key) == ("delete", root + "4")
    assert batch.changes[1].revision >= gone
    async with store.watch(root, from_revision=page.revision) as batches:
        batch = await anext(batches)
    assert batch.snapshot, "that is not the revision which was listed"


async def test_a_watch_from_where_nothing_changed_tells_nothing(store: ZookeeperStore, root: str) -> None:
    await store.put(root + "a", b"1")
    revision = (await store.info()).revision
    await store.put("/elsewhere" + root + "a", b"1")
    async with store.watch(root, from_revision=revision + 1) as batches:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(batches), 0.3)
        await store.delete(root + "a")
        batch = await anext(batches)
        assert [(change.type, change.key) for change in batch.changes] == [("delete", root + "a")]
    async with store.watch(root, from_revision=revision + 1) as batches:
        # The key is gone, and its directory knows that something went.
        batch = await anext(batches)
        assert (batch.snapshot, batch.changes) == (True, ())


async def test_keys_come_and_go_with_the_data_of_their_znodes(
    store: ZookeeperStore, znodes: Any, root: str
) -> None:
    await store.put(root + "a/b", b"1")
    start = (await store.info()).revision
    async with store.watch(root, from_revision=start + 1) as batches:
        await store.put(root + "a", b"1")
        (put,) = (await anext(batches)).changes
        assert (put.type, put.key, put.value) == ("put", root + "a", b"1")
        await asyncio.to_thread(znodes.set, root + "a", b"")
        (gone,) = (await anext(batches)).changes
        assert (gone.type, gone.key) == ("delete", root + "a")
        await asyncio.to_thread(znodes.delete, root + "a", -1, True)
        (gone,) = (await anext(batches)).changes
        assert (gone.type, gone.key) == ("delete", root + "a/b")


async def test_pages_of_a_listing_are_kept_and_others_are_refused(store: ZookeeperStore, root: str) -> None:
    await store.transact((), [Put(f"{root}{n:02}", b"1") for n in range(30)])
    page = await store.list(root, limit=10)
    for _ in range(3):
        again = await store.list(root, limit=10, after=page.next, revision=page.revision)
        assert [entry.key for entry in again.entries] == [f"{root}{n:02}" for n in range(10, 20)]
    with pytest.raises(RevisionCompactedError):
        await store.list(root + "0", limit=10, revision=page.revision)
    for n in range(8):
        await store.list(f"{root}{n}")
    with pytest.raises(RevisionCompactedError):
        await store.list(root, limit=10, after=page.next, revision=page.revision)


async def test_many_znodes_are_listed(store: ZookeeperStore, root: str) -> None:
    names = {f"{root}{n % 7}/{n:04}" for n in range(1000)}
    for first in range(0, 1000, 50):
        await store.transact((), [Put(name, name.encode()) for name in sorted(names)[first : first + 50]])
    page = await store.list(root)
    assert {entry.key: entry.value for entry in page.entries} == {name: name.encode() for name in names}
    assert [entry.key for entry in page.entries] == sorted(names)


# --- servers that die, freeze and forget


async def test_the_server_forgets_a_watch_that_was_left(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper, fsync=False)
    async with client(server.url) as store:
        await store.put("/ai-team/a/b", b"1")
        async with (
            store.watch("/ai-team/a/", from_revision=1),
            store.watch("/ai-team/a/b", from_revision=1),
            store.watch("/ai-team/", from_revision=1),
        ):
            assert "Total watches:2" in await asyncio.to_thread(server.ask, "wchs")

        async def none() -> bool:
            return "Total watches:0" in await asyncio.to_thread(server.ask, "wchs")

        await eventually(none)


async def test_a_watch_ends_at_once_with_its_connection(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper)
    async with client(server.url) as store, store.watch("/ai-team/", from_revision=1) as batches:
        await anext(batches)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        await asyncio.to_thread(server.kill)
        before = boottime()
        with pytest.raises(StoreUnavailableError):
            await waiting
        assert boottime() - before < 1
        await asyncio.to_thread(server.start)
        with pytest.raises(StoreUnavailableError):
            await anext(batches)


async def test_a_watch_of_a_frozen_server_ends_within_fifteen_seconds(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper)
    async with (
        client(server.url + "?timeout=2") as store,
        store.watch("/ai-team/", from_revision=1) as batches,
    ):
        await anext(batches)
        server.freeze()
        try:
            before = boottime()
            with pytest.raises(StoreUnavailableError):
                await anext(batches)
            assert boottime() - before < 12  # with the usual deadline of 5 s: 15
        finally:
            server.thaw()


async def test_through_three_deaths_of_the_server_no_lasting_change_is_missed(start_zookeeper: Start) -> None:
    """Listing and watching again, as the informer does."""
    server = await asyncio.to_thread(start_zookeeper, fsync=False)
    root = "/ai-team/nodes/"
    copy = Copy()
    written = 0
    done = asyncio.Event()

    async def write(store: ZookeeperStore, number: int) -> None:
        nonlocal written
        while not done.is_set():
            try:
                if random.random() < 0.2:
                    await store.delete(f"{root}{number}/{random.randrange(5)}")
                else:
                    await store.put(f"{root}{number}/{random.randrange(5)}", b"%d" % written)
                written += 1
            except (StoreUnavailableError, LeaseLostError):
                await asyncio.sleep(0.05)

    async def follow(store: ZookeeperStore) -> None:
        while True:
            try:
                page = await store.list(root)
                shown = [
                    Change("put", e.key, e.mod_revision, e.value, e.create_revision, e.lease)
                    for e in page.entries
                ]
                copy.take(Batch(tuple(shown), max(page.revision, copy.revision), snapshot=True))
                async with store.watch(root, from_revision=page.revision + 1) as batches:
                    await copy.read(batches)
            except StoreUnavailableError:
                await asyncio.sleep(0.05)

    async with client(server.url + "?timeout=2") as writer, client(server.url + "?timeout=3") as reader:
        tasks = [asyncio.create_task(write(writer, number)) for number in range(4)]
        following = asyncio.create_task(follow(reader))
        returned = []
        for _ in range(3):
            seen = written
            await until(lambda seen: written > seen + 60, seen)
            await asyncio.to_thread(server.restart)
            back = boottime()
            batches = len(copy.batches)
            await until(lambda batches: len(copy.batches) > batches, batches)
            returned.append(boottime() - back)
        done.set()
        await asyncio.gather(*tasks)
        now = await truth(writer, root)
        await until(shows, copy, now)
        following.cancel()
    assert max(returned) < 3


async def test_a_wiped_server_is_another_store(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper)
    async with client(server.url + "?timeout=2") as store:
        for _ in range(30):
            revision = await store.put("/ai-team/a", b"1")
        before = await store.info()
        await asyncio.to_thread(server.wipe)

        await eventually(lambda: answers(store))
        after = await store.info()
        assert after.revision < revision
        assert after.cluster_id != before.cluster_id
        with pytest.raises(RevisionCompactedError) as caught:
            async with store.watch("/ai-team/", from_revision=revision + 1):
                pass
        assert caught.value.compacted < revision


async def test_a_watch_that_was_left_is_at_its_end(store: ZookeeperStore, root: str) -> None:
    async with store.watch(root, from_revision=1) as batches:
        await anext(batches)
    with pytest.raises(StopAsyncIteration):
        await anext(batches)
