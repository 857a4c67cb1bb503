"""What a registry file does when it is deleted, replaced, damaged, write-protected, or when the disk is full."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from roster.errors import (
    LeaseLostError,
    StoreCorruptedError,
    StoreUnavailableError,
)
from roster.store import Store, open_store


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with open_store(url) as opened:
        yield opened


async def _make(path: Path, value: bytes) -> None:
    async with open_store(f"sqlite://{path}") as other:
        await other.put("/which", value)


# --- deleted, replaced


async def test_a_deleted_file_is_said_and_the_next_call_begins_a_new_one(
    store: Store, url: str, database: Path
) -> None:
    lease = await store.grant(30)
    await store.put("/a", b"", lease=lease.id)
    before = await store.info()
    database.unlink()
    with pytest.raises(StoreCorruptedError, match=f"{database} was deleted"):
        await store.put("/b", b"")
    await store.put("/b", b"")
    after = await store.info()
    assert after.cluster_id != before.cluster_id
    assert after.revision == 1
    assert [entry.key for entry in (await store.list("")).entries] == ["/b"]
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()
    with pytest.raises(LeaseLostError):
        await store.put("/a", b"", lease=lease.id)
    async with open_store(url) as other:
        assert (await other.info()).cluster_id == after.cluster_id


async def test_a_holder_that_only_keeps_alive_notices_the_deleted_file(store: Store, database: Path) -> None:
    lease = await store.grant(30)
    database.unlink()
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()
    assert lease.lost


async def test_a_replaced_file_is_said_and_read_without_the_old_log(
    store: Store, database: Path, tmp_path: Path
) -> None:
    for number in range(50):
        await store.put(f"/{number}", bytes(1000))  # it stays in the -wal, which belongs to this file
    await _make(tmp_path / "other.db", b"the other")
    old = (await store.info()).cluster_id
    shutil.move(tmp_path / "other.db", database)
    with pytest.raises(StoreCorruptedError, match="was replaced"):
        await store.get("/which")
    entry = await store.get("/which")
    assert entry is not None
    assert entry.value == b"the other"
    assert (await store.info()).cluster_id != old
    assert len((await store.list("")).entries) == 1


async def test_a_copy_of_a_file_is_another_store(store: Store, database: Path, tmp_path: Path) -> None:
    await store.put("/a", b"")
    old = (await store.info()).cluster_id
    await store.close()
    shutil.copy(database, tmp_path / "copy.db")
    async with open_store(f"sqlite://{tmp_path / 'copy.db'}") as copy:
        assert await copy.get("/a") is not None
        assert (await copy.info()).cluster_id != old


async def test_a_watch_ends_when_its_file_is_replaced(store: Store, url: str, database: Path) -> None:
    revision = await store.put("/a", b"")
    async with store.watch("/", from_revision=revision + 1) as batches:
        database.unlink()
        async with open_store(url) as other:
            await other.put("/b", b"")
            with pytest.raises(StoreCorruptedError):
                await asyncio.wait_for(anext(batches), 10)


async def test_a_deleted_lease_file_ends_the_leases_and_nothing_else(store: Store, database: Path) -> None:
    lease = await store.grant(30)
    await store.put("/bound", b"", lease=lease.id)
    await store.put("/free", b"")
    Path(f"{database}-leases").unlink()
    assert await store.get("/free") is not None
    assert await store.get("/bound") is None
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()
    again = await store.grant(30)
    await store.put("/bound", b"", lease=again.id, if_revision=0)
    await again.keep_alive()


# --- damaged


async def _refused(url: str, database: Path, match: str) -> None:
    before = database.read_bytes()
    store = open_store(url)
    try:
        for attempt in (
            store.get("/a"),
            store.put("/a", b""),
            store.list("/"),
            store.grant(30),
            store.info(),
        ):
            with pytest.raises(StoreCorruptedError, match=match) as caught:
                await attempt
            assert str(database) in str(caught.value)
    finally:
        await store.close()
    assert database.read_bytes() == before
    with pytest.raises(StoreCorruptedError, match=match):
        async with open_store(url):
            pytest.fail("it was opened")


async def test_garbage_is_refused_and_left_as_it_is(url: str, database: Path) -> None:
    database.write_bytes(os.urandom(20_000))
    await _refused(url, database, "is damaged .* delete it")


async def test_the_database_of_another_application_is_refused(url: str, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE meta (cluster, revision, compacted)")
        connection.commit()
    await _refused(url, database, "another application")


async def test_the_file_of_a_newer_version_is_refused(url: str, database: Path) -> None:
    await _make(database, b"")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 2")
        connection.execute("PRAGMA journal_mode = DELETE")
    await _refused(url, database, "has the format 2, this version of Roster reads 1")


async def test_a_file_with_its_tables_gone_is_refused(url: str, database: Path) -> None:
    await _make(database, b"")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE meta")
        connection.execute("PRAGMA journal_mode = DELETE")
    await _refused(url, database, "is damaged")


async def test_a_truncated_file_is_said(url: str, database: Path) -> None:
    async with open_store(url) as store:
        for number in range(200):
            await store.put(f"/{number}", bytes(1000))
    os.truncate(database, database.stat().st_size // 2)
    store = open_store(url)
    with pytest.raises(StoreCorruptedError, match="is damaged"):
        await store.list("/")
    await store.close()


async def test_an_empty_file_becomes_a_registry(url: str, database: Path) -> None:
    database.touch()
    async with open_store(url) as store:
        assert await store.put("/a", b"") == 1


async def test_garbage_in_the_lease_file_revives_nobody(store: Store, database: Path) -> None:
    lease = await store.grant(1, lingering=True)
    await store.put("/a", b"", lease=lease.id)
    with Path(f"{database}-leases").open("r+b") as file:
        file.seek(128)
        file.write(os.urandom(8192))
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()
    async with asyncio.timeout(10):
        while await store.get("/a") is not None:
            await asyncio.sleep(0.02)
    other = await store.grant(30)
    await store.put("/a", b"", lease=other.id)
    await other.keep_alive()
    assert await store.get("/a") is not None


# --- not writable


def _as_nobody(script: str, *args: object) -> str:
    """Run a script as a user without rights, and return what it printed."""
    prelude = """
        import asyncio, os, resource, sys
        from roster.errors import *
        from roster.store import open_store
        import roster.store.sqlite, roster.store.sqlite.boot
        if os.getuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory of a user without rights; not in pytest's own, which other users cannot enter."""
    with tempfile.TemporaryDirectory(prefix="roster-shared") as name:
        directory = Path(name) / "s"
        Path(name).chmod(0o755)
        directory.mkdir(mode=0o700)
        if os.getuid() == 0:
            os.chown(directory, 65534, 65534)
        yield directory


