"""The local copy: when it is made, what lookups cost, what it does while the store is away or was replaced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conftest import eventually, passport
from tests.registry.conftest import Open, each_engine
from tests.registry.fakes import Clock, FaultyStore

from roster.errors import (
    NodeNotFoundError,
    RegistryError,
    SelectorError,
    StoreDeniedError,
    StoreUnavailableError,
)
from roster.registry import Informer, NodeEvent, Registry
from roster.registry.keys import node_key
from roster.store import MAX_TTL, open_store

WRITER = passport("writer-001", "write", "edit", labels={"role": "writer", "tier": "a"})
Faulty = tuple[FaultyStore, Registry, Registry]


async def collect(events: AsyncIterator[NodeEvent], count: int) -> list[str]:
    async with asyncio.timeout(10):
        return [f"{event.type} {event.name}" for event in [await anext(events) for _ in range(count)]]


async def test_a_node_that_only_registers_opens_no_watch_and_makes_no_copy(registry: Registry) -> None:
    await registry.register(WRITER)
    assert (registry.informer.started, registry.staleness) == (False, float("inf"))
    await registry.find()
    assert (registry.informer.started, registry.staleness) == (True, 0.0)


async def test_a_lookup_never_touches_the_store(faulty: Faulty) -> None:
    store, registry, other = faulty
    await other.register(WRITER)
    await registry.find()
    calls = store.calls
    for _ in range(100):
        await registry.find_by_capability("write")
        await registry.get("writer-001")
        await registry.find(selector="role=writer")
        await registry.capabilities()
    assert store.calls == calls


async def test_the_last_good_copy_is_served_while_the_store_is_away(faulty: Faulty) -> None:
    store, registry, other = faulty
    registration = await other.register(WRITER, ttl=1)
    await registry.find()
    store.take_away()
    await eventually(lambda: registry.staleness > 0)
    uid = registration.uid
    await registration._stop_tasks()
    await eventually(lambda: registry.staleness > 1.2)
    (found,) = await registry.find_by_capability("write")
    assert found.uid == uid
    assert found.state == "ready"
    before = registry.staleness
    await eventually(lambda: registry.staleness > before)
    assert isinstance(registry.informer.failure, StoreUnavailableError)
    store.give_back()
    await eventually(lambda: registry.staleness == 0.0)
    await eventually(lambda: (r := registry.informer.get("default/writer-001")) and r.state == "unknown", 3)
    await eventually(lambda: (r := registry.informer.get("default/writer-001")) and r.state == "offline", 3)


async def test_the_first_lookup_fails_clearly_when_the_store_cannot_be_reached(memory_url: str) -> None:
    store = FaultyStore(open_store(memory_url))
    store.take_away()
    async with Registry(store, sync_timeout=0.2) as registry:
        with pytest.raises(
            StoreUnavailableError, match=r"could not be read within 0\.2 s: the store was taken away"
        ):
            await registry.find()
        store.give_back()
        await registry.synced(timeout=10)
        assert await registry.find() == []


async def test_a_store_that_refuses_us_fails_each_lookup_at_once_until_it_lets_us_in(
    memory_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="roster.registry")
    store = FaultyStore(open_store(memory_url))

    def refuse() -> None:
        raise StoreDeniedError("the user 'writer' may not read '/ai-team/'")

    async with Registry(store, sync_timeout=60) as registry, asyncio.timeout(30):
        with monkeypatch.context() as refused:
            refused.setattr(store, "check", refuse)
            for _ in range(2):
                with pytest.raises(StoreDeniedError, match="may not read"):
                    await registry.find()
        await eventually(registry.informer.synced.is_set)
        assert await registry.find() == []
    assert [record.levelname for record in caplog.records if "cannot be read" in record.message] == ["INFO"]
    assert not [record for record in caplog.records if "serving the copy" in record.message]


async def test_changes_missed_while_the_store_was_away_come_as_differences(faulty: Faulty) -> None:
    store, registry, other = faulty
    gone = await other.register(passport("gone", "write"))
    stays = await other.register(passport("stays", "write"))
    async with registry.watch() as events:
        assert sorted(await collect(events, 2)) == ["added gone", "added stays"]
        store.take_away()
        await eventually(lambda: registry.staleness > 0)
        await gone.deregister()
        await other.register(passport("new", "write"))
        await stays.set_state("draining")
        store.give_back()
        assert sorted(await collect(events, 3)) == ["added new", "draining stays", "removed gone"]
    assert registry.informer.listings == 1


async def test_after_a_compaction_the_copy_is_listed_again_and_nothing_is_told_twice(memory_url: str) -> None:
    address = f"{memory_url}?history=10"
    async with Registry.connect(address) as other:
        await other.register(passport("stays", "write"))
        gone = await other.register(passport("gone", "write"))
        store = FaultyStore(open_store(address))
        async with Registry(store) as registry, registry.watch() as events:
            assert len(await collect(events, 2)) == 2
            store.take_away()
            await eventually(lambda: registry.staleness > 0)
            await gone.deregister()
            for number in range(50):
                await other.store.put("/elsewhere", str(number).encode())
            await other.register(passport("new", "write"))
            store.give_back()
            assert sorted(await collect(events, 2)) == ["added new", "removed gone"]
            assert registry.informer.listings == 2
            await other.register(passport("last", "write"))
            assert await collect(events, 1) == ["added last"]


async def test_a_wiped_store_is_noticed_and_its_nodes_are_unknown_until_they_are_back(
    memory_url: str,
) -> None:
    async with Registry.connect(memory_url) as first:
        await first.register(WRITER, ttl=1)
        store = FaultyStore(open_store(memory_url))
        async with Registry(store) as registry:
            await registry.find()
            store.take_away()
            await eventually(lambda: registry.staleness > 0)
            old, store.inner = store.inner, open_store(f"{memory_url}-another")
            store.give_back()
            await eventually(
                lambda: (r := registry.informer.get("default/writer-001")) and r.state == "unknown"
            )
            async with Registry.connect(f"{memory_url}-another") as second:
                back = await second.register(WRITER)
                await eventually(
                    lambda: (r := registry.informer.get("default/writer-001")) and r.uid == back.uid
                )
            await old.close()


async def test_a_store_that_calls_itself_another_is_listed_again(faulty: Faulty) -> None:
    store, registry, other = faulty
    await other.register(WRITER)
    async with registry.watch() as events:
        assert await collect(events, 1) == ["added writer-001"]
        store.take_away()
        await eventually(lambda: registry.staleness > 0)
        store.cluster_id = "another"
        store.give_back()
        await eventually(lambda: registry.informer.listings == 2)
        await other.register(passport("new", "write"))
        assert await collect(events, 1) == ["added new"]


async def test_many_nodes_are_listed_by_pages(registry: Registry) -> None:
    lease = await registry.store.grant(MAX_TTL)
    for number in range(1203):
        name = f"n{number}"
        await registry.store.put(
            node_key("default", name), json.dumps(passport(name, "write")).encode(), lease=lease.id
        )
    assert len(await registry.find_by_capability("write")) == 1203


@each_engine
async def test_a_watch_begins_with_what_is_there_and_tells_each_change(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    async with there.watch() as events:
        assert await collect(events, 1) == ["added writer-001"]
        registration.report(3)
        assert await collect(events, 1) == ["busy writer-001"]
        await registration.update(labels={"role": "editor"})
        assert await collect(events, 1) == ["modified writer-001"]
        await registration.drain()
        assert await collect(events, 1) == ["draining writer-001"]
        await registration.deregister()
        event = await anext(events)
        assert (event.type, event.namespace, event.name) == ("removed", "default", "writer-001")
        assert event.record.labels == {"role": "editor"}
        assert event.revision > 0


async def test_a_watch_can_be_narrowed(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    await here.register(WRITER)
    await here.register(passport("editor-001", "edit", namespace="other"))
    async with there.watch(capability="write") as events:
        assert await collect(events, 1) == ["added writer-001"]
    async with there.watch(namespace="other") as events:
        assert await collect(events, 1) == ["added editor-001"]
    async with there.watch(selector="role in (writer)") as events:
        assert await collect(events, 1) == ["added writer-001"]
    with pytest.raises(SelectorError):
        there.watch(selector="role in (")


@each_engine
async def test_a_watch_ends_with_the_registry(url: str) -> None:
    async with Registry.connect(url) as registry:
        watch = registry.watch()
        waiting = asyncio.create_task(anext(watch))
        await eventually(lambda: registry.informer.synced.is_set())
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(RegistryError, match="is closed"):
        await registry.find()


async def test_a_reader_that_falls_too_far_behind_is_told_so(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.registry.watching.MAX_WAITING", 5)
    watch = registry.watch()
    registration = await registry.register(WRITER)
    assert (await anext(watch)).type == "added"
    for number in range(10):
        await registration.update(labels={"n": str(number)})
    await eventually(lambda: (r := registry.informer.get("default/writer-001")) and r.labels == {"n": "9"})
    with pytest.raises(RegistryError, match="fell 5 events behind"):
        async for _ in watch:
            pass


async def test_listeners_hear_what_is_there_then_each_change_and_a_bad_one_hurts_nobody(
    open_registry: Open,
) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    await there.synced()

    def fail(_: NodeEvent) -> None:
        raise RuntimeError("a listener's mistake")

    heard: list[str] = []
    there.informer.add_listener(fail)
    remove = there.informer.add_listener(lambda event: heard.append(event.type))
    assert heard == ["added"]
    await registration.drain()
    await eventually(lambda: heard == ["added", "draining"])
    remove()
    await registration.set_state("ready")
    await eventually(lambda: (r := there.informer.get("default/writer-001")) and r.healthy)
    assert heard == ["added", "draining"]


@each_engine
async def test_nodes_are_found_by_every_kind_of_question(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    await here.register(WRITER)
    editor = passport("editor-001", {"name": "edit", "version": "2.1.0"}, namespace="team-b", version="3.0.0")
    editor["spec"]["type"] = "service"
    editor["spec"]["resources"]["memory"] = "8Gi"
    other = await here.register(editor)
    await there.synced()

    async def names(**question: Any) -> list[str]:
        return [record.name for record in await there.find(**question)]

    await eventually(lambda: len(there.informer.all()) == 2)
    assert await names() == ["writer-001", "editor-001"]
    assert await names(capability="edit") == ["writer-001", "editor-001"]
    assert await names(capability="edit", version=">=2") == ["editor-001"]
    assert await names(version=">=3") == ["editor-001"]
    assert await names(capability="edit", version=">=1,<2") == ["writer-001"]
    assert await names(type="service") == ["editor-001"]
    assert await names(namespace="team-b") == ["editor-001"]
    assert await names(selector="role=writer,tier in (a,b),!legacy") == ["writer-001"]
    assert await names(selector="spec.resources.memory>4Gi") == ["editor-001"]
    assert await names(selector="status.state=ready") == ["writer-001", "editor-001"]
    assert await names(selector={"matchLabels": {"role": "writer"}}) == ["writer-001"]
    assert await names(capability="fly") == []
    await other.drain()
    await eventually(lambda: (r := there.informer.get("team-b/editor-001")) and r.state == "draining")
    assert await names(healthy=True) == ["writer-001"]
    assert await names(healthy=False) == ["editor-001"]
    assert await names(state=["draining", "offline"]) == ["editor-001"]
    assert [record.name for record in await there.find_by_capability("edit")] == ["writer-001"]
    assert (await there.get("team-b/editor-001")).key == "team-b/editor-001"
    assert there.informer.by_queue("agent.team-b.editor-001")[0].name == "editor-001"
    with pytest.raises(NodeNotFoundError, match="there is one in the namespace team-b"):
        await there.get("editor-001")
    with pytest.raises(SelectorError):
        await there.find(selector="role in (")


async def test_capabilities_are_summed_up_and_contracts_compared(registry: Registry) -> None:
    def offer(topic: str) -> dict[str, Any]:
        return {"name": "write", "version": "1.0.0", "input_schema": {"topic": topic}}

    await registry.register(passport("a", offer("string")))
    await registry.register(passport("b", offer("string")))
    third = await registry.register(passport("c", offer("integer"), "fly"))
    await third.drain()
    await registry.synced()
    await eventually(lambda: (r := registry.informer.get("default/c")) and r.state == "draining")
    fly, write = await registry.capabilities()
    assert (fly.name, fly.nodes, fly.healthy, fly.mismatch) == ("fly", 1, 0, False)
    assert (write.nodes, write.healthy, write.versions, write.mismatch) == (3, 2, {"1.0.0": 3}, True)
    assert sorted(write.contracts["1.0.0"].values()) == [1, 2]


async def test_a_record_reads_like_the_founding_documents_passport(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    registration.report(3)
    await there.synced()
    await eventually(lambda: (r := there.informer.get("default/writer-001")) and r.state == "busy")
    record = await there.get("writer-001")
    assert record["spec"]["capabilities"][0]["name"] == "write"
    assert record["status"]["state"] == "busy"
    assert record["status"]["active_tasks"] == 3
    assert record.get("nothing") is None
    assert set(record) == {"apiVersion", "kind", "metadata", "spec", "status"}
    assert record["status"]["last_heartbeat"].endswith("Z")
    assert record.age is not None
    assert record.age < 60
    record["metadata"]["labels"]["role"] = "changed by the reader"
    assert (await there.get("writer-001"))["metadata"]["labels"]["role"] == "writer"


async def test_ageing_starts_anew_when_this_process_stood_still(memory_url: str) -> None:
    clock = Clock()
    async with open_store(memory_url) as store:
        document = passport("old", "write") | {"status": {"state": "ready"}}
        await store.put(node_key("default", "old"), json.dumps(document).encode())
        informer = Informer(store, now=clock)
        await informer.start()
        await informer.synced.wait()
        heard: list[str] = []
        informer.add_listener(lambda event: heard.append(event.type))
        due = informer.catalog.next_due
        assert due == clock() + 60
        clock.pass_(600)
        informer._due_changed.set()
        await eventually(lambda: informer.catalog.next_due == clock() + 60)
        assert heard == ["added"]
        clock.pass_(60.5)
        informer._due_changed.set()
        await eventually(lambda: heard == ["added", "offline"])
        await informer.close()
