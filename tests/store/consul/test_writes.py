"""Writes to Consul: what its transactions cannot carry, keys between leases, races."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.store.consul.conftest import Owner

from roster.errors import ConflictError, LeaseLostError, LimitError
from roster.store import MAX_VALUE_BYTES, Check, Delete, Put, store_url
from roster.store.consul import ConsulStore

LARGEST_IN_A_TRANSACTION = 256 * 1024  # a passport


async def test_keys_have_no_leading_slash_there(store: ConsulStore, owner: Owner, root: str) -> None:
    await store.put(root + "a", b"1")
    assert await owner.ask("GET", f"/v1/kv/{root[1:]}a?raw") == 1
    await owner.ask("PUT", f"/v1/kv/{root[1:]}b", b"2")
    entry = await store.get(root + "b")
    assert entry is not None
    assert entry.value == b"2"
    with pytest.raises(LimitError, match="name"):
        await store.get("/")


@pytest.mark.parametrize(
    "name",
    [
        "//",
        "a//b",
        "a/./b",
        "a/..",
        ".",
        "..",
        "../..",
        "a/",
        "?x=1#y",
        "%2e%2e",
        "\x01",
        "\x7f",
        "ж/..",
        "/\u202e",
    ],
)
async def test_names_that_no_url_carries_are_names_like_any_other(
    store: ConsulStore, root: str, name: str
) -> None:
    key = root + name
    first = await store.put(key, b"1", if_revision=0)
    lease = await store.grant(30)
    second = await store.put(key, b"2", lease=lease.id, if_revision=first)
    for prefix in (root, key, key[:-1]):
        (found,) = (await store.list(prefix)).entries
        assert (found.key, found.value, found.mod_revision, found.lease) == (key, b"2", second, lease.id)
    assert await store.get(key) == found
    assert (await store.list(key + "x")).entries == ()
    async with store.watch(key, from_revision=second + 1) as batches:
        await lease.revoke()
        while not (batch := await anext(batches)).changes:
            pass
        assert [(change.type, change.key) for change in batch.changes] == [("delete", key)]


async def test_a_write_of_the_same_bytes_is_a_change(store: ConsulStore, owner: Owner, root: str) -> None:
    """Consul itself drops such a write; a heartbeat of the founding document would be no sign of life."""
    lease = await store.grant(30)
    revisions = [await store.put(root + "a", b"x") for _ in range(3)]
    revisions += [await store.put(root + "a", b"x", lease=lease.id) for _ in range(3)]
    assert revisions == sorted(set(revisions))
    await lease.revoke()


async def test_large_values_go_where_transactions_do_not(store: ConsulStore, root: str) -> None:
    value, other = bytes(MAX_VALUE_BYTES), b"x" * MAX_VALUE_BYTES
    first = await store.put(root + "a", value, if_revision=0)
    with pytest.raises(ConflictError):
        await store.put(root + "a", value, if_revision=0)
    second = await store.put(root + "a", other, if_revision=first)
    with pytest.raises(ConflictError) as caught:
        await store.put(root + "a", value, if_revision=first)
    assert caught.value.mod_revision == second
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.value, entry.create_revision, entry.mod_revision) == (other, first, second)
    lease = await store.grant(30)
    bound = await store.put(root + "a", value, lease=lease.id)
    assert await store.put(root + "a", value, lease=lease.id) > bound
    entry = await store.get(root + "a")
    assert entry is not None
    assert entry.lease == lease.id
    await store.put(root + "a", value)
    await lease.revoke()
    entry = await store.get(root + "a")
    assert entry is not None
    assert entry.lease is None
    with pytest.raises(LeaseLostError):
        await store.put(root + "a", value, lease=lease.id)
    await store.delete(root + "a")


async def test_what_is_too_much_for_consul_is_said(store: ConsulStore, root: str) -> None:
    large = bytes(MAX_VALUE_BYTES)
    lease, other = await store.grant(30), await store.grant(30)
    revision = await store.put(root + "a", b"", lease=lease.id)
    for attempt in (
        store.put(root + "a", large, lease=lease.id, if_revision=revision),
        store.put(root + "a", large, if_revision=revision),
        store.put(root + "a", large, lease=other.id),
        store.put(root + "\x01", large),
        store.transact((), (Put(root + "b", large), Put(root + "c", b""))),
        store.transact((Check(root + "b", 0),), (Put(root + "c", large),)),
    ):
        with pytest.raises(LimitError, match=r"384 KiB|524288"):
            await attempt
    checks = [Check(f"{root}{number}", 0) for number in range(33)]
    with pytest.raises(LimitError, match="64 steps"):
        await store.transact(checks, [Put(check.key, b"", lease.id) for check in checks])
    assert [entry.key for entry in (await store.list(root)).entries] == [root + "a"]
    for each in (lease, other):
        await each.revoke()


async def test_a_claim_with_the_largest_passport_passes(store: ConsulStore, root: str) -> None:
    lease, passport = await store.grant(30), await store.grant(60, lingering=True)
    document = bytes(LARGEST_IN_A_TRANSACTION)
    revision = await store.transact(
        (Check(root + "node", 0), Check(root + "status", 0)),
        (Put(root + "node", document, passport.id), Put(root + "status", b"{}", lease.id)),
    )
    again = await store.transact(
        (Check(root + "node", revision), Check(root + "status", revision)),
        (Put(root + "node", document, passport.id), Put(root + "status", b"{}", lease.id)),
    )
    assert {entry.mod_revision for entry in (await store.list(root)).entries} == {again}
    await lease.revoke()
    await passport.revoke()


async def test_64_keys_can_move_at_once_if_nothing_else_is_asked(store: ConsulStore, root: str) -> None:
    lease = await store.grant(30)
    keys = [f"{root}{number}" for number in range(64)]
    await store.transact((), [Put(key, b"1") for key in keys])
    await store.transact((), [Put(key, b"2", lease.id) for key in keys])
    await store.transact((), [Put(key, b"3") for key in keys])
    await lease.revoke()
    page = await store.list(root)
    assert {(entry.value, entry.lease) for entry in page.entries} == {(b"3", None)}
    assert len(page.entries) == 64
    revision = await store.transact((), [Delete(key) for key in keys])
    assert revision > page.revision
    assert (await store.list(root)).entries == ()


async def test_of_racing_writers_nobody_overwrites_unseen(
    consul_server: str, store: ConsulStore, root: str
) -> None:
    """Counts under one key, each writer binding it to another lease or to none: no count may be lost."""
    rng = random.Random(5)
    clients = [ConsulStore(store_url(consul_server)) for _ in range(6)]
    leases = [None, None, *[(await store.grant(60)).id for _ in range(4)]]
    await store.put(root + "n", b"0")

    async def count(client: ConsulStore, lease: str | None) -> None:
        done = 0
        while done < 15:
            entry = await client.get(root + "n")
            assert entry is not None
            value = b"%d" % (int(entry.value) + 1)
            try:
                await client.put(root + "n", value, lease=lease, if_revision=entry.mod_revision)
                done += 1
            except ConflictError:
                pass
            if rng.random() < 0.3:
                # Without a condition: to another key, whose binding changes under the writers' hands.
                await client.put(root + "free", value, lease=lease)

    await asyncio.gather(*(count(client, lease) for client, lease in zip(clients, leases, strict=True)))
    entry = await store.get(root + "n")
    assert entry is not None
    assert entry.value == b"90"
    for client, lease in zip(clients, leases, strict=True):
        await client.put(root + "free", b"last", lease=lease)
        found = await store.get(root + "free")
        assert found is not None
        assert found.lease == lease
        await client.close()


async def test_of_racing_deleters_one_deletes(consul_server: str, store: ConsulStore, root: str) -> None:
    clients = [ConsulStore(store_url(consul_server)) for _ in range(4)]
    for _ in range(10):
        await store.put(root + "a", b"")
        assert sorted(await asyncio.gather(*(client.delete(root + "a") for client in clients))) == [
            False,
            False,
            False,
            True,
        ]
    for client in clients:
        await client.close()


async def test_the_revision_of_a_deletion_is_past_what_it_deleted(store: ConsulStore, root: str) -> None:
    put = await store.put(root + "a", b"")
    deleted = await store.transact((Check(root + "a", put),), (Delete(root + "a"),))
    assert deleted > put
    async with store.watch(root, from_revision=deleted + 1) as batches:
        again = await store.put(root + "a", b"")
        while not (batch := await anext(batches)).changes:
            pass
    assert [(change.type, change.revision) for change in batch.changes] == [("put", again)]
