"""Keys as znodes on a real server: what others see there, and writes that others get in between of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from roster.errors import ConflictError, LeaseLostError, LimitError
from roster.store import MAX_VALUE_BYTES, Check, Delete, Put
from roster.store.zookeeper import ZookeeperStore, writing
from roster.store.zookeeper.planning import lease_of


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Awaitable[object]]], None]:
    """A function that has something happen once, between the next write's look at the znodes and its transaction."""
    submit = writing._submit
    happenings: list[Callable[[], Awaitable[object]]] = []

    async def overtaken(*args: Any) -> Any:
        while happenings:
            await happenings.pop()()
        return await submit(*args)

    monkeypatch.setattr(writing, "_submit", overtaken)
    return happenings.append


async def test_others_find_a_key_at_its_path_with_its_bytes(
    store: ZookeeperStore, znodes: Any, root: str
) -> None:
    lease = await store.grant(5)
    revision = await store.put(root + "nodes/writer-001", b'{"a": 1}')
    await store.put(root + "status/writer-001", b"{}", lease=lease.id)
    data, stat = await asyncio.to_thread(znodes.get, root + "nodes/writer-001")
    assert (data, stat.czxid, stat.mzxid, stat.ephemeralOwner) == (b'{"a": 1}', revision, revision, 0)
    data, stat = await asyncio.to_thread(znodes.get, root + "status/writer-001")
    assert (data, lease_of(stat.ephemeralOwner)) == (b"{}", lease.id)


async def test_what_others_write_is_read(store: ZookeeperStore, znodes: Any, root: str) -> None:
    def write() -> None:
        znodes.create(root + "by/hand", b"1", makepath=True)
        znodes.create(root + "by/nobody", b"")
        znodes.create(root + "by/100%", b"no key is called so")

    await asyncio.to_thread(write)
    entry = await store.get(root + "by/hand")
    assert entry is not None
    assert entry.value == b"1"
    assert [entry.key for entry in (await store.list(root)).entries] == [root + "by/hand"]
    # In a directory that has no counter yet.
    await store.put(root + "by/hand", b"2", if_revision=entry.mod_revision)
    assert (await asyncio.to_thread(znodes.get, root + "by/hand"))[0] == b"2"


@pytest.mark.parametrize("value", [b"", b"\x00roster:", b"\x00roster:\x00roster:x"])
async def test_every_value_comes_back(store: ZookeeperStore, root: str, value: bytes) -> None:
    revision = await store.put(root + "a", value)
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.value, entry.mod_revision) == (value, revision)
    assert [entry.value for entry in (await store.list(root)).entries] == [value]


async def test_a_key_with_keys_below_it_goes_and_they_stay(store: ZookeeperStore, root: str) -> None:
    await store.transact((), (Put(root + "a/b", b"1"), Put(root + "a", b"1")))
    assert await store.delete(root + "a") is True
    assert await store.delete(root + "a") is False
    assert await store.get(root + "a") is None
    assert [entry.key for entry in (await store.list(root)).entries] == [root + "a/b"]
    revision = await store.put(root + "a", b"2", if_revision=0)
    with pytest.raises(ConflictError):
        await store.put(root + "a", b"3", if_revision=0)
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.value, entry.mod_revision) == (b"2", revision)


async def test_a_key_goes_in_the_transaction_that_puts_one_below_it(store: ZookeeperStore, root: str) -> None:
    await store.put(root + "a", b"1")
    await store.transact((), (Delete(root + "a"), Put(root + "a/b", b"1")))
    assert [entry.key for entry in (await store.list(root)).entries] == [root + "a/b"]


async def test_zookeeper_has_a_corner_of_its_own(store: ZookeeperStore, root: str) -> None:
    key = "/zookeeper" + root + "a"
    await store.put(key, b"1")
    try:
        assert [entry.key for entry in (await store.list("/zookeeper" + root)).entries] == [key]
        everything = [entry.key for entry in (await store.list("")).entries]
        assert key in everything
        assert not any(name.startswith(("/zookeeper/config", "/zookeeper/quota")) for name in everything)
        assert not any("%births" in name for name in everything)
    finally:
        await store.delete(key)


