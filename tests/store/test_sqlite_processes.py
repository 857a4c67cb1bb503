"""A registry file shared by real processes that are killed and frozen."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.store.conftest import Actor

from roster._clock import boottime
from roster.errors import LeaseLostError
from roster.store import Batch, Change, Store, open_store

StartActor = Callable[..., Actor]


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with open_store(url) as opened:
        yield opened


async def _collect(batches: AsyncIterator[Batch], number: int, within: float = 20.0) -> list[Change]:
    changes: list[Change] = []
    async with asyncio.timeout(within):
        while len(changes) < number:
            changes += (await anext(batches)).changes
    return changes


async def _eventually(condition: Callable[[], Awaitable[bool]], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


def _at_least(number: int) -> Callable[[list[list[str]]], bool]:
    return lambda lines: len(lines) >= number


async def test_nothing_acknowledged_is_lost_when_writers_are_killed(
    store: Store, url: str, actor: StartActor
) -> None:
    acknowledged = 0
    for turn in range(4):
        writers = [actor("write", url, f"/w/{turn}/{number}/") for number in range(2)]
        for number, writer in enumerate(writers):
            await asyncio.to_thread(writer.until, _at_least(10 + 15 * turn + 5 * number))
        for number, writer in enumerate(writers):
            await asyncio.to_thread(writer.kill)
            wrote = [
                (line[1], int(line[2])) for line in writer.rest() if line[0] == "wrote" and len(line) == 3
            ]
            acknowledged += len(wrote)
            for name, revision in wrote:
                entry = await store.get(f"/w/{turn}/{number}/{name}")
                assert entry is not None, f"{name} was acknowledged and is lost"
                assert (entry.value, entry.mod_revision) == (name.encode(), revision)
    assert acknowledged > 100
    info = await store.info()
    async with store.watch("/w/", from_revision=1) as batches:
        changes = await _collect(batches, info.revision)
    assert [change.revision for change in changes] == list(range(1, info.revision + 1))


async def test_a_killed_holder_is_replaced_at_once(store: Store, url: str, actor: StartActor) -> None:
    holder = actor("hold", url, "/name", 60)
    await asyncio.to_thread(holder.said, "holds")
    assert await store.get("/name") is not None
    await asyncio.to_thread(holder.kill)
    assert await store.get("/name") is None
    await store.put("/name", b"mine", if_revision=0)


async def test_a_watch_hears_of_a_killed_holder_long_before_its_ttl(
    store: Store, url: str, actor: StartActor
) -> None:
    holders = [actor("hold", url, f"/held/{number}", 60) for number in range(3)]
    lingering = actor("hold", url, "/held/lingering", 60, "lingering")
    for one in (*holders, lingering):
        await asyncio.to_thread(one.said, "holds")
    start = (await store.info()).revision
    async with store.watch("/held/", from_revision=start + 1) as batches:
        for one in (holders[0], holders[2], lingering):
            await asyncio.to_thread(one.kill)
        killed = boottime()
        changes = await _collect(batches, 2)
        assert boottime() - killed < 5
    assert {(change.type, change.key) for change in changes} == {("delete", "/held/0"), ("delete", "/held/2")}
    assert [entry.key for entry in (await store.list("/held/")).entries] == ["/held/1", "/held/lingering"]


async def test_leases_end_though_every_holder_is_dead_and_only_a_reader_is_left(
    url: str, actor: StartActor
) -> None:
    ttl = 3  # a holder may be late by two thirds of it
    reader = actor("read", url, "/held/")
    holders = [actor("hold", url, f"/held/{number}", ttl, "lingering") for number in range(3)]
    for one in holders:
        await asyncio.to_thread(one.said, "holds")
    reader.ask("before")
    assert await asyncio.to_thread(reader.said, "sees") == ["sees", "3", "before"]
    for one in holders:
        await asyncio.to_thread(one.kill)
    await asyncio.sleep(1.1 * ttl)  # the TTL itself: lingering leases end by time alone
    reader.ask("after")
    lines = await asyncio.to_thread(reader.until, lambda lines: len(lines) == 2)
    assert lines[1] == ["sees", "0", "after"]


async def test_a_holder_frozen_past_its_ttl_learns_that_it_lost_and_is_never_revived(
    store: Store, url: str, actor: StartActor
) -> None:
    frozen = actor("hold", url, "/frozen", 1)
    (_, lease) = await asyncio.to_thread(frozen.said, "holds")
    start = (await store.info()).revision
    async with store.watch("/frozen", from_revision=start + 1) as batches:
        frozen.signal(signal.SIGSTOP)
        (change,) = await _collect(batches, 1)
        assert (change.type, change.key) == ("delete", "/frozen")
        assert await store.get("/frozen") is None
        frozen.signal(signal.SIGCONT)
        assert await asyncio.to_thread(frozen.said, "lost") == ["lost", lease]
        with pytest.raises(LeaseLostError):
            await store.put("/frozen", b"", lease=lease)
        assert await store.get("/frozen") is None
    await asyncio.to_thread(frozen.process.wait, 20)


async def test_a_live_holder_is_never_taken_for_dead(store: Store, url: str, actor: StartActor) -> None:
    ttl = 3  # the holder may be late by two thirds of it
    holder = actor("hold", url, "/alive", ttl)
    await asyncio.to_thread(holder.said, "holds")
    clients = [open_store(url) for _ in range(3)]
    until = boottime() + 1.5 * ttl
    try:
        while boottime() < until:
            assert all([await client.get("/alive") for client in clients])
            assert (await store.list("/alive")).entries
            await asyncio.sleep(0.02)
    finally:
        for client in clients:
            await client.close()


@pytest.mark.processes
async def test_twenty_watching_processes_see_every_change_in_order(
    store: Store, url: str, actor: StartActor
) -> None:
    crowd = actor("crowd", 20, "watch", url, "/news/", 1)
    await asyncio.to_thread(crowd.until, lambda lines: sum(line[0] == "watching" for line in lines) == 20)
    sent = {}
    for number in range(50):
        before = boottime()
        sent[await store.put(f"/news/{number % 7}", b"")] = before
        await asyncio.sleep(0.005)  # a pace, so that each change is a wake-up of its own
    lines = await asyncio.to_thread(
        crowd.until, lambda lines: sum(line[0] == "put" for line in lines) == 20 * 50
    )
    seen = [(int(line[2]), float(line[3])) for line in lines if line[0] == "put"]
    assert all([revision for revision, _ in seen].count(revision) == 20 for revision in sent)
    delays = [arrived - sent[revision] for revision, arrived in seen]
    # Woken, not polling: a poll comes every 5 s. How fast exactly is for the bench to say.
    assert statistics.median(delays) < 0.5


@pytest.mark.processes
async def test_of_two_hundred_processes_exactly_the_hundred_killed_go(
    store: Store, url: str, actor: StartActor, database: Path
) -> None:
    ttl = 10  # thirty times as long as two hundred keep-alives take, for a machine that does other things too
    crowd = actor("crowd", 200, "hold", url, "/crowd/{}", ttl)
    pids = [int(word) for word in (await asyncio.to_thread(crowd.said, "crowd"))[1:]]
    await asyncio.to_thread(crowd.until, lambda lines: sum(line[0] == "holds" for line in lines) == 200, 40)
    page = await store.list("/crowd/")
    assert {entry.key for entry in page.entries} == {f"/crowd/{number}" for number in range(200)}
    async with store.watch("/crowd/", from_revision=page.revision + 1) as batches:
        for pid in pids[::2]:
            os.kill(pid, signal.SIGKILL)
        changes = await _collect(batches, 100)
        assert {(change.type, change.key) for change in changes} == {
            ("delete", f"/crowd/{number}") for number in range(0, 200, 2)
        }
        survived = boottime() + 1.2 * ttl
        with pytest.raises(TimeoutError):
            await _collect(batches, 1, within=survived - boottime())
    left = await store.list("/crowd/")
    assert {entry.key for entry in left.entries} == {f"/crowd/{number}" for number in range(1, 200, 2)}
    assert not any(line[0] == "lost" for line in crowd.lines)
    held = list((database.parent / "registry.db-run").glob("h-*"))
    assert len(held) == 100, "the proofs of life of the dead are removed"
