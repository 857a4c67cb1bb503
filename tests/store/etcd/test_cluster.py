"""A cluster of three: whoever dies, freezes or is cut off is left for another member."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.store.etcd.conftest import Follower, eventually, read_to_the_end, until

from roster._clock import boottime
from roster.errors import StoreUnavailableError
from roster.store import Store, open_store
from servers import Etcd, EtcdCluster

Start = Callable[..., EtcdCluster]


async def test_a_leader_that_is_killed_costs_a_moment_and_no_event(start_etcd_cluster: Start) -> None:
    cluster = await asyncio.to_thread(start_etcd_cluster, fsync=False)
    acked: dict[int, bytes] = {}
    slowest = 0.0

    async def write(store: Store) -> None:
        nonlocal slowest
        number, last = 0, boottime()
        while True:
            number += 1
            try:
                revision = await store.put("/k/a", b"%d" % number)
            except StoreUnavailableError:
                continue
            acked[revision] = b"%d" % number
            slowest, last = max(slowest, boottime() - last), boottime()

    async with open_store(cluster.url) as writing, open_store(cluster.url) as reading:
        lease = await reading.grant(20)
        follower = Follower(reading, "/k/", (await reading.info()).revision)
        tasks = [asyncio.create_task(follower.run()), asyncio.create_task(write(writing))]
        for turn in range(2):
            await until(lambda goal=200 * (turn + 1): len(acked) >= goal)  # type: ignore[misc]  # mypy and defaults
            leader = await asyncio.to_thread(cluster.leader)
            await asyncio.to_thread(leader.kill)
            goal = len(acked) + 100
            await until(lambda goal=goal: len(acked) >= goal)  # type: ignore[misc]  # mypy and defaults
            await eventually(lease.keep_alive)
            await asyncio.to_thread(leader.restart)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        await until(lambda: follower.position >= max(acked))
        tasks[0].cancel()
    follower.check()
    got = {change.revision: change.value for change in follower.changes}
    assert {revision: got.get(revision) for revision in acked} == acked
    assert slowest < 10
    assert not lease.lost


async def test_a_member_that_froze_is_left_for_another(start_etcd_cluster: Start) -> None:
    cluster = await asyncio.to_thread(start_etcd_cluster, fsync=False)
    leader = await asyncio.to_thread(cluster.leader)
    frozen = next(member for member in cluster.members if member is not leader)
    others = [member.address for member in cluster.members if member is not frozen]
    for _ in range(4):  # which member is asked first is chance
        async with open_store(f"etcd://{frozen.address},{','.join(others)}/?timeout=6") as store:
            frozen.freeze()
            try:
                began = boottime()
                await store.put("/a", b"1")
                assert boottime() - began < 6
                began = boottime()
                for _ in range(50):
                    await store.get("/a")
                assert boottime() - began < 3  # half the time-out: to ask the frozen one once takes that
            finally:
                frozen.thaw()


async def test_a_watch_on_a_member_that_froze_goes_on_elsewhere(start_etcd_cluster: Start) -> None:
    cluster = await asyncio.to_thread(start_etcd_cluster, fsync=False)
    async with open_store(cluster.url + "/?timeout=2") as reading:
        follower = Follower(reading, "/", (await reading.info()).revision)
        following = asyncio.create_task(follower.run())
        await until(lambda: follower.opened > 0)
        served = await asyncio.to_thread(_watched_member, cluster)
        served.freeze()
        others = ",".join(member.address for member in cluster.members if member is not served)
        async with open_store(f"etcd://{others}") as writing:
            written: list[int] = []

            async def write() -> None:
                written.append(await writing.put("/a", b"1"))

            await eventually(write)
            await until(lambda: follower.position >= written[0], within=15)
        served.thaw()
        following.cancel()
    assert [change.revision for change in follower.changes] == written
    assert len(follower.breaks) >= 1


def _watched_member(cluster: EtcdCluster) -> Etcd:
    (served,) = [
        member for member in cluster.members if member.metric("etcd_debugging_mvcc_watcher_total") > 0
    ]
    return served


async def test_a_member_that_lost_the_others_ends_its_watch_and_is_not_asked(
    start_etcd_cluster: Start,
) -> None:
    cluster = await asyncio.to_thread(start_etcd_cluster, fsync=False)
    lonely, *others = cluster.members
    async with open_store(lonely.url + "/?timeout=1") as store:
        revision = await store.put("/a", b"1")
        async with store.watch("/", from_revision=revision + 1) as batches:
            for member in others:
                await asyncio.to_thread(member.kill)
            with pytest.raises(StoreUnavailableError, match=r"no leader|no answer"):
                await read_to_the_end(batches)
        began = boottime()
        for attempt in (store.get("/a"), store.put("/a", b"2")):
            with pytest.raises(StoreUnavailableError, match=r"no leader|no answer"):
                await attempt
        assert boottime() - began < 8
        for member in others:
            member.launch()
        await eventually(lambda: store.put("/a", b"3"))
