"""Leases of etcd: many on one stream, lost ones known as lost, silence told from loss."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

import pytest
from tests.store.etcd.conftest import eventually

from roster._clock import boottime
from roster.errors import LeaseLostError, LimitError, StoreUnavailableError
from roster.store import MAX_TTL, open_store
from roster.store.etcd.leases import lease_name, lease_number
from servers import Etcd

Start = Callable[..., Etcd]

HOLDER = """
import asyncio, sys
from roster.errors import LeaseLostError
from roster.store import open_store

async def main():
    async with open_store(sys.argv[1]) as store:
        lease = await store.grant(2)
        await store.put("/held", b"", lease=lease.id)
        print("held", flush=True)
        while True:
            await asyncio.sleep(0.3)
            lost = lease.lost
            try:
                await lease.keep_alive()
            except LeaseLostError:
                print("lost", lost, flush=True)
                return

asyncio.run(main())
"""


async def test_a_thousand_leases_are_kept_alive_at_once_over_one_stream(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    before = await asyncio.to_thread(_keep_alive_streams, server)
    async with open_store(server.url) as first, open_store(server.url) as second:
        stores = (first, second)
        leases = await asyncio.gather(*(stores[number % 2].grant(30) for number in range(1000)))
        began = boottime()
        await asyncio.gather(*(lease.keep_alive() for lease in leases))
        assert boottime() - began < 5
        await asyncio.gather(*(lease.keep_alive() for lease in leases for _ in range(2)))
        assert all(began + 30 <= lease.deadline <= boottime() + 30 for lease in leases)
        assert await asyncio.to_thread(_keep_alive_streams, server) == before + 1


def _keep_alive_streams(server: Etcd) -> float:
    labels = 'grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"'
    return server.metric(f"grpc_server_started_total{{{labels}}}")


async def test_a_holder_that_stood_still_learns_that_its_lease_is_lost(etcd_server: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", HOLDER, etcd_server, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30), open_store(etcd_server) as store:
            assert await process.stdout.readline() == b"held\n"
            process.send_signal(signal.SIGSTOP)
            while await store.get("/held") is not None:
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGCONT)
            assert await process.stdout.readline() == b"lost True\n"
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_silent_server_is_not_a_lost_lease(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        lease = await store.grant(18)
        await store.put("/a", b"", lease=lease.id)
        await lease.keep_alive()
        server.freeze()
        for said in ("could not be kept alive", "out of reach"):  # then there is no stream to ask on
            began = boottime()
            with pytest.raises(StoreUnavailableError, match=said):
                await lease.keep_alive()
            assert boottime() - began < 8, "a third of the TTL, which leaves time to try again"
        server.thaw()
        await eventually(lease.keep_alive, within=8)
        assert not lease.lost


async def test_what_a_thawed_server_revoked_is_lost(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(f"{server.url}/?timeout=1") as store:
        lease = await store.grant(2)
        await store.put("/a", b"", lease=lease.id)
        server.freeze()
        while not lease.lost:
            with pytest.raises(StoreUnavailableError):
                await lease.keep_alive()
        server.thaw()

        async def gone() -> None:
            if await store.get("/a") is not None:
                raise StoreUnavailableError("not yet")

        await eventually(gone)
        with pytest.raises(LeaseLostError):
            await eventually(lease.keep_alive)
        assert lease.lost
        with pytest.raises(LeaseLostError):
            await store.put("/a", b"", lease=lease.id)
        assert await store.get("/a") is None


async def test_leases_outlive_a_server_that_is_killed(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        leases = [await store.grant(30) for _ in range(20)]
        for number, lease in enumerate(leases):
            await store.put(f"/{number}", b"", lease=lease.id)
        await asyncio.gather(*(lease.keep_alive() for lease in leases))
        await asyncio.to_thread(server.kill)
        results = await asyncio.gather(*(lease.keep_alive() for lease in leases), return_exceptions=True)
        assert all(isinstance(result, StoreUnavailableError) for result in results)
        assert not any(lease.lost for lease in leases)
        await asyncio.to_thread(server.start)
        back = boottime()
        await asyncio.gather(*(eventually(lease.keep_alive) for lease in leases))
        assert boottime() - back < 3
        assert len((await store.list("/")).entries) == 20


async def test_a_stream_that_broke_unseen_costs_a_keep_alive_nothing(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        lease = await store.grant(30)
        await lease.keep_alive()
        await asyncio.to_thread(server.restart)
        await eventually(store.info)
        await lease.keep_alive()


async def test_the_server_may_grant_more_than_was_asked_for(start_etcd: Start) -> None:
    """etcd never grants less than one and a half election timeouts."""
    extra = ["--heartbeat-interval=400", "--election-timeout=4000"]
    server = await asyncio.to_thread(start_etcd, fsync=False, extra=extra)
    async with open_store(server.url) as store:
        sent = boottime()
        lease = await store.grant(1)
        assert lease.ttl >= 5
        assert sent + lease.ttl <= lease.deadline <= boottime() + lease.ttl
        sent = boottime()
        await lease.keep_alive()
        assert sent + lease.ttl <= lease.deadline <= boottime() + lease.ttl
        assert (await store.grant(6.2)).ttl == 7
        assert (await store.grant(MAX_TTL)).ttl == MAX_TTL
        with pytest.raises(LimitError):
            await store.grant(MAX_TTL + 1)


@pytest.mark.parametrize("number", [1, 255, 7587870012345678, (1 << 63) - 1])
def test_a_lease_is_named_as_etcdctl_prints_it(number: int) -> None:
    name = lease_name(number)
    assert name == f"{number:x}"
    assert lease_number(name) == number


@pytest.mark.parametrize(
    "name", ["", "0", "-1", "1-1", " 1", "1\n", "0x1", "FF", "8" + "0" * 15, "1" * 17, "١"]
)
def test_what_cannot_be_a_lease_is_a_lost_one(name: str) -> None:
    with pytest.raises(LeaseLostError):
        lease_number(name)


def test_no_lease_has_no_name() -> None:
    assert lease_name(0) is None
    assert lease_number(None) == 0
