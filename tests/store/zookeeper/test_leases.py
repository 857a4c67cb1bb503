"""Leases as sessions, on real servers that die, freeze and forget."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable

import pytest
from tests.store.zookeeper.conftest import answers, client, eventually, threads, until

from roster._clock import boottime
from roster.errors import LeaseLostError, StoreUnavailableError
from roster.store import MAX_TTL, Put
from roster.store.zookeeper import ZookeeperStore, link
from servers import ZooKeeper

Start = Callable[..., ZooKeeper]

HOLDER = """
import asyncio, sys
from roster.store import store_url
from roster.store.zookeeper import ZookeeperStore
from roster.errors import LeaseLostError

async def main():
    async with ZookeeperStore(store_url(sys.argv[1])) as store:
        lease = await store.grant(float(sys.argv[3]))
        await store.put(sys.argv[2], b"held", lease=lease.id)
        print(lease.id, flush=True)
        try:
            while True:
                await lease.keep_alive()
                await asyncio.sleep(0.1)
        except LeaseLostError:
            print("lost", flush=True)

asyncio.run(main())
"""


class Holder:
    """A process that holds a key."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, url: str, key: str, ttl: float) -> Holder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, url, key, str(ttl), stdout=asyncio.subprocess.PIPE
        )
        holder = cls(process)
        await holder.line()
        return holder

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().strip()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def test_a_lease_lives_by_its_keep_alives_alone(
    store: ZookeeperStore, other: ZookeeperStore, root: str
) -> None:
    """Its connection is open all the while: no ping of kazoo's keeps it alive."""
    lease = await store.grant(1)
    await store.put(root + "a", b"", lease=lease.id)
    end = boottime() + 2 * lease.ttl
    while boottime() < end:
        await lease.keep_alive()
        await asyncio.sleep(0.1)
    assert await other.get(root + "a") is not None
    last = lease.deadline

    async def gone() -> bool:
        return await other.get(root + "a") is None

    await eventually(gone)
    # One tick of the server later at most, and what a busy machine adds.
    assert last - 0.05 <= boottime() <= last + 2.0
    await until(lambda: lease.ended)
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()
    with pytest.raises(LeaseLostError):
        await store.put(root + "a", b"", lease=lease.id)


async def test_a_lease_longer_than_the_server_allows_lives_as_long_as_it_does(
    store: ZookeeperStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "roster.store.zookeeper"):
        leases = [await store.grant(MAX_TTL), await store.grant(3600)]
    assert {lease.ttl for lease in leases} == {10.0}  # twenty ticks of half a second
    assert [
        record.getMessage() for record in caplog.records if "maxSessionTimeout" in record.getMessage()
    ] == [f"{store.url} grants no lease of 604800 s: this one lives 10 s; its maxSessionTimeout says so"]


async def test_one_thread_a_session_and_none_is_left(zookeeper_server: str) -> None:
    before = threads()
    async with client(zookeeper_server) as store, client(zookeeper_server) as second:
        await second.info()
        assert threads() == before + 1
        leases = [await store.grant(5) for _ in range(5)]
        assert threads() == before + 6
        await leases[0].revoke()
        assert threads() == before + 5
    assert threads() == before


async def test_a_lease_that_lingers_is_bound_to_nobody_and_tidies_up_when_it_is_revoked(
    store: ZookeeperStore, other: ZookeeperStore, root: str
) -> None:
    lease = await store.grant(1, lingering=True)
    for name in ("kept", "rewritten", "by another", "gone"):
        await store.put(root + name, b"1", lease=lease.id)
    await store.put(root + "rewritten", b"2", lease=lease.id)
    await store.put(root + "free", b"1")
    await other.put(root + "by another", b"2")
    await other.delete(root + "gone")
    assert {entry.lease for entry in (await store.list(root)).entries} == {None}
    await lease.keep_alive()
    with pytest.raises(LeaseLostError):
        await other.put(root + "kept", b"", lease=lease.id)
    await lease.revoke()
    await lease.revoke()
    assert lease.lost
    assert [entry.key for entry in (await store.list(root)).entries] == [root + "by another", root + "free"]
    for attempt in (lease.keep_alive(), store.put(root + "a", b"", lease=lease.id)):
        with pytest.raises(LeaseLostError):
            await attempt


async def test_a_lease_that_lingers_tidies_up_many_keys(store: ZookeeperStore, root: str) -> None:
    lease = await store.grant(60, lingering=True)
    for first in range(0, 150, 50):
        await store.transact((), [Put(f"{root}{first + n}", b"", lease.id) for n in range(50)])
    await lease.revoke()
    assert (await store.list(root)).entries == ()