READ_BUT_NOT_WRITE = """
    async def main():
        async with open_store("sqlite://" + sys.argv[1]) as store:
            print((await store.get("/a")).value, len((await store.list("/")).entries))
            print(dict((await store.info()).details)["readonly"])
            for attempt in (store.put("/a", b""), store.delete("/a"), store.grant(30)):
                try:
                    await attempt
                except StoreUnavailableError as error:
                    print(error)
            async with store.watch("/", from_revision=1) as batches:
                print((await anext(batches)).revision)
    asyncio.run(main())
"""


@pytest.mark.parametrize("protected", ["file", "directory"])
def test_a_write_protected_registry_is_read_and_says_why_it_cannot_be_written(
    shared: Path, protected: str
) -> None:
    path = shared / "registry.db"
    _as_nobody(
        """
        async def main():
            async with open_store("sqlite://" + sys.argv[1]) as store:
                await store.put("/a", b"readable")
        asyncio.run(main())
        """,
        path,
    )
    if protected == "file":
        path.chmod(0o400)
    else:
        shared.chmod(0o500)
        (shared / "registry.db-run").chmod(0o500)
    try:
        lines = _as_nobody(READ_BUT_NOT_WRITE, path).splitlines()
    finally:
        shared.chmod(0o700)
        (shared / "registry.db-run").chmod(0o700)
    assert lines[0] == "b'readable' 1"
    assert lines[1]
    assert all(f"{path} can be read but not written" in line and "rights" in line for line in lines[2:5])
    assert lines[5] == "1"


def test_a_directory_that_cannot_be_written_is_named(shared: Path) -> None:
    shared.chmod(0o500)
    try:
        out = _as_nobody(
            """
            async def main():
                try:
                    async with open_store("sqlite://" + sys.argv[1]):
                        print("opened")
                except StoreError as error:
                    print(type(error).__name__, error)
            asyncio.run(main())
            """,
            shared / "deeper" / "registry.db",
        )
    finally:
        shared.chmod(0o700)
    assert out.startswith("StoreUnavailableError")
    assert str(shared / "deeper") in out
    assert "ROSTER_REGISTRY" in out


async def test_a_path_through_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match="file"):
        async with open_store(f"sqlite://{tmp_path}/file/registry.db"):
            pytest.fail("it was opened")


# --- the disk is full

FULL = """
    async def main():
        async with open_store("sqlite://" + sys.argv[1]) as store, open_store("sqlite://" + sys.argv[1]) as watching:
            long, short = await store.grant(30), await store.grant(1)
            await store.put("/long", b"", lease=long.id)
            last = await store.put("/short", b"", lease=short.id)
            async with watching.watch("/", from_revision=last + 1) as batches:
                resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
                acknowledged = 0
                try:
                    while True:
                        await store.put(f"/{acknowledged}", bytes(20_000))
                        acknowledged += 1
                except StoreUnavailableError as error:
                    print("said", error)
                print("acknowledged", acknowledged)
                print("there", sum(e.key[1:].isdigit() for e in (await store.list("/")).entries))
                await long.keep_alive()
                print("renewed", long.lost)
                told = []
                while not any(c.type == "delete" for c in told):
                    told += (await anext(batches)).changes
                print("told", [c.key for c in told if c.type == "delete"], len(told) - 1)
                print("hidden", await store.get("/short"), await watching.get("/short"))
                for _ in range(2):
                    try:
                        await store.put("/more", bytes(20_000))
                    except StoreUnavailableError:
                        print("still full")
                await long.keep_alive()
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                while await store.put("/after", b"") and dict((await store.info()).details)["leases"] != "1":
                    await asyncio.sleep(0.05)
                final = await store.put("/end", b"")
                while not any(c.key == "/end" for c in told):
                    told += (await anext(batches)).changes
                print("once", sum(c.type == "delete" for c in told))
                print("kept", (await store.get("/long")) is not None)
    asyncio.run(main())
"""


