"""A registry moves to another store while both are in use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually, passport
from tests.engines import shared_url, store_params
from tests.registry.fakes import FaultyStore

from roster._clock import boottime
from roster.errors import ConfigError, LimitError, NameConflictError, StoreError, StoreUnavailableError
from roster.registry import Registry
from roster.registry.keys import ROOT, node_key, status_key
from roster.registry.migration import Hooks, Migration, Summary, need_two
from roster.registry.status import NodeStatus
from roster.store import Store, open_store, store_url

ENGINES = ("memory", "sqlite", "etcd", "consul", "zookeeper")
each_pair = pytest.mark.parametrize(
    "urls",
    [
        pytest.param(
            f"{one}-{other}", marks=[mark for each in store_params(one, other) for mark in each.marks]
        )
        for one, other in (
            ("memory", "memory"),
            ("memory", "sqlite"),
            ("sqlite", "etcd"),
            ("etcd", "consul"),
            ("consul", "zookeeper"),
            ("zookeeper", "sqlite"),
            ("zookeeper", "etcd"),
            ("etcd", "etcd"),
        )
    ],
    indirect=True,
)
FOUNDING = b"""apiVersion: ai-team.dev/v1
kind: NodePassport
metadata: {name: %s}
spec: {capabilities: [{name: write}]}
status: {state: ready, active_tasks: 1}
"""


def address(engine: str, directory: Path) -> str:
    name = uuid.uuid4().hex
    if engine == "memory":
        return f"memory://{name}"
    if engine == "sqlite":
        return f"sqlite://{directory}/{name}.db"
    return f"{shared_url(engine)}/?prefix=/m{name}"


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Source and target of this test alone."""
    one, other = getattr(request, "param", "memory-memory").split("-")
    return address(one, tmp_path), address(other, tmp_path)


@pytest.fixture
async def source(urls: tuple[str, str]) -> AsyncIterator[Registry]:
    """A registry that is in use."""
    async with Registry.connect(urls[0]) as opened:
        yield opened


@pytest.fixture
async def target(urls: tuple[str, str]) -> AsyncIterator[Registry]:
    """Where it moves to."""
    async with Registry.connect(urls[1]) as opened:
        yield opened


@contextlib.asynccontextmanager
async def both(urls: tuple[str, str]) -> AsyncIterator[tuple[Store, Store]]:
    """Clients for one migration."""
    async with open_store(urls[0]) as one, open_store(urls[1]) as other:
        yield one, other


async def migrate(urls: tuple[str, str], **options: Any) -> Summary:
    async with both(urls) as stores:
        return await Migration(*stores, name="the source", **options).run()


@contextlib.asynccontextmanager
async def following(urls: tuple[str, str], **options: Any) -> AsyncIterator[asyncio.Task[Summary]]:
    """Follow in the background, from the moment in which both sides are level."""
    level = asyncio.Event()
    async with both(urls) as stores:
        hooks = Hooks(level=lambda _: level.set(), moved=options.pop("moved", lambda _, __: None))
        working = asyncio.ensure_future(
            Migration(*stores, name="the source", follow=True, hooks=hooks, **options).run()
        )
        waiting = asyncio.ensure_future(level.wait())
        try:
            async with asyncio.timeout(30):
                await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            assert level.is_set(), working
            yield working
        finally:
            working.cancel()
            waiting.cancel()
            await asyncio.wait({working, waiting})


async def contents(store: Store) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list(ROOT)).entries}


def _is_labelled(registry: Registry, wanted: str) -> bool:
    return registry.informer.all()[0].labels.get("while") == wanted


async def see(condition: Callable[[], Any], deadline: float = 15.0) -> Any:
    return await eventually(condition, deadline)


# -- the copy --------------------------------------------------------------------------------------


