"""What every store promises, clause by clause; `roster.store.base` states the clauses.

The suite runs over the fixtures of conftest.py, by URL alone. Clauses marked `history` are for engines that show every
change, those marked `state` for engines that may merge the changes of one key; all others are for both.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from roster._clock import boottime
from roster.errors import (
    ConflictError,
    LeaseLostError,
    LimitError,
    RevisionCompactedError,
    StoreUnavailableError,
)
from roster.store import (
    MAX_KEY_BYTES,
    MAX_TTL,
    MAX_VALUE_BYTES,
    MIN_TTL,
    Batch,
    Change,
    Check,
    Delete,
    Hint,
    Put,
    Store,
    open_store,
)

Another = Callable[[], Store]


class Seen:
    """What a watch has brought so far, read on until a condition holds.

    Args:
        batches: the watch.
        since: the revision from which it was opened. What a snapshot shows beyond that is news to no reader.
    """

    def __init__(self, batches: AsyncIterator[Batch], since: int = 0) -> None:
        self._batches = batches
        self._since = since
        self._present: set[str] = set()
        self.batches: list[Batch] = []
        self.changes: list[Change] = []

    async def until(self, condition: Callable[[Seen], bool], within: float = 15.0) -> Seen:
        async with asyncio.timeout(within):
            while not condition(self):
                self._take(await anext(self._batches))
        return self

    def _take(self, batch: Batch) -> None:
        self.batches.append(batch)
        if batch.snapshot:
            keys = {change.key for change in batch.changes}
            self.changes += [Change("delete", key, batch.revision) for key in sorted(self._present - keys)]
            self.changes += [change for change in batch.changes if change.revision >= self._since]
            self._present = keys
        else:
            self.changes += batch.changes
        for change in batch.changes:
            (self._present.discard if change.value is None else self._present.add)(change.key)

    async def count(self, number: int) -> list[Change]:
        return (await self.until(lambda seen: len(seen.changes) >= number)).changes


def _follows(store: Store, revision: int, before: int) -> bool:
    """Whether a revision is the next one after another.

    Engines of grade `state` take their revisions from a log that holds more than changes of keys.
    """
    return revision == before + 1 if store.grade == "history" else revision > before


def _same_moment(store: Store, revision: int, before: int) -> bool:
    """Whether nothing was written between two revisions, with the same reservation."""
    return revision == before if store.grade == "history" else revision >= before


async def _eventually(condition: Callable[[], Awaitable[bool]], within: float = 15.0) -> None:
    """Ask again until the answer is yes."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def root() -> str:
    """A prefix of this test's own, so that a shared server does."""
    return f"/contract/{uuid.uuid4().hex}/"


# --- keys and values


async def test_a_key_put_is_a_key_got(store: Store, root: str) -> None:
    revision = await store.put(root + "a", b"\x00\xff value")
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.key, entry.value, entry.lease) == (root + "a", b"\x00\xff value", None)
    assert (entry.create_revision, entry.mod_revision) == (revision, revision)


async def test_an_absent_key_is_none(store: Store, root: str) -> None:
    assert await store.get(root + "nobody") is None


async def test_a_second_put_keeps_the_revision_of_creation(store: Store, root: str) -> None:
    first = await store.put(root + "a", b"1")
    second = await store.put(root + "a", b"2")
    entry = await store.get(root + "a")
    assert entry is not None
    assert second > first
    assert (entry.create_revision, entry.mod_revision, entry.value) == (first, second, b"2")


async def test_a_deleted_key_begins_anew(store: Store, root: str) -> None:
    await store.put(root + "a", b"1")
    assert await store.delete(root + "a") is True
    assert await store.delete(root + "a") is False
    again = await store.put(root + "a", b"2")
    entry = await store.get(root + "a")
    assert entry is not None
    assert entry.create_revision == again