# --- servers and holders that die and freeze


async def test_a_killed_holder_is_replaced_while_its_session_lives_on(
    store: ZookeeperStore, zookeeper_server: str, root: str
) -> None:
    """What a quick restart of the same process needs."""
    holder = await Holder.start(zookeeper_server, root + "a", 8)
    await holder.end()
    old = await store.get(root + "a")
    assert old is not None
    lease = await store.grant(5)
    await store.put(root + "a", b"mine", lease=lease.id, if_revision=old.mod_revision)
    new = await store.get(root + "a")
    assert new is not None
    assert (new.value, new.lease) == (b"mine", lease.id)
    assert new.lease != old.lease


async def test_a_frozen_holder_learns_that_it_has_lost(
    store: ZookeeperStore, zookeeper_server: str, root: str
) -> None:
    holder = await Holder.start(zookeeper_server, root + "a", 1)
    try:
        holder.signal(signal.SIGSTOP)

        async def gone() -> bool:
            return await store.get(root + "a") is None

        await eventually(gone)
        holder.signal(signal.SIGCONT)
        assert await holder.line() == "lost"
        assert await store.get(root + "a") is None
    finally:
        await holder.end()


async def test_leases_and_their_keys_outlive_a_server_that_is_killed(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper)
    async with client(server.url + "?timeout=1") as store:
        lease = await store.grant(3)
        revision = await store.put("/ai-team/a", b"1", lease=lease.id)
        await asyncio.to_thread(server.kill)
        with pytest.raises(StoreUnavailableError, match=r"out of reach .*refused"):
            await lease.keep_alive()
        await asyncio.to_thread(server.start)

        async def kept() -> bool:
            try:
                await lease.keep_alive()
            except StoreUnavailableError:
                return False
            return True

        await eventually(kept)
        await eventually(lambda: answers(store))  # over a connection of its own
        entry = await store.get("/ai-team/a")
        assert entry is not None
        assert (entry.lease, entry.mod_revision) == (lease.id, revision)
        assert not lease.lost
        await lease.revoke()
        assert await store.get("/ai-team/a") is None


async def test_a_frozen_server_is_unavailable_and_lost_is_what_it_says_then(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper)
    async with client(server.url + "?timeout=1") as store:
        lease = await store.grant(2)
        await store.put("/ai-team/a", b"1", lease=lease.id)
        server.freeze()
        try:
            before = boottime()
            for attempt in (lease.keep_alive(), store.get("/ai-team/a"), store.grant(5), lease.revoke()):
                with pytest.raises(StoreUnavailableError, match=f"{server.address} "):
                    await attempt
            assert boottime() - before < 6
            assert lease.lost
        finally:
            server.thaw()

        async def gone() -> bool:
            try:
                return await store.get("/ai-team/a") is None
            except StoreUnavailableError:
                return False

        await eventually(gone)


async def test_a_lease_that_the_server_forgot_is_lost_not_unavailable_for_ever(
    start_zookeeper: Start,
) -> None:
    """A server of less zxids than the client has seen refuses it without a word: a wiped one would for ever."""
    server = await asyncio.to_thread(start_zookeeper)
    async with client(server.url + "?timeout=1") as store:
        await store.put("/ai-team/a", b"1")
        before = await store.info()
        lease = await store.grant(5)
        await asyncio.to_thread(server.wipe)

        async def lost() -> bool:
            try:
                await lease.keep_alive()
            except StoreUnavailableError:
                return False
            except LeaseLostError:
                return True
            return False

        await eventually(lost)
        await eventually(lambda: answers(store))
        assert await store.get("/ai-team/a") is None
        assert (await store.info()).cluster_id != before.cluster_id
        await store.put("/ai-team/a", b"2")


async def test_a_registry_that_is_written_to_is_no_other_than_the_empty_one(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper, fsync=False)
    async with client(server.url) as store, client(server.url) as other:
        empty = await store.info()
        await store.put("/ai-team/a", b"1")
        await other.put("/ai-team/b/c", b"1")
        assert (await store.info()).cluster_id == (await other.info()).cluster_id == empty.cluster_id


async def test_closing_does_not_wait_for_a_server_that_is_gone(
    start_zookeeper: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_GOODBYE", 30.0)
    server = await asyncio.to_thread(start_zookeeper)
    before = threads()
    store = client(server.url + "?timeout=1")
    await store.grant(5)
    session = store._joined().session()
    await until(lambda: session.speaking)
    await asyncio.to_thread(server.kill)
    await until(lambda: not session.speaking)
    began = boottime()
    await store.close()
    assert boottime() - began < 5
    assert threads() == before
