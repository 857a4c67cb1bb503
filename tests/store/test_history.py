"""How the embedded engines forget old changes, and what they never forget."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from roster.errors import RevisionCompactedError
from roster.store import Store, open_store

KEPT = 20


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, database: Path) -> str:
    base = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"sqlite://{database}"
    return f"{base}?history={KEPT}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with open_store(url) as opened:
        yield opened


async def test_old_changes_go_and_current_entries_stay(store: Store) -> None:
    await store.put("/old", b"still here")
    await store.put("/gone", b"")
    await store.delete("/gone")
    for number in range(200):
        await store.put("/busy", b"%d" % number)
    info = await store.info()
    assert info.revision == 203
    assert KEPT <= info.revision - info.compacted <= 2 * KEPT
    entry = await store.get("/old")
    assert entry is not None
    assert (entry.value, entry.mod_revision) == (b"still here", 1)
    assert [entry.key for entry in (await store.list("")).entries] == ["/busy", "/old"]


async def test_a_watch_from_a_forgotten_revision_is_refused(store: Store) -> None:
    for _ in range(100):
        await store.put("/a", b"")
    compacted = (await store.info()).compacted
    for begin in (1, compacted):
        with pytest.raises(RevisionCompactedError) as caught:
            async with store.watch("", from_revision=begin):
                pytest.fail("it was opened")
        assert caught.value.compacted == compacted
    async with store.watch("", from_revision=compacted + 1) as batches:
        async with asyncio.timeout(10):
            batch = await anext(batches)
        assert [change.revision for change in batch.changes] == list(range(compacted + 1, 101))


async def test_a_watch_that_falls_too_far_behind_is_told(store: Store) -> None:
    async with store.watch("", from_revision=1) as batches:
        await store.put("/a", b"")
        async with asyncio.timeout(10):
            assert (await anext(batches)).revision == 1
        for _ in range(100):
            await store.put("/a", b"")
        with pytest.raises(RevisionCompactedError, match="list again"):
            await asyncio.wait_for(anext(batches), 10)


async def test_a_listing_is_paged_at_any_kept_revision(store: Store) -> None:
    shown: dict[int, dict[str, bytes]] = {}
    current: dict[str, bytes] = {}
    for number in range(120):
        key = f"/{number % 9}"
        if number % 4 == 3 and key in current:
            await store.delete(key)
            del current[key]
        else:
            await store.put(key, b"%d" % number)
            current[key] = b"%d" % number
        shown[(await store.info()).revision] = dict(current)
    info = await store.info()
    for revision in range(info.compacted, info.revision + 1):
        page = await store.list("/", limit=2, revision=revision)
        entries = list(page.entries)
        while page.next is not None:
            page = await store.list("/", limit=2, after=page.next, revision=revision)
            entries += page.entries
        assert {entry.key: entry.value for entry in entries} == shown[revision]
    with pytest.raises(RevisionCompactedError):
        await store.list("/", revision=info.compacted - 1)


async def test_the_file_does_not_grow_with_the_number_of_writes(url: str, database: Path) -> None:
    async with open_store(url) as store:
        for _ in range(300):
            await store.put("/a", bytes(1000))
            await store.put("/b", b"")
            await store.delete("/b")
    if database.exists():
        with closing(sqlite3.connect(database)) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM log").fetchone()
        assert rows <= 2 * KEPT + 1
        assert database.stat().st_size < 300_000


async def test_large_values_are_forgotten_by_their_bytes(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.store.space.HISTORY_BYTES", 1_000_000)
    monkeypatch.setattr("roster.store.sqlite.records.HISTORY_BYTES", 1_000_000)
    monkeypatch.setattr("roster.store.sqlite.records.HISTORY_LEAST", 4)
    monkeypatch.setattr("roster.store.sqlite.records._MEASURE_EVERY", 1)
    for url in (f"memory://{uuid.uuid4().hex}", f"sqlite://{database}"):
        async with open_store(url) as store:
            for _ in range(40):
                await store.put("/large", bytes(100_000))
            info = await store.info()
            assert 4 <= info.revision - info.compacted <= 11
            assert await store.get("/large") is not None


async def test_a_forked_child_shares_no_memory_store() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    async with open_store(url) as store:
        await store.put("/a", b"")
        child = os.fork()
        if child == 0:
            try:
                # Without the parent's clients the name is free there, and no lock of theirs is held.
                os._exit(0 if asyncio.run(_is_empty(url)) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def _is_empty(url: str) -> bool:
    async with open_store(url) as store:
        return await store.get("/a") is None


async def test_a_watch_left_open_by_a_closed_loop_harms_nobody() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    async with open_store(url) as store:

        def leave_it() -> None:
            async def main() -> None:
                context = open_store(url).watch("", from_revision=1)
                left.append(context)
                await context.__aenter__()

            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()

        left: list[object] = []
        await asyncio.to_thread(leave_it)
        assert await store.put("/a", b"") == 1
        assert await store.put("/a", b"") == 2


async def test_a_memory_store_lives_from_its_first_client_to_its_last() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    async with open_store(url) as first:
        await first.put("/a", b"")
        async with open_store(url) as second:
            assert await second.get("/a") is not None
        assert await first.get("/a") is not None
        identity = (await first.info()).cluster_id
    async with open_store(url) as third:
        assert await third.get("/a") is None
        assert (await third.info()).cluster_id != identity