@pytest.mark.parametrize(
    "key",
    ["", "no-slash", "/nul\0", "/" + "k" * MAX_KEY_BYTES, "/\ud800", "/" + "ж" * (MAX_KEY_BYTES // 2)],
    ids=["empty", "relative", "nul", "long", "surrogate", "long in bytes"],
)
async def test_a_key_over_the_limits_is_refused(store: Store, key: str) -> None:
    for attempt in (
        store.get(key),
        store.put(key, b""),
        store.delete(key),
        store.transact((Check(key, 0),), ()),
        store.transact((), (Delete(key),)),
    ):
        with pytest.raises(LimitError):
            await attempt


async def test_the_longest_key_and_the_largest_value_pass(store: Store, root: str) -> None:
    key = root + "k" * (MAX_KEY_BYTES - len(root))
    value = bytes(MAX_VALUE_BYTES)
    await store.put(key, value)
    entry = await store.get(key)
    assert entry is not None
    assert entry.value == value
    with pytest.raises(LimitError, match=str(MAX_VALUE_BYTES)):
        await store.put(key, value + b"x")
    with pytest.raises(LimitError):
        await store.put(key, "text")  # type: ignore[arg-type]  # what a caller without types may do


async def test_opaque_names_and_cyrillic_go_through(store: Store, root: str) -> None:
    names = ["писатель", "a b", "%41", "a/../b", "\x1b[31m", "'; drop table kv; --", "\U0010ffff"]
    for name in names:
        await store.put(root + name, name.encode())
    page = await store.list(root)
    assert {entry.key: entry.value for entry in page.entries} == {
        root + name: name.encode() for name in names
    }


# --- revisions and conditions


async def test_one_write_raises_the_revision_by_one(store: Store, root: str) -> None:
    first = await store.put(root + "a", b"1")
    second = await store.put(root + "a", b"1")
    assert _follows(store, second, first)
    assert await store.delete(root + "nobody") is False
    assert _same_moment(store, (await store.info()).revision, second)


async def test_create_only_succeeds_once(store: Store, another: Another, root: str) -> None:
    clients = [store] + [another() for _ in range(7)]
    results = await asyncio.gather(
        *(client.put(root + "name", b"%d" % number, if_revision=0) for number, client in enumerate(clients)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, int)]
    lost = [result for result in results if isinstance(result, ConflictError)]
    assert (len(won), len(lost)) == (1, 7)
    assert {(error.key, error.mod_revision) for error in lost} == {(root + "name", won[0])}


async def test_a_conditional_write_holds_or_does_nothing(store: Store, root: str) -> None:
    first = await store.put(root + "a", b"1")
    second = await store.put(root + "a", b"2", if_revision=first)
    for attempt in (
        store.put(root + "a", b"3", if_revision=first),
        store.delete(root + "a", if_revision=first),
    ):
        with pytest.raises(ConflictError) as caught:
            await attempt
        assert (caught.value.key, caught.value.mod_revision) == (root + "a", second)
    with pytest.raises(ConflictError) as caught:
        await store.put(root + "absent", b"", if_revision=second)
    assert caught.value.mod_revision == 0
    entry = await store.get(root + "a")
    assert entry is not None
    assert entry.value == b"2"
    assert await store.delete(root + "a", if_revision=second) is True


async def test_a_transaction_is_one_revision(store: Store, root: str) -> None:
    old = await store.put(root + "old", b"")
    revision = await store.transact(
        (Check(root + "old", old), Check(root + "new", 0)),
        (Put(root + "new", b"1"), Put(root + "other", b"2"), Delete(root + "old"), Delete(root + "absent")),
    )
    page = await store.list(root)
    assert [(entry.key, entry.mod_revision) for entry in page.entries] == [
        (root + "new", revision),
        (root + "other", revision),
    ]
    assert _follows(store, revision, old)


async def test_a_transaction_whose_check_fails_does_nothing(store: Store, root: str) -> None:
    revision = await store.put(root + "a", b"1")
    with pytest.raises(ConflictError) as caught:
        await store.transact(
            (Check(root + "a", revision), Check(root + "b", revision)),
            (Put(root + "a", b"2"), Put(root + "c", b"")),
        )
    assert (caught.value.key, caught.value.mod_revision) == (root + "b", 0)
    page = await store.list(root)
    assert [(entry.key, entry.value) for entry in page.entries] == [(root + "a", b"1")]
    assert _same_moment(store, page.revision, revision)


async def test_a_transaction_without_effect_costs_no_revision(store: Store, root: str) -> None:
    revision = await store.put(root + "a", b"1")
    assert _same_moment(store, await store.transact((Check(root + "a", revision),), ()), revision)
    assert _same_moment(store, await store.transact((), (Delete(root + "absent"),)), revision)
    entry = await store.get(root + "a")
    assert entry is not None
    assert entry.mod_revision == revision


async def test_a_transaction_has_limits(store: Store, root: str) -> None:
    assert await store.transact((), tuple(Put(f"{root}{number}", b"") for number in range(64)))
    with pytest.raises(LimitError, match="64"):
        await store.transact((), tuple(Put(f"{root}{number}", b"") for number in range(65)))
    with pytest.raises(LimitError, match="twice"):
        await store.transact((), (Put(root + "a", b""), Delete(root + "a")))
    with pytest.raises(LimitError):
        await store.transact((), (Put(root + "fine", b""), Put(root + "large", bytes(MAX_VALUE_BYTES + 1))))
    assert await store.get(root + "fine") is None


# --- listings


async def test_a_prefix_is_a_plain_string_in_byte_order(store: Store, root: str) -> None:
    names = ["a", "a/b", "ab", "a\U0010ffff", "aя", "a\uffff", "b", "A", "a%", "a_"]
    for name in names:
        await store.put(root + name, b"")
    page = await store.list(root + "a")
    expected = sorted((root + name for name in names if name.startswith("a")), key=str.encode)
    assert [entry.key for entry in page.entries] == expected
    assert page.next is None
    assert (await store.list(root + "nobody")).entries == ()


@pytest.mark.parametrize("size", [1, 3, 7, 8])
async def test_all_pages_of_one_listing_show_the_same_moment(store: Store, root: str, size: int) -> None:
    for number in range(7):
        await store.put(f"{root}{number}", b"before")
    page = await store.list(root, limit=size)
    moment = page.revision
    await store.put(root + "5", b"after")
    await store.delete(root + "6")
    await store.put(root + "6x", b"after")
    entries = list(page.entries)
    while page.next is not None:
        assert len(page.entries) == size
        page = await store.list(root, limit=size, after=page.next, revision=moment)
        assert page.revision == moment
        entries += page.entries
    assert [(entry.key, entry.value) for entry in entries] == [(f"{root}{n}", b"before") for n in range(7)]


async def test_a_listing_of_a_future_revision_is_refused(store: Store, root: str) -> None:
    revision = await store.put(root + "a", b"")
    with pytest.raises(RevisionCompactedError):
        await store.list(root, revision=revision + 1000)


# --- leases


async def test_what_is_bound_to_a_revoked_lease_goes_in_one_revision(store: Store, root: str) -> None:
    lease = await store.grant(30)
    await store.put(root + "a", b"", lease=lease.id)
    await store.put(root + "b", b"", lease=lease.id)
    last = await store.put(root + "free", b"")
    async with store.watch(root, from_revision=last + 1) as batches:
        await lease.revoke()
        await lease.revoke()
        changes = await Seen(batches, last + 1).count(2)
    assert sorted((change.type, change.key) for change in changes) == [
        ("delete", root + "a"),
        ("delete", root + "b"),
    ]
    assert len({change.revision for change in changes}) == 1
    page = await store.list(root)
    assert [entry.key for entry in page.entries] == [root + "free"]


async def test_a_lease_that_is_not_kept_alive_ends(store: Store, another: Another, root: str) -> None:
    reader = another()
    lease = await store.grant(1)
    revision = await store.put(root + "a", b"", lease=lease.id)
    async with reader.watch(root, from_revision=revision + 1) as batches:
        (change,) = await Seen(batches, revision + 1).count(1)
    ended = boottime()
    assert (change.type, change.key) == ("delete", root + "a")
    assert ended >= lease.deadline - 0.05
    assert await store.get(root + "a") is None
    assert await reader.get(root + "a") is None
    assert lease.lost
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()


async def test_a_lease_that_is_kept_alive_lives(store: Store, root: str) -> None:
    lease = await store.grant(3)  # a busy machine may keep it waiting for two of them
    revision = await store.put(root + "a", b"", lease=lease.id)
    until = boottime() + 2.5 * lease.ttl
    while boottime() < until:
        before = boottime()
        await lease.keep_alive()
        assert before + lease.ttl <= lease.deadline <= boottime() + lease.ttl
        await asyncio.sleep(0.2 * lease.ttl)
    assert not lease.lost
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.lease, entry.mod_revision) == (lease.id, revision)


async def test_keep_alive_writes_nothing_to_the_log(store: Store, root: str) -> None:
    lease = await store.grant(30)
    await store.put(root + "a", b"", lease=lease.id)
    for _ in range(3):
        before = (await store.info()).revision
        for _ in range(20):
            await lease.keep_alive()
        if (await store.info()).revision == before:
            return
        # Leases of other tests on this server may have ended meanwhile; a keep-alive that writes does so each time.
    pytest.fail("keep_alive writes to the log")


async def test_a_lease_that_has_ended_never_comes_back(store: Store, root: str) -> None:
    lease = await store.grant(30)
    await lease.revoke()
    assert lease.lost
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()
    with pytest.raises(LeaseLostError):
        await store.put(root + "a", b"", lease=lease.id)
    with pytest.raises(LeaseLostError):
        await store.transact((), (Put(root + "free", b""), Put(root + "a", b"", lease.id)))
    assert (await store.list(root)).entries == ()


async def test_a_lease_that_never_was_has_ended(store: Store, root: str) -> None:
    for name in ("7587870012345678", "nobody", "", "'", "1-1"):
        with pytest.raises(LeaseLostError):
            await store.put(root + "a", b"", lease=name)


async def test_a_put_without_the_lease_unbinds(store: Store, root: str) -> None:
    first, second = await store.grant(30), await store.grant(30)
    for name in ("unbound", "moved", "kept"):
        await store.put(root + name, b"", lease=first.id)
    await store.put(root + "unbound", b"")
    await store.put(root + "moved", b"", lease=second.id)
    await first.revoke()
    assert [(entry.key, entry.lease) for entry in (await store.list(root)).entries] == [
        (root + "moved", second.id),
        (root + "unbound", None),
    ]


async def test_the_name_of_an_ended_lease_is_free_at_once(store: Store, another: Another, root: str) -> None:
    lease = await store.grant(1)
    await store.put(root + "a", b"old", lease=lease.id)
    other = another()

    async def taken() -> bool:
        try:
            await other.put(root + "a", b"new", if_revision=0)
        except ConflictError:
            return False
        return True

    await _eventually(taken)
    assert boottime() >= lease.deadline - 0.05
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.value, entry.lease) == (b"new", None)