async def test_a_put_costs_one_transaction(start_zookeeper: Callable[..., Any]) -> None:
    from tests.store.zookeeper.conftest import client

    server = await asyncio.to_thread(start_zookeeper, fsync=False)
    async with client(server.url) as store:
        before = await store.put("/ai-team/nodes/default/a", b"1")
        for step in range(1, 4):
            assert await store.put(f"/ai-team/nodes/default/{step}", b"1") == before + step
        assert await store.put("/ai-team/nodes/elsewhere/in/the/deep", b"1") == before + 4
        assert await store.transact((), [Put(f"/ai-team/x/{n}", b"1") for n in range(20)]) == before + 5
        # Of a plain delete nothing but the reply's own zxid tells.
        assert await store.transact((), [Delete("/ai-team/x/1")]) == before + 6
        assert (await store.info()).revision == before + 6


# --- somebody was faster


async def test_a_key_is_not_taken_for_its_successor(
    store: ZookeeperStore, other: ZookeeperStore, znodes: Any, root: str, between: Callable[..., None]
) -> None:
    """A znode that was deleted and made again is at the same version as before."""
    first = await store.put(root + "a", b"first")
    version = (await asyncio.to_thread(znodes.exists, root + "a")).version
    successor = 0

    async def again() -> None:
        nonlocal successor
        await other.delete(root + "a")
        successor = await other.put(root + "a", b"successor")

    between(again)
    with pytest.raises(ConflictError) as caught:
        await store.put(root + "a", b"mine", if_revision=first)
    assert (await asyncio.to_thread(znodes.exists, root + "a")).version == version
    assert caught.value.mod_revision == successor
    between(again)
    with pytest.raises(ConflictError):
        await store.delete(root + "a", if_revision=successor)
    entry = await store.get(root + "a")
    assert entry is not None
    assert entry.value == b"successor"


async def test_who_is_overtaken_writes_after_all_where_no_condition_is_against_it(
    store: ZookeeperStore, other: ZookeeperStore, root: str, between: Callable[..., None]
) -> None:
    between(lambda: other.put(root + "a", b"theirs"))
    await store.put(root + "a", b"mine")
    between(lambda: other.delete(root + "a"))
    await store.put(root + "a", b"again")
    between(lambda: other.put(root + "a/below", b"theirs"))
    assert await store.delete(root + "a") is True
    between(lambda: other.put(root + "b/c", b"theirs"))
    await store.put(root + "b/d", b"mine")
    assert {entry.key: entry.value for entry in (await store.list(root)).entries} == {
        root + "a/below": b"theirs",
        root + "b/c": b"theirs",
        root + "b/d": b"mine",
    }


async def test_conditions_on_keys_that_are_not_written_hold_as_well(
    store: ZookeeperStore, other: ZookeeperStore, root: str, between: Callable[..., None]
) -> None:
    held = await store.put(root + "held", b"1")
    for check, meanwhile in (
        (Check(root + "held", held), lambda: other.put(root + "held", b"2")),
        (Check(root + "absent", 0), lambda: other.put(root + "absent", b"2")),
        (Check(root + "no/such/directory", 0), lambda: other.put(root + "no/such/directory", b"2")),
    ):
        between(meanwhile)
        with pytest.raises(ConflictError) as caught:
            await store.transact([check], [Put(root + "a", b"mine")])
        assert caught.value.key == check.key
    assert await store.get(root + "a") is None
    assert await store.transact([Check(root + "never", 0)], [Put(root + "a", b"mine")])
    assert await store.get(root + "never") is None


