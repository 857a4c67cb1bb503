"""One connection for all stores of a URL in a loop, and what closing one of them, other loops and forks do to it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from tests.store.etcd.test_leases import Start

from roster.errors import StoreUnavailableError
from roster.store import Store, open_store, store_url
from roster.store.etcd import EtcdStore, client
from servers import Etcd

FORK = """
import asyncio, os, sys
from roster.errors import StoreUnavailableError
from roster.store import open_store

async def use(store):
    try:
        await store.get("/a")
        return "the parent goes on"
    except StoreUnavailableError as error:
        return str(error)

with asyncio.Runner() as runner:
    store = open_store(sys.argv[1])
    runner.run(use(store))
    child = os.fork()
    if child == 0:
        async def both():
            print(await use(store), await use(open_store(sys.argv[1])), sep="\\n", flush=True)
        asyncio.run(both())
        os._exit(0)
    os.waitpid(child, 0)
    print(runner.run(use(store)))
    runner.run(store.close())
"""


def _client(store: Store) -> client.Client:
    assert isinstance(store, EtcdStore)
    return store.client


async def test_stores_of_one_url_share_a_client_whatever_their_prefix(etcd_server: str) -> None:
    async with open_store(etcd_server) as first, open_store(etcd_server) as second:
        assert _client(first) is _client(second)
        async with EtcdStore(store_url(etcd_server + "/?prefix=/other")) as third:
            assert third.client is _client(first)
        async with open_store(etcd_server + "/?timeout=7") as other:
            assert _client(other) is not _client(first)
        await second.close()
        assert (await first.info()).engine == "etcd"
    async with open_store(etcd_server) as anew:
        assert not _client(anew).closed


async def test_closing_one_store_ends_its_own_watches_alone(etcd_server: str) -> None:
    async with open_store(etcd_server) as kept:
        closing = open_store(etcd_server)
        revision = (await kept.info()).revision
        async with (
            kept.watch("/sharing/", from_revision=revision + 1) as here,
            closing.watch("/sharing/", from_revision=revision + 1) as there,
        ):
            waiting = asyncio.ensure_future(anext(there))
            await closing.close()
            with pytest.raises(StoreUnavailableError, match="closed"):
                await waiting
            written = await kept.put("/sharing/a", b"")
            async with asyncio.timeout(10):
                while (batch := await anext(here)).revision < written:
                    pass
            assert [change.revision for change in batch.changes] == [written]
        for attempt in (closing.get("/a"), closing.info(), closing.grant(30)):
            with pytest.raises(StoreUnavailableError, match="closed"):
                await attempt
        await closing.close()


async def test_a_request_under_way_when_its_store_is_closed_is_not_cancelled(start_etcd: Start) -> None:
    server: Etcd = await asyncio.to_thread(start_etcd, fsync=False)
    store = open_store(server.url + "/?timeout=60")  # what ends them is not that
    lease = await store.grant(120)
    await lease.keep_alive()
    server.freeze()
    waiting = [asyncio.ensure_future(each) for each in (store.get("/a"), store.put("/a", b""))]
    waiting.append(asyncio.ensure_future(lease.keep_alive()))
    await asyncio.sleep(0)
    await store.close()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 3


async def test_a_store_belongs_to_its_loop(etcd_server: str) -> None:
    errors: list[BaseException] = []
    async with open_store(etcd_server) as store:
        await store.get("/a")

        def elsewhere() -> None:
            try:
                asyncio.run(store.get("/a"))
            except StoreUnavailableError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
    assert "another event loop" in str(errors[0])


async def test_a_loop_that_ended_without_closing_leaves_nothing_to_others(etcd_server: str) -> None:
    def forgetful() -> None:
        async def main() -> None:
            await open_store(etcd_server).get("/a")

        asyncio.run(main())

    await asyncio.to_thread(forgetful)
    async with open_store(etcd_server) as store:
        await store.get("/a")
        assert list(client._clients) == [asyncio.get_running_loop()]


def test_a_forked_process_is_told_at_once_to_start_otherwise(etcd_server: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, etcd_server],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    parents, own, after = done.stdout.splitlines()
    assert "belongs to the process that opened it" in parents
    assert "forked from one that used etcd" in own
    assert after == "the parent goes on"