async def test_lease_ids_are_unique_and_limits_hold(store: Store) -> None:
    leases = [await store.grant(MIN_TTL), await store.grant(MAX_TTL), await store.grant(30, lingering=True)]
    leases.append(await store.grant(30, hint=Hint("writer", ("write_article",))))
    assert len({lease.id for lease in leases}) == 4
    for ttl in (0, -1, MIN_TTL / 2, MAX_TTL * 2, float("nan"), float("inf")):
        with pytest.raises(LimitError):
            await store.grant(ttl)


async def test_a_closed_client_leaves_its_leases_to_run_out(
    store: Store, another: Another, root: str
) -> None:
    holder = another()
    lease = await holder.grant(2)
    await holder.put(root + "a", b"", lease=lease.id)
    await holder.close()
    assert await store.get(root + "a") is not None

    async def gone() -> bool:
        return await store.get(root + "a") is None

    await _eventually(gone)
    assert boottime() >= lease.deadline - 0.05


# --- watches


async def test_a_watch_is_open_when_it_is_entered(store: Store, another: Another, root: str) -> None:
    start = (await store.info()).revision
    async with store.watch(root, from_revision=start + 1) as batches:
        revision = await another().put(root + "a", b"1")
        (change,) = await Seen(batches, start + 1).count(1)
    assert change == Change("put", root + "a", revision, b"1", revision, None)