def test_on_a_full_disk_writes_fail_whole_leases_go_on_and_watches_stay_true(shared: Path) -> None:
    lines = dict(line.partition(" ")[::2] for line in _as_nobody(FULL, shared / "registry.db").splitlines())
    assert lines["said"].startswith("disk full")
    assert "free some space" in lines["said"]
    assert int(lines["acknowledged"]) > 3
    assert lines["there"] == lines["acknowledged"]
    assert lines["renewed"] == "False"
    assert lines["told"] == f"['/short'] {lines['acknowledged']}"
    assert lines["hidden"] == "None None"
    assert lines["still"] == "full"
    assert lines["once"] == "1"
    assert lines["kept"] == "True"


# --- the rest


async def test_the_files_are_this_users_alone(store: Store, database: Path) -> None:
    lease = await store.grant(30)
    await store.put("/a", b"", lease=lease.id)
    async with store.watch("/", from_revision=1):
        run = Path(f"{database}-run")
        async with asyncio.timeout(10):
            while not (run / "examiner").exists():  # it comes with the first round of tests
                await asyncio.sleep(0.01)
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
        files = [*run.iterdir(), *(path for path in database.parent.iterdir() if path != run)]
        kinds = {path.name.partition("-")[0] for path in run.iterdir()}
        assert {"h", "w", "lock", "inode", "examiner"} <= kinds
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


async def test_a_directory_made_for_the_file_is_private(tmp_path: Path) -> None:
    await _make(tmp_path / "new" / "er" / "registry.db", b"")
    assert stat.S_IMODE((tmp_path / "new" / "er").stat().st_mode) == 0o700


async def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o755)
    (tmp_path / "mine").chmod(0o755)
    await _make(tmp_path / "mine" / "registry.db", b"")
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o755


async def test_the_default_place_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("ROSTER_REGISTRY", raising=False)
    monkeypatch.delenv("ETCD_HOST", raising=False)
    async with open_store() as store:
        await store.put("/a", b"")
        assert store.url == f"sqlite://{tmp_path}/state/registry.db"
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def _get(store: Store) -> None:
    await store.get("/a")


async def test_a_forked_child_is_told_to_open_its_own(store: Store) -> None:
    await store.put("/a", b"")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(_get(store))
        except StoreUnavailableError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said = os.read(read, 1000).decode()
    os.close(read)
    assert "open another after the fork" in said
    assert await store.get("/a") is not None


async def test_a_locked_file_is_said_after_the_deadline(
    store: Store, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await store.grant(30)
    monkeypatch.setattr("roster.store.sqlite.database.BUSY_DEADLINE", 0.5)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(store.put("/a", b""))
        await asyncio.sleep(0)
        for _ in range(5):
            await lease.keep_alive()  # not behind the waiting write
        assert not waiting.done()
        with pytest.raises(StoreUnavailableError, match="locked by others"):
            await waiting
        other.execute("ROLLBACK")
    assert await store.get("/a") is None
    assert await store.put("/a", b"")


async def test_a_write_that_nobody_can_be_woken_for_is_made_and_said_to_be(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("roster.store.sqlite.wakeups.socket.socket", none_left)
        await store.put("/a", b"1")
        lease = await store.grant(30)
        await store.put("/b", b"2", lease=lease.id)
        await lease.revoke()
    assert [entry.key for entry in (await store.list("/")).entries] == ["/a"]


async def test_a_client_belongs_to_one_loop(store: Store) -> None:
    await store.put("/a", b"")
    with pytest.raises(StoreUnavailableError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, _get(store))


def test_a_state_directory_of_somebody_else_is_refused(shared: Path) -> None:
    out = _as_nobody(
        """
        async def main():
            os.environ["ROSTER_STATE_DIR"] = sys.argv[1]
            for name in ("ROSTER_REGISTRY", "ETCD_HOST"):
                os.environ.pop(name, None)
            store = open_store()
            try:
                await store.get("/a")
            except ConfigError as error:
                print(error)
            await store.close()
        asyncio.run(main())
        """,
        shared.parent if os.getuid() == 0 else "/",
    )
    assert "belongs to another user" in out
    assert "ROSTER_STATE_DIR" in out
