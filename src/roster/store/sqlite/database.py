"""The open registry file: transactions with our own waiting, and every fault of the file put into words.

Everything here blocks and runs on the client's worker thread.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from roster._paths import ensure_private_dir, state_dir
from roster.errors import StoreCorruptedError, StoreError, StoreUnavailableError
from roster.store.sqlite.leasefile import LeaseFile
from roster.store.sqlite.schema import APPLICATION_ID, VERSION, beside, ensure_file
from roster.store.sqlite.wakeups import private_directory

T = TypeVar("T")

# How long a transaction tries for its turn. SQLite's own busy handler sleeps up to 100 ms a step: at 200 writers some
# starve. Small random waits keep the queue moving; they grow a little, for 200 who ask every 3 ms leave no processor to
# the one whose turn it is (measured: 200 registrations at once took twice the processor time).
BUSY_DEADLINE = 10.0
BUSY_WAIT = 0.0005
BUSY_WAIT_FIRST = 0.005
BUSY_WAIT_MOST = 0.05
BUSY_GROWTH = 1.25

_FULL = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Database:
    """One connection to one registry file, opened when it is first needed and again after the file was replaced.

    Args:
        path: the database, absolute.
        pause: waits so many seconds on the worker thread.

    Attributes:
        cluster: the id of this very file; a copy or a successor has another.
        leases: the file of lease slots; None when there is none and none can be made.
        readonly: why nothing can be written, or empty.
    """

    def __init__(self, path: str, pause: Callable[[float], None]) -> None:
        self.path = Path(path)
        self.run = beside(self.path, "-run")
        self._pause = pause
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._frozen: tuple[int, ...] | None = None
        self.cluster = ""
        self.leases: LeaseFile | None = None
        self.readonly = ""

    # -- transactions

    def read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` over one snapshot of the file.

        Raises:
            StoreUnavailableError, StoreCorruptedError: the file cannot be read; the text says why and what
            to do.
        """
        return self._transaction("BEGIN", job)

    def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` alone among all writers; what it did is on the disk when this returns, or undone.

        Raises:
            StoreUnavailableError, StoreCorruptedError: the file cannot be written; the text says why and
            what to do.
        """
        if self._connection is not None and self.readonly:
            raise self._unwritable(self.readonly)
        return self._transaction("BEGIN IMMEDIATE", job)

    def _transaction(self, begin: str, job: Callable[[sqlite3.Connection], T]) -> T:
        until = time.monotonic() + BUSY_DEADLINE
        longest = BUSY_WAIT_FIRST
        while True:
            try:
                connection = self.connection()
                if begin != "BEGIN" and self.readonly:
                    raise self._unwritable(self.readonly)
                connection.execute(begin)
                try:
                    result = job(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                return result
            except sqlite3.Error as error:
                if not _is(error, _BUSY):
                    raise self._explain(error) from error
                if time.monotonic() > until:
                    raise StoreUnavailableError(
                        f"the registry file {self.path} was locked by others for {BUSY_DEADLINE:g} s; "
                        "is a process that writes to it stopped, or has a tool left a transaction open?"
                    ) from error
            except OSError as error:
                raise self.explain_os(error) from error
            self._pause(random.uniform(BUSY_WAIT, longest))  # noqa: S311 - jitter, not a secret
            longest = min(longest * BUSY_GROWTH, BUSY_WAIT_MOST)

    # -- opening

    def connection(self) -> sqlite3.Connection:
        """Return the open connection.

        Raises:
            StoreCorruptedError: the file was deleted or replaced since; the next call opens what is there
            then.
        """
        if self._connection is None:
            return self._open()
        if self._identity != _identity(self.path):
            gone = "replaced" if self.path.exists() else "deleted"
            self.close()
            raise StoreCorruptedError(
                f"the registry file {self.path} was {gone} while it was in use: nothing that was registered there counts "
                "any more; list again and register again (the next call opens the file anew)"
            )
        if self._frozen is not None and self._frozen != self._look():
            self.close()
            return self._open()
        if self.leases is None or not self.leases.in_place():
            self._open_leases(self._connection)
        return self._connection

    def still(self, cluster: str) -> bool:
        """Return whether the open file is the one of this id and still in its place. Changes nothing.

        Raises:
            OSError: there is no telling.
        """
        return (
            self._connection is not None
            and self.cluster == cluster
            and self._identity == _identity(self.path)
        )

    def close(self) -> None:
        """Close what is open."""
        connection, self._connection = self._connection, None
        leases, self.leases = self.leases, None
        self.cluster = ""
        self.readonly = ""
        self._frozen = None
        if leases is not None:
            leases.close()
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        self._prepare()
        before = _identity(self.path)
        try:
            connection = self._connect("mode=rw")
        except sqlite3.Error as error:
            if not (self.path.exists() and _is(error, {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})):
                raise
            # No -wal can be made beside it. Nobody else can then, so the file stands still while we read;
            # whether it does is looked at before each transaction.
            self._frozen = self._look()
            connection = self._connect("mode=ro&immutable=1")
            self.readonly = self.readonly or "its directory cannot be written"
        try:
            self.cluster = f"{self._judge(connection)}-{before[1]:x}"
            if before != _identity(self.path):
                raise StoreUnavailableError(f"the registry file {self.path} is being replaced: try again")
            if not self.readonly and not os.access(self.path, os.W_OK):
                self.readonly = "it belongs to another user or is write-protected"
            self._identity = before
            self._open_leases(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self) -> None:
        """Make the directory, the file and what lies beside it, as far as that is possible."""
        self.readonly = ""
        self._frozen = None
        directory = self.path.parent
        if directory == state_dir().absolute():
            ensure_private_dir(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            private_directory(self.run)
            ensure_file(self.path, self.run)
        except OSError as error:
            if not self.path.exists() or self.path.stat().st_size == 0:
                raise
            self.readonly = f"{error.filename or self.run}: {error.strerror}"

    def _connect(self, how: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?{how}",
            uri=True,
            isolation_level=None,
            timeout=0,
            cached_statements=64,
        )
        try:
            # FULL: what was acknowledged is on the disk, power loss included. The cache is small because an
            # agent's process should be.
            connection.executescript(
                "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA cache_size = -512; PRAGMA trusted_schema = OFF"
            )
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _judge(self, connection: sqlite3.Connection) -> str:
        """Return the id in the file, or raise if it is not a registry that this version reads."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StoreCorruptedError(
                f"{self.path} is the database of another application, not a registry: name another file in "
                "ROSTER_REGISTRY; nothing was changed in it"
            )
        if version != VERSION:
            raise StoreCorruptedError(
                f"the registry file {self.path} has the format {version}, this version of Roster reads {VERSION}: "
                "use one version of Roster for all, or name another file in ROSTER_REGISTRY; nothing was "
                "changed in it"
            )
        row = connection.execute("SELECT cluster FROM meta").fetchone()
        if row is None:
            raise self._damaged("its table meta is empty")
        return str(row[0])

    def _open_leases(self, connection: sqlite3.Connection) -> None:
        path = beside(self.path, "-leases")
        if self.leases is not None:
            self.leases.close()
            self.leases = None
        self.leases = LeaseFile.open(path, self.cluster, readonly=bool(self.readonly))
        if self.leases is not None or self.readonly:
            return
        # Under the write lock, so that one client makes it; the others find it. Every lease of before ends
        # by this.
        connection.execute("BEGIN IMMEDIATE")
        try:
            self.leases = LeaseFile.open(path, self.cluster) or LeaseFile.create(path, self.cluster)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            # Reads go on without it: no lease can be alive that it does not hold.
        finally:
            connection.execute("ROLLBACK")

    def _look(self) -> tuple[int, ...]:
        found = self.path.stat()
        return (found.st_mtime_ns, found.st_size, int(beside(self.path, "-wal").exists()))

    # -- words

    def _explain(self, error: sqlite3.Error) -> StoreError:
        if _is(error, _FULL):
            return self.full()
        if _is(error, _DAMAGED):
            return self._damaged(str(error))
        if _is(error, {sqlite3.SQLITE_READONLY}):
            return self._unwritable(str(error))
        if isinstance(error, sqlite3.OperationalError) and "no such" in str(error):
            return self._damaged(str(error))
        return StoreUnavailableError(f"SQLite cannot use the registry file {self.path}: {error}")

    def explain_os(self, error: OSError) -> StoreError:
        """Return the error to raise for one of the operating system."""
        if error.errno in _DISK_FULL:
            return self.full()
        return StoreUnavailableError(
            f"the registry file {self.path} cannot be used: {error.filename or ''}: {error.strerror}; give this user "
            "the rights, or name another file in ROSTER_REGISTRY"
        )

    def full(self) -> StoreError:
        """Return the error to raise when there is no room."""
        return StoreUnavailableError(
            f"disk full (or over a quota or limit) while writing the registry file {self.path}: nothing was changed, "
            "leases go on; free some space"
        )

    def _damaged(self, what: str) -> StoreError:
        return StoreCorruptedError(
            f"the registry file {self.path} is damaged ({what}): stop what uses it and delete it with its -wal, -shm "
            "and -leases (agents register again by themselves); nothing was changed in it"
        )

    def _unwritable(self, why: str) -> StoreError:
        return StoreUnavailableError(
            f"the registry file {self.path} can be read but not written ({why}): give this user the rights to the "
            "file and its directory, or name another file in ROSTER_REGISTRY"
        )


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _is(error: sqlite3.Error, codes: set[int]) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code in codes or (code & 0xFF) in codes