@pytest.mark.history
async def test_a_watch_is_ordered_unique_and_reliable(store: Store, another: Another, root: str) -> None:
    start = (await store.info()).revision
    writers = [store, another(), another()]

    async def write(number: int, client: Store) -> list[int]:
        return [await client.put(f"{root}{number}", b"%d" % turn) for turn in range(40)]

    async with another().watch(root, from_revision=start + 1) as batches:
        written = await asyncio.gather(*(write(number, client) for number, client in enumerate(writers)))
        changes = await Seen(batches).count(120)
    assert [change.revision for change in changes] == sorted(revision for own in written for revision in own)
    for number in range(3):
        values = [change.value for change in changes if change.key == f"{root}{number}"]
        assert values == [b"%d" % turn for turn in range(40)]


@pytest.mark.history
async def test_a_watch_is_atomic(store: Store, root: str) -> None:
    start = (await store.info()).revision
    for turn in range(40):
        await store.transact((), tuple(Put(f"{root}{number}", b"%d" % turn) for number in range(64)))
    async with store.watch(root, from_revision=start + 1) as batches:
        seen = Seen(batches)
        assert len(await seen.count(40 * 64)) == 40 * 64
    for batch in seen.batches:
        revisions = [change.revision for change in batch.changes]
        assert all(revisions.count(revision) == 64 for revision in set(revisions))
        assert not batch.changes or batch.revision >= max(revisions)


