"""The lease file, the clock and the proofs of life, where time is moved and writes come late."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roster._clock import boottime
from roster.errors import LeaseLostError, StoreUnavailableError
from roster.store import open_store
from roster.store.sqlite import SqliteStore
from roster.store.sqlite.boot import boot_id
from roster.store.sqlite.census import lease_name, lease_place
from roster.store.sqlite.holders import Examiner, Holder, is_dead
from roster.store.sqlite.leasefile import SLOT, LeaseFile, Slot, parse
from roster.store.sqlite.wakeups import wake_directory


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_client(database: Path, clock: Clock) -> AsyncIterator[Callable[[], SqliteStore]]:
    opened: list[SqliteStore] = []

    def make() -> SqliteStore:
        opened.append(SqliteStore(str(database), now=clock))
        return opened[-1]

    yield make
    for one in opened:
        await one.close()


def _file(database: Path, store: SqliteStore) -> LeaseFile:
    file = LeaseFile.open(Path(f"{database}-leases"), store.core.database.cluster)
    assert file is not None
    return file


def _rewrite(database: Path, store: SqliteStore, lease: str, **changes: object) -> None:
    place = lease_place(lease)
    assert place is not None
    file = _file(database, store)
    slot = file.read(place[1])
    assert slot is not None
    file.grant(place[1], slot._replace(**changes))  # type: ignore[arg-type]  # its own field names
    file.close()


# --- deadlines


async def test_a_lease_ends_at_its_deadline_to_the_tick(
    open_client: Callable[[], SqliteStore], clock: Clock
) -> None:
    store, reader = open_client(), open_client()
    lease = await store.grant(10)
    await store.put("/a", b"", lease=lease.id)
    clock.time += 9.999
    assert await reader.get("/a") is not None
    assert [lease.lost] == [False]
    clock.time += 0.001
    assert await reader.get("/a") is None
    assert (await reader.list("")).entries == ()
    assert lease.lost
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()


async def test_two_who_reap_delete_once(open_client: Callable[[], SqliteStore], clock: Clock) -> None:
    store, first, second = open_client(), open_client(), open_client()
    for number in range(5):
        lease = await store.grant(10)
        await store.put(f"/{number}", b"", lease=lease.id)
        await store.put(f"/{number}/more", b"", lease=lease.id)
    clock.time += 11
    await asyncio.gather(first.sweep(), second.sweep(), store.sweep())
    assert (await store.info()).revision == 10 + 5
    async with store.watch("", from_revision=11) as batches:
        changes = (await anext(batches)).changes
    assert len(changes) == len({change.key for change in changes}) == 10


async def test_reads_never_write(
    open_client: Callable[[], SqliteStore], clock: Clock, database: Path
) -> None:
    store, reader = open_client(), open_client()
    lease = await store.grant(10)
    await store.put("/a", b"", lease=lease.id)
    await store.close()
    clock.time += 11
    before = (await reader.info()).revision
    for _ in range(3):
        assert await reader.get("/a") is None
        assert (await reader.list("/")).entries == ()
    assert (await reader.info()).revision == before


@pytest.mark.parametrize("frozen_at", ["before", "after"])
async def test_a_renewal_that_comes_late_is_taken_back(
    open_client: Callable[[], SqliteStore],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    frozen_at: str,
    database: Path,
) -> None:
    store, other = open_client(), open_client()
    lease = await store.grant(10)
    await store.put("/a", b"", lease=lease.id)
    renew = LeaseFile.renew

    def slow(self: LeaseFile, index: int, number: int, deadline: float) -> None:
        # The process stands still around the write, longer than the lease lives.
        if frozen_at == "before":
            clock.time += 11
        renew(self, index, number, deadline)
        if frozen_at == "after":
            clock.time += 11

    monkeypatch.setattr(LeaseFile, "renew", slow)
    clock.time += 5
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()
    monkeypatch.undo()
    assert lease.lost
    assert await other.get("/a") is None
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()
    assert await other.put("/a", b"", if_revision=0)


async def test_a_late_renewal_does_not_undo_the_mark_of_the_end(
    open_client: Callable[[], SqliteStore], clock: Clock, database: Path
) -> None:
    store, other = open_client(), open_client()
    lease = await store.grant(10)
    await store.put("/a", b"", lease=lease.id)
    clock.time += 11
    await other.sweep()
    number, index = lease_place(lease.id) or (0, 0)
    file = _file(database, other)
    file.renew(index, number, clock.time + 10)  # as the frozen holder does when it wakes
    slot = file.read(index)
    file.close()
    assert slot is not None
    assert slot.ended
    with pytest.raises(LeaseLostError):
        await other.put("/a", b"", lease=lease.id)
    again = await other.grant(10)
    assert (lease_place(again.id) or (0, 0))[1] != index, "its last holder lives and may write to it"


async def test_another_boot_is_another_life(open_client: Callable[[], SqliteStore], database: Path) -> None:
    store = open_client()
    lease = await store.grant(10)
    await store.put("/a", b"", lease=lease.id)
    _rewrite(database, store, lease.id, boot=bytes(16))
    assert await store.get("/a") is None
    await store.sweep()
    assert (await store.info()).revision == 2
    assert len(boot_id()) == 16
    assert boot_id() != bytes(16)


async def test_a_deadline_too_far_off_is_reported_and_left_alone(
    open_client: Callable[[], SqliteStore], clock: Clock, database: Path
) -> None:
    store = open_client()
    lease = await store.grant(10)
    await store.put("/a", b"", lease=lease.id)
    assert not [name for name, _ in (await store.info()).details if name.startswith("lease ")]
    _rewrite(database, store, lease.id, deadline=clock.time + 3600)
    await store.sweep()
    assert await store.get("/a") is not None
    details = dict((await store.info()).details)
    assert "clock" in details[f"lease {lease.id}"]
    assert "3590 s" in details[f"lease {lease.id}"]


async def test_an_unreadable_slot_ends_when_it_was_so_for_a_whole_ttl(
    open_client: Callable[[], SqliteStore], clock: Clock, database: Path
) -> None:
    store, other = open_client(), open_client()
    lease = await store.grant(10)
    await store.put("/a", b"", lease=lease.id)
    with Path(f"{database}-leases").open("r+b") as file:
        file.seek(SLOT)
        file.write(b"torn")
    await other.sweep()
    assert await other.get("/a") is not None
    clock.time += 9
    await other.sweep()
    assert await other.get("/a") is not None
    clock.time += 1
    await other.sweep()
    assert await other.get("/a") is None
    assert (await other.info()).revision == 2


async def test_slots_are_used_again(open_client: Callable[[], SqliteStore], database: Path) -> None:
    store = open_client()
    for _ in range(300):
        lease = await store.grant(10)
        await lease.revoke()
    assert _count(database, store) == 64
    kept = [await store.grant(10) for _ in range(100)]
    assert _count(database, store) == 128
    for lease in kept:
        await lease.keep_alive()


def _count(database: Path, store: SqliteStore) -> int:
    file = _file(database, store)
    try:
        return file.count()
    finally:
        file.close()


async def test_the_blocks_of_the_lease_file_are_there_before_they_are_needed(
    open_client: Callable[[], SqliteStore], database: Path
) -> None:
    store = open_client()
    await store.grant(10)
    found = Path(f"{database}-leases").stat()
    assert found.st_blocks * 512 >= found.st_size


# --- slots


SLOTS = st.builds(
    Slot,
    number=st.integers(1, 2**63),
    holder=st.integers(1, 2**63),
    boot=st.binary(min_size=16, max_size=16),
    ttl=st.floats(1, 1e6),
    lingering=st.booleans(),
    ended=st.just(False),
    deadline=st.floats(0, 1e12),
    released=st.just(False),
)


@given(slot=SLOTS, index=st.integers(0, 3), flip=st.integers(0, SLOT * 8 - 1))
def test_a_slot_is_read_as_written_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, slot: Slot, index: int, flip: int
) -> None:
    file = LeaseFile.create(tmp_path_factory.getbasetemp() / "leases", "cluster")
    try:
        file.grant(index, slot)
        assert file.read(index) == slot
        raw = bytearray(file.read_all()[index * SLOT : (index + 1) * SLOT])
        raw[flip // 8] ^= 1 << flip % 8
        assert parse(bytes(raw)) in (None, slot)  # a flip in the padding changes nothing
        file.renew(index, slot.number, 17.5)
        assert file.read(index) == slot._replace(deadline=17.5)
        file.end(index, slot)
        ended = file.read(index)
        assert ended is not None
        assert ended.ended
        file.renew(index, slot.number, 99.5)
        again = file.read(index)
        assert again is not None
        assert again.ended, "a renewal does not undo the end"
    finally:
        file.close()


@given(st.text(max_size=20))
def test_no_text_is_a_lease_by_accident(text: str) -> None:
    place = lease_place(text)
    assert place is None or lease_name(*place) == text


def test_a_lease_file_of_another_registry_is_not_used(tmp_path: Path) -> None:
    LeaseFile.create(tmp_path / "leases", "one").close()
    assert LeaseFile.open(tmp_path / "leases", "two") is None
    (tmp_path / "link").symlink_to(tmp_path / "leases")
    with pytest.raises(OSError, match="symbolic"):
        LeaseFile.open(tmp_path / "link", "one")


# --- proofs of life


def test_a_holder_is_alive_until_it_lets_go(tmp_path: Path) -> None:
    holder = Holder(tmp_path)
    assert is_dead(tmp_path, holder.number) is False
    child = os.fork()
    if child == 0:
        os._exit(0 if is_dead(tmp_path, holder.number) is False else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    holder.close()
    assert is_dead(tmp_path, holder.number) is None, "a file that is missing proves nothing"


def test_a_forked_child_keeps_the_proof_so_that_only_time_decides(tmp_path: Path) -> None:
    said, saying = os.pipe()
    ending, end = os.pipe()
    parent = os.fork()
    if parent == 0:
        holder = Holder(tmp_path)
        if os.fork() == 0:
            os.read(ending, 1)
            os._exit(0)
        os.write(saying, b"%d" % holder.number)
        os._exit(0)
    os.waitpid(parent, 0)
    number = int(os.read(said, 100))
    assert is_dead(tmp_path, number) is False
    os.write(end, b"x")
    deadline = boottime() + 10
    while is_dead(tmp_path, number) is not True:
        assert boottime() < deadline
    for fd in (said, saying, ending, end):
        os.close(fd)


def test_one_client_examines_and_a_silent_one_is_not_waited_for(tmp_path: Path) -> None:
    first, second = Examiner(tmp_path), Examiner(tmp_path)
    assert first.elect(100.0, 4)
    first.note(100.0)
    assert not second.elect(103.0, 4)
    assert second.elect(105.0, 4), "the first has been silent for too long"
    first.note(105.0)
    assert not second.elect(106.0, 4)
    first.close()
    assert second.elect(106.1, 4)
    second.close()


# --- wake-ups


async def test_sockets_move_where_the_path_is_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    url = f"sqlite://{deep}/registry.db"
    async with open_store(url) as store, open_store(url) as writer:
        start = await store.put("/a", b"")
        sockets = wake_directory(deep / "registry.db", deep / "registry.db-run")
        assert sockets.parent == Path("/tmp")
        async with store.watch("", from_revision=start + 1) as batches:
            assert sockets.stat().st_mode & 0o777 == 0o700
            waiting = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0.1)
            await writer.put("/a", b"")
            assert (await asyncio.wait_for(waiting, 4)).changes  # a poll would take 5 s
    assert not sockets.exists()


async def test_the_socket_of_a_dead_watcher_is_removed(url: str, database: Path) -> None:
    run = Path(f"{database}-run")
    async with open_store(url) as store:
        await store.put("/a", b"")
        child = os.fork()
        if child == 0:
            from roster.store.sqlite.wakeups import Listener

            Listener(run)
            os._exit(0)
        os.waitpid(child, 0)
        assert list(run.glob("w-*"))
        await store.put("/a", b"")
        assert not list(run.glob("w-*"))


async def test_a_lost_wake_up_delays_a_watch_but_loses_nothing(
    url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.store.watching.BOOKMARK_IDLE", 0.3)
    async with open_store(url) as store, open_store(url) as writer:
        start = await store.put("/a", b"")
        async with store.watch("", from_revision=start + 1) as batches:
            for path in Path(f"{database}-run").glob("w-*"):
                path.unlink()
            revision = await writer.put("/a", b"")
            async with asyncio.timeout(10):
                while not (batch := await anext(batches)).changes:
                    pass
            assert batch.revision == revision


async def test_a_removed_run_directory_proves_nobody_dead(url: str, database: Path) -> None:
    async with open_store(url) as store, open_store(url) as other:
        lease = await store.grant(30)
        await store.put("/a", b"", lease=lease.id)
        for path in Path(f"{database}-run").iterdir():
            path.unlink()
        Path(f"{database}-run").rmdir()
        assert await other.get("/a") is not None
        await lease.keep_alive()
        again = await other.grant(30)
        await other.put("/b", b"", lease=again.id)


async def test_a_closed_client_says_so(url: str) -> None:
    store = open_store(url)
    await store.put("/a", b"")
    lease = await store.grant(30)
    await store.close()
    await store.close()
    for attempt in (store.get("/a"), store.put("/a", b""), lease.keep_alive(), store.info()):
        with pytest.raises(StoreUnavailableError, match="closed"):
            await attempt
