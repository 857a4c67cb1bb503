"""The tables of a registry file, and how a new one comes to be without a half-made one ever being seen."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

APPLICATION_ID = 0x526F7374  # "Rost", in the header of the file, where file(1) and we look for it
VERSION = 1

# `log` holds every value once, and `kv` points to the newest row of each key. A row of `log` without a
# value is a delete. `meta.leases` is the number of the newest lease; it begins at random, so that the lease
# of another file of this name is never mistaken for one of this.
_TABLES = """
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    cluster TEXT NOT NULL, revision INTEGER NOT NULL, compacted INTEGER NOT NULL, leases INTEGER NOT NULL
);
CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, created INTEGER NOT NULL, lease TEXT
);
CREATE UNIQUE INDEX log_key ON log (key, revision);
CREATE INDEX log_revision ON log (revision);
CREATE TABLE kv (
    key TEXT PRIMARY KEY,
    seq INTEGER NOT NULL, created INTEGER NOT NULL, revision INTEGER NOT NULL, lease TEXT
) WITHOUT ROWID;
CREATE INDEX kv_lease ON kv (lease) WHERE lease IS NOT NULL;
CREATE TABLE leases (
    number INTEGER PRIMARY KEY,
    slot INTEGER NOT NULL UNIQUE, ttl REAL NOT NULL, lingering INTEGER NOT NULL, holder INTEGER NOT NULL
);
"""


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that belongs to the database, such as `registry.db-wal`."""
    return path.with_name(path.name + suffix)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the lock under which registry files are made and their leftovers removed; held for milliseconds."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def ensure_file(path: Path, directory: Path) -> None:
    """Make the registry file if there is none (or an empty one), complete before it gets its name.

    SQLite would take the `-wal` of a deleted or replaced file for the new one's and damage it with what is
    in there. So the file that the `-wal` belongs to is written down, by inode, and the `-wal` of any other
    is removed first.

    Raises:
        OSError, sqlite3.Error: it cannot be made.
    """
    with exclusive(directory):
        owner = directory / "inode"
        try:
            found = path.stat()
        except FileNotFoundError:
            found = None
        if found is None or found.st_size == 0:
            draft = _draft(path)
            try:
                remove_leftovers(path)
                _note(owner, draft.stat().st_ino)
                draft.replace(path)
                _sync(path.parent)
            finally:
                draft.unlink(missing_ok=True)
            return
        try:
            noted = owner.read_text()
        except FileNotFoundError:
            noted = ""
        if noted != str(found.st_ino):
            if noted:
                remove_leftovers(path)
            _note(owner, found.st_ino)


def _note(owner: Path, inode: int) -> None:
    fd = os.open(owner, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, str(inode).encode())
    finally:
        os.close(fd)


def _sync(directory: Path) -> None:
    """Bring a new name to the disk: what is acknowledged in a file is lost if its name is."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_leftovers(path: Path) -> None:
    """Remove the `-wal` and `-shm` of a file that is no longer there."""
    for suffix in ("-wal", "-shm"):
        beside(path, suffix).unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    draft = beside(path, f".{secrets.token_hex(4)}.new")
    # Made by us, not by SQLite, for its mode; SQLite gives the same to -wal and -shm.
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN; {_TABLES} COMMIT;")
            first_lease = secrets.randbits(40) << 20
            connection.execute("INSERT INTO meta VALUES (1, ?, 0, 0, ?)", (uuid.uuid4().hex, first_lease))
    except BaseException:
        for suffix in ("", "-wal", "-shm"):
            beside(draft, suffix).unlink(missing_ok=True)
        raise
    return draft