@pytest.mark.history
async def test_a_watch_is_resumable_from_any_kept_revision(store: Store, root: str) -> None:
    start = (await store.info()).revision
    expected: list[tuple[str, int]] = []
    for number in range(10):
        expected.append((f"{root}{number % 3}", await store.put(f"{root}{number % 3}", b"")))
    for begin in range(start + 1, start + 11):
        async with store.watch(root, from_revision=begin) as batches:
            wanted = [item for item in expected if item[1] >= begin]
            changes = await Seen(batches).count(len(wanted))
            assert [(change.key, change.revision) for change in changes] == wanted


@pytest.mark.history
async def test_a_watch_resumed_after_each_batch_misses_nothing(store: Store, root: str) -> None:
    position = (await store.info()).revision
    written = []
    got: list[int] = []
    for number in range(12):
        written.append(await store.put(f"{root}{number}", b""))
        if number % 3 == 2:
            async with store.watch(root, from_revision=position + 1) as batches:
                batch = await anext(batches)
                got += [change.revision for change in batch.changes]
                position = batch.revision
    assert got == written


@pytest.mark.state
async def test_a_watch_of_states_merges_and_shows_the_last(store: Store, another: Another, root: str) -> None:
    start = (await store.info()).revision
    writers = [store, another(), another()]

    async def write(number: int, client: Store) -> int:
        return [await client.put(f"{root}{number}", b"%d" % turn) for turn in range(40)][-1]

    async with another().watch(root, from_revision=start + 1) as batches:
        seen = Seen(batches, start + 1)
        last = await asyncio.gather(*(write(number, client) for number, client in enumerate(writers)))
        await seen.until(lambda seen: {*last} <= {change.revision for change in seen.changes})
    for number in range(3):
        own = [change for change in seen.changes if change.key == f"{root}{number}"]
        turns = [int(change.value or b"") for change in own]
        assert turns == sorted(set(turns))
        assert turns[-1] == 39
        assert [change.revision for change in own] == sorted({change.revision for change in own})


@pytest.mark.state
@pytest.mark.parametrize("listed", [True, False], ids=["by who listed", "by another client"])
async def test_a_resumed_watch_of_states_shows_what_is_there_and_what_is_gone(
    store: Store, another: Another, root: str, listed: bool
) -> None:
    for name in ("kept", "changed", "gone", "reborn"):
        await store.put(root + name, b"1")
    page = await store.list(root)
    changed = await store.put(root + "changed", b"2")
    await store.delete(root + "gone")
    await store.delete(root + "reborn")
    reborn = await store.put(root + "reborn", b"2")
    client = store if listed else another()
    async with client.watch(root, from_revision=page.revision + 1) as batches:
        batch = await anext(batches)
        # Whoever does not know what the reader saw shows everything; who knows may show the difference.
        if batch.snapshot:
            expected = {root + name for name in ("kept", "changed", "reborn")}
            assert {change.key for change in batch.changes} == expected
        else:
            assert {change.key for change in batch.changes if change.value is None} == {root + "gone"}
        news = {
            change.key: (change.revision, change.create_revision)
            for change in batch.changes
            if change.value is not None and change.revision > page.revision
        }
        assert news[root + "changed"][0] == changed
        assert news[root + "reborn"] == (reborn, reborn)
        assert len(news) == 2
        assert batch.revision >= reborn
        new = await store.put(root + "kept", b"2")
        (change,) = await Seen(batches, new).count(1)
        assert (change.key, change.revision) == (root + "kept", new)


