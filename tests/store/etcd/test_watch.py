"""Watches of etcd when the server dies, freezes, compacts, or sends more than fits into one message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.store.etcd.conftest import Follower, eventually, read_to_the_end, until

from roster._clock import boottime
from roster.errors import RevisionCompactedError, StoreUnavailableError
from roster.store import MAX_VALUE_BYTES, Batch, Change, Put, Store, open_store
from roster.store.etcd.watch import tells_progress
from servers import Etcd

Start = Callable[..., Etcd]


async def test_three_kills_under_continuous_writes_lose_nothing(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    acked: dict[int, bytes] = {}
    tried: set[bytes] = set()
    stopping = asyncio.Event()

    async def write(store: Store) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            value = b"%d" % number
            tried.add(value)
            try:
                acked[await store.put(f"/k/{number % 10}", value)] = value
            except StoreUnavailableError:
                await asyncio.sleep(0.02)

    async with open_store(server.url) as writing, open_store(server.url) as reading:
        follower = Follower(reading, "/k/", (await reading.info()).revision)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follower.run())
            writer = group.create_task(write(writing))
            for turn in range(3):
                await until(lambda goal=300 * (turn + 1): len(acked) >= goal)  # type: ignore[misc]  # mypy and defaults
                await asyncio.to_thread(server.kill)
                down = boottime()
                await asyncio.to_thread(server.start)
                back = boottime()
                await until(lambda: follower.opened > down)  # noqa: B023 - looked at in this turn alone
                assert follower.opened - back < 3
            goal = len(acked) + 300
            await until(lambda: len(acked) >= goal)
            stopping.set()
            await writer
            await until(lambda: follower.position >= max(acked))
            following.cancel()
    follower.check()
    got = {change.revision: change.value for change in follower.changes}
    assert {revision: got.get(revision) for revision in acked} == acked
    assert set(got.values()) <= tried
    assert len(follower.breaks) >= 3
    assert len(acked) >= 1200


async def test_a_frozen_server_is_noticed_by_a_watch_and_by_requests(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(f"{server.url}/?timeout=2") as store:
        revision = await store.put("/a", b"")
        async with store.watch("/", from_revision=revision + 1) as batches:
            server.freeze()
            began = boottime()
            with pytest.raises(StoreUnavailableError, match="out of reach"):
                await store.get("/a")
            assert boottime() - began < 6
            with pytest.raises(StoreUnavailableError, match="no answer"):
                await store.put("/a", b"unheard")
            with pytest.raises(StoreUnavailableError, match="the watch broke"):
                await read_to_the_end(batches)
            assert boottime() - began < 30
        server.thaw()
        await eventually(lambda: store.get("/a"))


async def test_a_server_that_dies_ends_the_watch_at_once(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        revision = await store.put("/a", b"")
        async with store.watch("/", from_revision=revision + 1) as batches:
            await asyncio.to_thread(server.kill)
            with pytest.raises(StoreUnavailableError):
                async with asyncio.timeout(8):  # a ping that is not answered takes longer
                    await anext(batches)
            with pytest.raises(StoreUnavailableError):
                await anext(batches)
        # The first to try may write into the connection that is broken.
        with pytest.raises(StoreUnavailableError, match=r"connection refused|Broken pipe"):
            async with store.watch("/", from_revision=revision + 1):
                pass


async def test_what_is_compacted_must_be_listed_again(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        first = await store.put("/a", b"1")
        for _ in range(5):
            last = await store.put("/a", b"2")
        page = await store.list("/", limit=1)
        async with store.watch("/", from_revision=last + 1) as open_before:
            await asyncio.to_thread(server.ctl, "compact", str(last))
            with pytest.raises(RevisionCompactedError) as caught:
                async with store.watch("/", from_revision=first + 1) as batches, asyncio.timeout(10):
                    await anext(batches)
            assert caught.value.compacted == last
            new = await store.put("/a", b"3")
            assert (await _next_changes(open_before))[0].revision == new
        with pytest.raises(RevisionCompactedError) as caught:
            await store.list("/", revision=first)
        assert caught.value.compacted == first
        assert (await store.list("/", revision=page.revision)).revision == page.revision


async def _next_changes(batches: AsyncIterator[Batch]) -> tuple[Change, ...]:
    async with asyncio.timeout(10):
        while not (changes := (await anext(batches)).changes):
            pass
    return changes


async def test_a_backlog_larger_than_a_message_comes_whole(start_etcd: Start) -> None:
    """etcd cuts an answer at 1.5 MiB wherever that falls: also between two changes of one revision."""
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        start = (await store.info()).revision
        for turn in range(40):
            await store.transact(
                (), [Put(f"/big/{number}", b"%d" % turn + bytes(70_000)) for number in range(20)]
            )
        largest = await store.put("/big/0", bytes(MAX_VALUE_BYTES))
        seen: list[Batch] = []
        async with store.watch("/big/", from_revision=start + 1) as batches, asyncio.timeout(30):
            while not seen or seen[-1].revision < largest:
                seen.append(await anext(batches))
        sizes = [sum(len(change.value or b"") for change in batch.changes) for batch in seen]
        assert len(seen) > 5
        assert max(sizes) < 8 * 1024 * 1024
        for batch in seen:
            revisions = [change.revision for change in batch.changes]
            assert revisions == sorted(revisions)
            assert all(revisions.count(revision) == 20 for revision in set(revisions) if revision != largest)
        assert sum(len(batch.changes) for batch in seen) == 40 * 20 + 1


async def test_a_slow_reader_misses_nothing_and_is_not_cut_off(etcd_server: str) -> None:
    async with open_store(etcd_server) as store:
        start = (await store.info()).revision
        async with store.watch("/slow/", from_revision=start + 1) as batches:
            for number in range(300):
                await store.put(f"/slow/{number}", bytes(20_000))
            seen = 0
            async with asyncio.timeout(20):
                while seen < 300:
                    seen += len((await anext(batches)).changes)


async def test_a_key_that_is_no_text_hides_no_other(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        start = (await store.info()).revision
        await store.put("/odd/a", b"1")
        await asyncio.to_thread(server.ctl, "put", b"/odd/\xff\xfe".decode(errors="surrogateescape"), "x")
        last = await store.put("/odd/\U0010ffff", b"2")
        for limit in (0, 1):
            names, page = [], await store.list("/odd/", limit=limit)
            names += [entry.key for entry in page.entries]
            while page.next is not None:
                page = await store.list("/odd/", limit=limit, after=page.next, revision=page.revision)
                names += [entry.key for entry in page.entries]
            assert names == ["/odd/a", "/odd/\U0010ffff"]
        async with store.watch("/odd/", from_revision=start + 1) as batches, asyncio.timeout(10):
            got: list[Change] = []
            while not got or got[-1].revision < last:
                got += (await anext(batches)).changes
        assert [change.key for change in got] == ["/odd/a", "/odd/\U0010ffff"]


@pytest.mark.parametrize(
    ("version", "trusted"),
    [
        ("4.0.0", True),
        ("3.3.99", False),
        ("", False),
        ("newest", False),
        ("3.5", False),
        ("3.4.24", False),
        ("3.4.25", True),
        ("3.5.7", False),
        ("3.5.8", True),
        ("3.5.16", True),
        ("3.6.0", True),
    ],
)
def test_only_servers_that_answer_in_order_move_a_bookmark(version: str, trusted: bool) -> None:
    assert tells_progress(version) is trusted


async def test_a_listing_larger_than_a_message_comes_in_bounded_answers(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        for number in range(200):
            await store.put(f"/big/{number:03}", b"%d" % number + bytes(100_000))
        before = await asyncio.to_thread(_ranges, server)
        for limit in (0, 7, 150, 200, 1000):
            page = await store.list("/big/", limit=limit)
            entries = list(page.entries)
            while page.next is not None:
                page = await store.list("/big/", limit=limit, after=page.next, revision=page.revision)
                entries += page.entries
            assert [int(entry.value.split(b"\0")[0]) for entry in entries] == list(range(200))
            if limit == 0:
                # Whoever has seen how large the values are asks for as many as make two megabytes.
                assert await asyncio.to_thread(_ranges, server) == before + 1 + 5


def _ranges(server: Etcd) -> float:
    labels = 'grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"'
    return server.metric(f"grpc_server_started_total{{{labels}}}")