async def test_a_dead_holder_is_replaced_by_one_contender_alone(
    store: ZookeeperStore, other: ZookeeperStore, root: str
) -> None:
    leases = [await store.grant(5), await other.grant(5)]
    for turn in range(20):
        key = f"{root}{turn}"
        old = await store.grant(5)
        seen = await store.put(key, b"old", lease=old.id)
        results = await asyncio.gather(
            *(
                client.transact([Check(key, seen)], [Put(key, lease.id.encode(), lease.id)])
                for client, lease in zip((store, other), leases, strict=True)
            ),
            return_exceptions=True,
        )
        assert [type(result) for result in results if not isinstance(result, int)] == [ConflictError]
        await old.revoke()
        entry = await store.get(key)
        assert entry is not None
        assert entry.value.decode() == entry.lease


# --- leases in transactions


async def test_a_challenge_is_written_under_the_lease_of_its_holder(
    store: ZookeeperStore, other: ZookeeperStore, root: str
) -> None:
    lease = await store.grant(5)
    revision = await store.put(root + "a", b"holder", lease=lease.id)
    revision = await other.put(root + "a", b"challenge", lease=lease.id, if_revision=revision)
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.value, entry.lease, entry.mod_revision) == (b"challenge", lease.id, revision)
    for key in (root + "b", root + "free"):
        await store.put(root + "free", b"1")
        with pytest.raises(LeaseLostError):
            await other.put(key, b"", lease=lease.id)
    await lease.revoke()
    with pytest.raises(LeaseLostError):
        await other.put(root + "a", b"challenge", lease=lease.id)
    assert await store.get(root + "a") is None


async def test_a_passport_that_lasts_and_a_status_that_does_not_are_one_write(
    store: ZookeeperStore, root: str
) -> None:
    lease, lasting = await store.grant(5), await store.grant(3600, lingering=True)
    revision = await store.transact(
        [Check(root + "status", 0), Check(root + "passport", 0)],
        [Put(root + "passport", b"1", lasting.id), Put(root + "status", b"1", lease.id)],
    )
    assert [(entry.lease, entry.mod_revision) for entry in (await store.list(root)).entries] == [
        (None, revision),
        (lease.id, revision),
    ]


async def test_what_zookeeper_cannot_do_is_said(store: ZookeeperStore, root: str) -> None:
    first, second = await store.grant(5), await store.grant(5)
    with pytest.raises(LimitError, match="one lease"):
        await store.transact((), [Put(root + "a", b"", first.id), Put(root + "b", b"", second.id)])
    await store.put(root + "leased", b"", lease=first.id)
    with pytest.raises(LimitError, match="below"):
        await store.put(root + "leased/below", b"")
    await store.put(root + "above/below", b"")
    with pytest.raises(LimitError, match="below"):
        await store.put(root + "above", b"", lease=first.id)


async def test_a_transaction_over_the_limit_is_refused_and_the_connection_stays(
    store: ZookeeperStore, root: str
) -> None:
    session = store._joined().session()
    await store.transact(
        (), [Put(root + "a", bytes(MAX_VALUE_BYTES)), Put(root + "b", bytes(MAX_VALUE_BYTES // 2))]
    )
    with pytest.raises(LimitError, match=r"jute\.maxbuffer"):
        await store.transact(
            (), [Put(root + "a", bytes(MAX_VALUE_BYTES)), Put(root + "b", bytes(MAX_VALUE_BYTES))]
        )
    almost = 0xFFFFF - MAX_VALUE_BYTES - 2048
    await store.transact((), [Put(root + "a", bytes(MAX_VALUE_BYTES)), Put(root + "b", bytes(almost))])
    assert store._joined().session() is session


async def test_many_requests_at_once_do_not_block_the_loop(store: ZookeeperStore, root: str) -> None:
    """kazoo would, from the 279th unsent one on."""
    await store.put(root + "a", b"1")
    late: list[float] = []

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            late.append(loop.time() - before)

    ticking = asyncio.create_task(tick())
    found = await asyncio.gather(*(store.get(root + "a") for _ in range(1000)))
    ticking.cancel()
    assert all(entry is not None for entry in found)
    assert max(late) < 1.0