async def test_a_watch_is_bookmarked(store: Store, root: str) -> None:
    start = (await store.info()).revision
    async with store.watch(root + "here/", from_revision=start + 1) as batches:
        revision = await store.put(root + "elsewhere", b"")
        seen = await Seen(batches, start + 1).until(
            lambda seen: any(b.revision >= revision for b in seen.batches)
        )
    assert seen.changes == []


async def test_a_watch_sees_its_own_prefix_only(store: Store, root: str) -> None:
    start = (await store.info()).revision
    async with store.watch(root + "a", from_revision=start + 1) as batches:
        await store.put(root + "b", b"")
        await store.put(root + "ab", b"")
        await store.transact((), (Put(root + "b", b""), Put(root + "a", b""), Put(root + "c", b"")))
        changes = await Seen(batches, start + 1).count(2)
    assert [change.key for change in changes] == [root + "ab", root + "a"]


async def test_a_cancelled_look_loses_nothing(store: Store, root: str) -> None:
    start = (await store.info()).revision
    async with store.watch(root, from_revision=start + 1) as batches:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(batches), 0.05)
        for number in range(3):
            await store.put(f"{root}{number}", b"")
        changes = await Seen(batches, start + 1).count(3)
    assert [change.key for change in changes] == [f"{root}{number}" for number in range(3)]


async def test_a_put_under_a_lease_says_so_in_the_watch(store: Store, root: str) -> None:
    lease = await store.grant(30)
    revision = await store.put(root + "a", b"1", lease=lease.id)
    async with store.watch(root, from_revision=revision) as batches:
        (change,) = await Seen(batches, revision).count(1)
    assert change == Change("put", root + "a", revision, b"1", revision, lease.id)


async def test_a_watch_of_the_future_is_refused_not_silent(store: Store, root: str) -> None:
    revision = await store.put(root + "a", b"")
    with pytest.raises(RevisionCompactedError) as caught:
        async with store.watch(root, from_revision=revision + 1000) as batches:
            await Seen(batches).count(1)
    assert caught.value.compacted < revision + 1000


async def test_closing_a_client_ends_its_watches(store: Store, another: Another, root: str) -> None:
    client = another()
    start = (await store.info()).revision
    async with client.watch(root, from_revision=start + 1) as batches:
        waiting = asyncio.ensure_future(Seen(batches).count(1))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(StoreUnavailableError):
            async with asyncio.timeout(10):
                await waiting
    with pytest.raises(StoreUnavailableError):
        await client.get(root + "a")


# --- clients


async def test_info_names_the_store(store: Store, another: Another, store_address: str) -> None:
    info = await store.info()
    assert info.engine
    assert info.cluster_id
    assert (await another().info()).cluster_id == info.cluster_id
    assert store.url.partition("://")[0] == store_address.partition("://")[0]


async def test_clients_in_other_threads_and_loops_share_the_store(
    store: Store, store_address: str, root: str
) -> None:
    start = (await store.info()).revision

    def write(writer: int) -> None:
        async def main() -> None:
            async with open_store(store_address) as own:
                for number in range(20):
                    await own.put(f"{root}{writer}/{number}", b"")

        asyncio.run(main())

    async with store.watch(root, from_revision=start + 1) as batches, asyncio.TaskGroup() as group:
        for writer in range(3):
            group.create_task(asyncio.to_thread(write, writer))
        changes = await Seen(batches, start + 1).count(60)
    assert len({change.key for change in changes}) == 60
