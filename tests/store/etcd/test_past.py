"""An etcd that was wiped or restored keeps its cluster's id: it is known by its past."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.store.etcd.conftest import eventually, until

from roster.errors import RevisionCompactedError
from roster.registry.informer import Informer
from roster.store import Store, open_store
from roster.store.etcd.past import Past
from servers import Etcd

Start = Callable[..., Etcd]


async def cluster(store: Store) -> str:
    await eventually(store.info)
    return (await store.info()).cluster_id


async def write(store: Store, key: str, times: int) -> int:
    revision = 0
    for number in range(times):
        revision = await store.put(f"/ai-team/{key}", b"%d" % number)
    return revision


async def test_a_wiped_etcd_is_another_one_even_when_its_revision_has_passed_the_old_one(
    start_etcd: Start,
) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store, open_store(server.url) as other:
        revision = await write(store, "a", 5)
        await store.list("/ai-team/")
        before = await cluster(store)
        assert await cluster(store) == before
        await asyncio.to_thread(server.wipe)
        await eventually(lambda: write(other, "b", 10))
        assert (await other.info()).revision > revision
        after = await cluster(store)
        assert after != before
        assert await cluster(store) == after
        await store.list("/ai-team/")
        await asyncio.to_thread(server.wipe)
        assert await cluster(store) not in (before, after)


async def test_an_etcd_restored_from_a_backup_is_another_one(start_etcd: Start, tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        revision = await write(store, "a", 3)
        backup = await asyncio.to_thread(server.snapshot, tmp_path / "backup")
        async with store.watch("/ai-team/", from_revision=revision + 1) as batches:
            await write(store, "b", 3)
            while (await anext(batches)).revision < revision + 3:
                pass
        before = await cluster(store)
        await asyncio.to_thread(server.restore, backup)
        await eventually(lambda: write(store, "c", 10))
        assert await cluster(store) != before


async def test_a_killed_and_restarted_or_compacted_etcd_is_the_same_one(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        await write(store, "a", 5)
        await store.list("/ai-team/")
        before = await cluster(store)
        await asyncio.to_thread(server.restart)
        assert await cluster(store) == before
        revision = await write(store, "a", 5)
        await asyncio.to_thread(server.ctl, "compact", str(revision))
        assert await cluster(store) == before


async def test_an_informer_lists_a_wiped_etcd_whose_revision_has_passed_its_own(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    passport = b"apiVersion: ai-team.dev/v1\nkind: NodePassport\nmetadata: {name: %s}\nspec: {}\n"
    async with open_store(server.url) as store, open_store(server.url) as other:
        for name in (b"a", b"b", b"c"):
            await store.put(f"/ai-team/nodes/default/{name.decode()}", passport % name)
        informer = Informer(store)
        await informer.start()
        await informer.wait_synced()
        assert {record.name for record in informer.all()} == {"a", "b", "c"}
        info = store.info
        gate = asyncio.Event()

        async def held() -> object:
            await gate.wait()
            return await info()

        store.info = held  # type: ignore[method-assign, assignment]  # it looks after the store has gone on
        await asyncio.to_thread(server.wipe)
        await eventually(lambda: other.put("/ai-team/nodes/default/d", passport % b"d"))
        await write(other, "else", 10)
        gate.set()
        await until(lambda: informer.get("default/d") is not None)
        await informer.close()


async def test_a_watch_that_is_opened_while_etcd_is_wiped_does_not_wait_in_silence(
    start_etcd: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(server.url) as store:
        revision = await write(store, "a", 5)
        client = store.client  # type: ignore[attr-defined]  # of etcd
        ask = client.try_members

        async def wiped_before(*args: object, **options: object) -> object:
            if "watch" in str(args[1]):
                await asyncio.to_thread(server.wipe)
            return await ask(*args, **options)

        monkeypatch.setattr(client, "try_members", wiped_before)
        with pytest.raises(RevisionCompactedError, match="future"):
            async with asyncio.timeout(20), store.watch("/", from_revision=revision + 1) as batches:
                await anext(batches)


def test_a_fact_is_only_carried_on_by_who_has_seen_all_that_followed() -> None:
    past = Past()
    past.listed([("/a", 3), ("/b", 7)], 9)
    past.listed([("/z", 20)], 21)
    assert past.fact is not None
    assert (past.fact.key, past.fact.mod_revision, past.fact.revision) == (b"/b", 7, 9)
    past.unchanged((b"/", b"0"), 11, 15)  # what happened in revision 10 is not known
    past.unchanged((b"/c", b"/d"), 10, 15)
    past.unchanged((b"/", b"0"), 10, 0)
    assert past.fact.revision == 9
    past.unchanged((b"/", b"0"), 10, 15)
    assert past.fact.revision == 15
    past.unchanged((b"\0", b"\0"), 1, 16)
    assert past.fact.revision == 16
    fact = past.fact
    past.disproved(fact)
    assert past.changes == 1
    past.listed([("/c", 1)], 2)
    assert past.fact.key == b"/c"