@each_pair
async def test_everything_is_copied_and_the_source_is_not_written(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    for number in range(30):
        await source.register(passport(f"n-{number}", "write"), passport_refresh=0)
    await source.store.put(node_key("default", "odd"), b"{nope")
    await source.store.put(node_key("default", "old"), FOUNDING % b"old")
    await source.store.put("/ai-team/else/where", b"\x00\xff")
    before = await contents(source.store)
    revision = (await source.store.list(ROOT)).revision

    summary = await migrate(urls)

    assert summary.ok
    assert (summary.passports, summary.others, len(summary.copied)) == (32, 1, 33)
    assert list(summary.faulty) == [node_key("default", "odd")]
    assert await contents(source.store) == before
    assert max(entry.mod_revision for entry in (await source.store.list(ROOT)).entries) <= revision
    documents = {key: value for key, value in before.items() if not key.startswith("/ai-team/status/")}
    assert await contents(target.store) == documents
    assert {node.state for node in await target.find(selector=None) if not node.founding} == {"offline"}

    there = {entry.key: entry.mod_revision for entry in (await target.store.list(ROOT)).entries}
    again = await migrate(urls)

    assert (again.ok, again.copied, again.unchanged) == (True, [], 33)
    assert {entry.key: entry.mod_revision for entry in (await target.store.list(ROOT)).entries} == there


@each_pair
async def test_what_changes_meanwhile_arrives(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    registrations = [await source.register(passport(f"n-{number}", "write")) for number in range(20)]
    stop = asyncio.Event()

    async def write() -> int:
        rounds = 0
        while not stop.is_set():
            rounds += 1
            for number, registration in enumerate(registrations[:10]):
                await registration.update(labels={"round": str(rounds), "number": str(number)})
            await source.store.put("/ai-team/else", str(rounds).encode())
            registrations.append(await source.register(passport(f"late-{rounds}", "write")))
            await asyncio.sleep(0.02)  # a store in memory never lets others run
        return rounds

    writing = asyncio.ensure_future(write())
    await see(lambda: len(registrations) > 21)
    summary = await migrate(urls)
    stop.set()
    rounds = await writing

    assert summary.ok
    assert summary.passports >= 21
    assert rounds > 1
    last = await migrate(urls)
    assert last.ok
    documents = {
        key: value
        for key, value in (await contents(source.store)).items()
        if not key.startswith("/ai-team/status/")
    }
    assert await contents(target.store) == documents


async def test_a_dry_run_says_what_would_be_and_writes_nothing(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    await source.register(passport("n-1"))
    async with both(urls) as stores:
        summary = await Migration(*stores).plan()

    assert (summary.dry_run, summary.copied, summary.ok) == (True, ["default/n-1"], True)
    assert (await target.store.info()).revision == 0


async def test_passports_of_nodes_end_with_their_retention_and_others_stay(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    await source.register(passport("n-1"))
    await source.store.put(node_key("default", "old"), FOUNDING % b"old")
    lease = await source.store.grant(30)
    await source.store.put(node_key("default", "leased"), FOUNDING % b"leased", lease=lease.id)

    assert (await migrate(urls, retention=1)).ok
    await target.synced()

    await see(lambda: target.informer.get("default/n-1") is None)
    assert {node.name for node in target.informer.all()} == {"old", "leased"}


async def test_a_document_that_the_target_refuses_is_named_and_the_rest_is_copied(
    urls: tuple[str, str], source: Registry
) -> None:
    await source.store.put(node_key("default", "old"), FOUNDING % b"old")
    await source.store.put("/ai-team/huge", b"x" * 1000)

    async with both(urls) as (one, other):
        transact = other.transact

        async def narrow(checks: Any, ops: Any) -> int:
            if any(len(getattr(op, "value", b"")) >= 1000 for op in ops):
                raise LimitError("the value has 1000 bytes; the limit is 999")
            return await transact(checks, ops)

        other.transact = narrow  # type: ignore[method-assign]  # a target with a smaller limit
        summary = await Migration(one, other).run()

    assert summary.refused == {"/ai-team/huge": "the value has 1000 bytes; the limit is 999"}
    assert (summary.ok, summary.copied, summary.different) == (False, ["default/old"], [])


async def test_what_vanishes_meanwhile_is_taken_away_and_what_was_there_before_stays(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    await target.store.put("/ai-team/theirs", b"1")
    leaving = await source.register(passport("leaving"))
    async with following(urls):
        assert await target.store.get(node_key("default", "leaving")) is not None
        await leaving.deregister()
        await target.synced()
        await see(lambda: target.informer.get("default/leaving") is None)
    summary = await migrate(urls)

    assert (summary.ok, summary.only_in_target) == (True, 1)
    assert set(await contents(target.store)) == {"/ai-team/theirs"}


async def test_the_comparison_finds_a_key_that_is_not_the_same(
    urls: tuple[str, str], source: Registry, target: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.registry.migration.VERIFY_PATIENCE", 0.3)
    await source.store.put("/ai-team/a", b"right")
    await source.store.put("/ai-team/b", b"right")

    async with both(urls) as (one, other):
        transact = other.transact

        async def tampering(checks: Any, ops: Any) -> int:
            revision = await transact(checks, ops)
            if ops[0].key == "/ai-team/b":
                # Its writes of this key are acknowledged and never seen.
                await target.store.delete("/ai-team/b")
            return revision

        other.transact = tampering  # type: ignore[method-assign]  # a target that loses what it was given
        summary = await Migration(one, other).run()

    assert (summary.ok, summary.verified, summary.different) == (False, False, ["/ai-team/b"])


async def test_one_registry_is_not_copied_onto_itself(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/a.db"
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    linked = f"sqlite://{tmp_path}/link.db"
    async with both((url, linked)) as stores:
        with pytest.raises(ConfigError, match="one registry"):
            await need_two(*stores, store_url(url), store_url(linked))


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [("/a", "/b", True), ("/a", "/a", False), ("/a", "/a/b", False), ("/a/b", "/a", False)],
)
async def test_two_registries_of_one_server_lie_apart(one: str, other: str, apart: bool) -> None:
    async with open_store("memory://prefixes") as store:
        urls = [store_url(f"etcd://h1/?prefix={prefix}") for prefix in (one, other)]
        if apart:
            await need_two(store, store, *urls)
        else:
            with pytest.raises(ConfigError, match=r"one registry|inside the other"):
                await need_two(store, store, *urls)


# -- following -------------------------------------------------------------------------------------


@each_pair
async def test_a_living_node_is_seen_in_the_target_until_it_dies(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    lease = await source.store.grant(30)
    document = json.dumps(passport("mortal", "write") | {"status": {"state": "ready"}})
    await source.store.put(
        node_key("default", "mortal"), document.replace('"default"', '"default", "uid": "u-1"').encode()
    )
    status = NodeStatus("u-1", capacity=3, ttl=2.0)
    await source.store.put(status_key("default", "mortal"), status.encode(), lease=lease.id)

    async with following(urls):
        await target.synced()
        found = target.informer.get("default/mortal")
        assert found is not None
        assert (found.state, found.uid, found.status and found.status.mirrored_from) == (
            "ready",
            "u-1",
            "the source",
        )

        busy = NodeStatus("u-1", state="busy", active_tasks=3, capacity=3, seq=1, ttl=2.0)
        await source.store.put(status_key("default", "mortal"), busy.encode(), lease=lease.id)
        await see(lambda: target.informer.all()[0].state == "busy")

        await lease.revoke()
        await see(lambda: target.informer.all()[0].state == "offline")

    assert target.informer.get("default/mortal") is not None


@each_pair
async def test_a_node_that_comes_over_has_its_name_at_once_and_keeps_it(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    old = await source.register(passport("mover", "write"))
    staying = await source.register(passport("stayer", "write"))
    moved: list[tuple[str, int]] = []
    async with following(urls, moved=lambda *said: moved.append(said)):
        # The old process still runs: the mirror of its status must not hold the name.
        new = await target.register(passport("mover", "write", "read"), wait=0)
        await see(lambda: moved)
        assert moved == [("default/mover", 1)]

        await old.update(labels={"late": "yes"})
        await staying.update(labels={"late": "yes"})
        await target.synced()
        await see(lambda: (target.informer.get("default/stayer") or staying.passport).labels.get("late"))
        found = target.informer.get("default/mover")
        assert found is not None
        assert (found.uid, found.status and found.status.mirrored_from) == (new.uid, "")
        assert "read" in found.capabilities

        await old.deregister()
        await staying.deregister()
        await see(lambda: target.informer.get("default/stayer") is None)
        found = target.informer.get("default/mover")
        assert found is not None
        assert (found.uid, found.state, new.error) == (new.uid, "ready", None)


async def test_what_stays_behind_in_the_source_does_not_come_back_when_its_node_has_moved_and_left(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    dead = await source.register(passport("mover"))
    async with following(urls):
        await source.store.delete(status_key("default", "mover"))
        dead._ended.set()  # killed: its passport stays listed
        new = await target.register(passport("mover"))
        await source.store.put("/ai-team/marker", b"1")
        await target.synced()
        await new.deregister()
        await source.store.put("/ai-team/marker", b"2")
        while (marker := await target.store.get("/ai-team/marker")) is None or marker.value != b"2":
            await asyncio.sleep(0.005)

        assert await target.store.get(node_key("default", "mover")) is None


async def test_a_node_of_the_target_is_never_overwritten(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    await source.register(passport("n-1", "write"))
    there = await target.register(passport("n-1", "read"))

    summary = await migrate(urls)
    assert (summary.ok, summary.theirs, summary.copied) == (True, ["default/n-1"], [])
    async with following(urls):
        pass
    assert (await target.get("n-1")).uid == there.uid


async def test_an_ended_mirror_takes_its_statuses_along_and_a_killed_ones_are_taken_over(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    await source.register(passport("n-1"))
    key = status_key("default", "n-1")
    async with both(urls) as stores:
        ghost = await target.store.grant(20)
        entry = await source.store.get(key)
        assert entry is not None
        left = json.dumps({**json.loads(entry.value), "mirrored_from": "the source"}, separators=(",", ":"))
        await target.store.put(key, left.encode(), lease=ghost.id)  # by a mirror that was killed
        assert len(stores) == 2
    async with following(urls):
        await ghost.revoke()
        assert await target.store.get(key) is not None
    assert await target.store.get(key) is None


async def test_two_mirrors_of_one_source_do_not_fight(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    node = await source.register(passport("n-1"))
    async with following(urls):
        async with following(urls):
            await node.update(labels={"a": "b"})
            await target.synced()
            await see(lambda: target.informer.all()[0].labels)
            revision = (await target.store.info()).revision
            await node.update(labels={"a": "c"})
            await see(lambda: target.informer.all()[0].labels["a"] == "c")
            assert (await target.store.info()).revision <= revision + 6
        key = status_key("default", "n-1")
        until = boottime() + 10
        while await target.store.get(key) is None:  # the one that stays shows the node again
            assert boottime() < until
            await asyncio.sleep(0.005)


async def test_mirrors_in_a_ring_keep_nobody_alive(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    node = await source.register(passport("n-1"))
    async with both(urls) as stores:
        back = asyncio.ensure_future(Migration(stores[1], stores[0], name="the target", follow=True).run())
        async with following(urls):
            await target.synced()
            await see(lambda: target.informer.all()[0].state == "ready")
            await node.deregister()
            await see(lambda: all(found.state == "offline" for found in target.informer.all()))
            assert await source.store.get(status_key("default", "n-1")) is None
        back.cancel()
        await asyncio.wait({back})


async def test_a_founding_style_agent_is_alive_in_the_target_as_long_as_its_lease(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    lease = await source.store.grant(30)
    await source.store.put(node_key("default", "old"), FOUNDING % b"old", lease=lease.id)
    async with following(urls):
        await target.synced()
        found = target.informer.get("default/old")
        assert found is not None
        assert (found.state, found.lease is not None) == ("ready", True)
        await lease.revoke()
        await see(lambda: target.informer.get("default/old") is None)


async def test_a_founding_style_agent_that_writes_to_the_target_keeps_what_it_writes(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    key = node_key("default", "old")
    await source.store.put(key, FOUNDING % b"old")
    async with following(urls):
        await target.store.put(key, FOUNDING % b"old" + b"# moved")
        await source.store.put("/ai-team/marker", b"1")
        while await target.store.get("/ai-team/marker") is None:
            await asyncio.sleep(0.005)
        entry = await target.store.get(key)
        assert entry is not None
        assert entry.value.endswith(b"# moved")


# -- when things break -----------------------------------------------------------------------------


async def test_a_store_that_is_away_for_a_while_is_waited_for(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    node = await source.register(passport("n-1"))
    one, other = FaultyStore(open_store(urls[0])), FaultyStore(open_store(urls[1]))
    level = asyncio.Event()
    hooks = Hooks(level=lambda _: level.set())
    async with one, other:
        working = asyncio.ensure_future(Migration(one, other, name="x", follow=True, hooks=hooks).run())
        await level.wait()
        await target.synced()
        for store in (one, other):
            store.take_away()
            await node.update(labels={"while": "one" if store is one else "other"})
            store.give_back()
            wanted = node.passport.labels["while"]
            await see(partial(_is_labelled, target, wanted))
        working.cancel()
        await asyncio.wait({working})


async def test_a_source_that_was_wiped_takes_nothing_away_from_the_target(
    urls: tuple[str, str], source: Registry, target: Registry
) -> None:
    await source.register(passport("n-1"))
    one = FaultyStore(open_store(urls[0]))
    level = asyncio.Event()
    async with one, open_store(urls[1]) as other:
        hooks = Hooks(level=lambda _: level.set())
        working = asyncio.ensure_future(Migration(one, other, name="x", follow=True, hooks=hooks).run())
        await level.wait()
        one.cluster_id = "another"
        one.take_away()
        await source.store.put("/ai-team/marker", b"1")
        one.give_back()
        with pytest.raises(StoreError, match="wiped or restored"):
            async with asyncio.timeout(15):
                await working
    assert {entry.key for entry in (await target.store.list(ROOT)).entries} == {
        node_key("default", "n-1"),
        status_key("default", "n-1"),
    }


async def test_a_silent_target_ends_a_copy_in_the_end(
    urls: tuple[str, str], source: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.registry.side.PATIENCE", 0.2)
    await source.register(passport("n-1"))
    other = FaultyStore(open_store(urls[1]))
    async with open_store(urls[0]) as one, other:

        def begun(_: int) -> None:
            other.take_away()

        with pytest.raises(StoreError):
            async with asyncio.timeout(15):
                await Migration(one, other, hooks=Hooks(begun=begun)).run()


async def test_a_lost_answer_does_no_harm(urls: tuple[str, str], source: Registry, target: Registry) -> None:
    await source.store.put("/ai-team/else", b"1")
    other = FaultyStore(open_store(urls[1]))
    other.lose_answers = 1
    async with open_store(urls[0]) as one, other:
        summary = await Migration(one, other).run()
    assert (summary.ok, summary.theirs) == (True, [])
    entry = await target.store.get("/ai-team/else")
    assert entry is not None
    assert entry.mod_revision == 1


async def test_a_mirrored_status_is_marked_and_still_a_status(source: Registry) -> None:
    await source.register(passport("n-1"))
    with pytest.raises(NameConflictError):
        await source.register(passport("n-1"), wait=0)
    entry = await source.store.get(status_key("default", "n-1"))
    assert entry is not None
    status = NodeStatus.decode(entry.value, entry.key)
    await source.store.put(entry.key, json.dumps({**json.loads(entry.value), "mirrored_from": "x"}).encode())
    assert status.mirrored_from == ""
    taken = await source.register(passport("n-1"), wait=0)
    assert taken.uid != status.uid


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("engine", store_params("etcd", "consul", "zookeeper"))
async def test_a_server_that_is_killed_and_started_again_is_followed_on(
    request: pytest.FixtureRequest, engine: str, side: str
) -> None:
    server = request.getfixturevalue(f"start_{engine}")()
    other = f"memory://{uuid.uuid4().hex}"
    urls = (server.url, other) if side == "source" else (other, server.url)
    async with open_store(urls[0]) as source, open_store(urls[1]) as target:
        await source.put("/ai-team/else", b"before")
        async with following(urls) as working:
            server.kill()
            await asyncio.to_thread(server.restart)
            await _write(source, b"after", working)
            await _read(target, b"after", working)


async def _write(store: Store, value: bytes, working: asyncio.Task[Summary]) -> None:
    """Write, as soon as the server takes it again."""
    async with asyncio.timeout(60):
        while not working.done():
            with contextlib.suppress(StoreUnavailableError):
                await store.put("/ai-team/else", value)
                return
            await asyncio.sleep(0.05)
    working.result()


async def _read(store: Store, value: bytes, working: asyncio.Task[Summary]) -> None:
    """Return when the value has arrived."""
    async with asyncio.timeout(60):
        while not working.done():
            with contextlib.suppress(StoreUnavailableError):
                entry = await store.get("/ai-team/else")
                if entry is not None and entry.value == value:
                    return
            await asyncio.sleep(0.05)
    working.result()


@pytest.mark.parametrize("engine", store_params("etcd", "consul", "zookeeper"))
async def test_a_server_that_was_wiped_takes_nothing_away(
    request: pytest.FixtureRequest, engine: str
) -> None:
    server = request.getfixturevalue(f"start_{engine}")()
    other = f"memory://{uuid.uuid4().hex}"
    async with open_store(server.url) as source, open_store(other) as target:
        for number in range(20):
            await source.put(f"/ai-team/else/{number}", b"before")
        async with following((server.url, other)) as working:
            await asyncio.to_thread(server.wipe)
            with pytest.raises(StoreError, match="wiped or restored"):
                async with asyncio.timeout(60):
                    await working
        assert len(await contents(target)) == 20
