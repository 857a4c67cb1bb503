"""What the SQLite engine does, one blocking call each: the file, its records and the leases brought together."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roster.errors import StoreCorruptedError
from roster.store.base import Batch, Change, Check, Entry, Op, Page, Put, StoreInfo
from roster.store.sqlite import records
from roster.store.sqlite.database import Database
from roster.store.sqlite.holders import Holder
from roster.store.sqlite.leases import LeaseDesk
from roster.store.sqlite.wakeups import COMMITTED, Caller, Listener, private_directory, wake_directory
from roster.store.watching import BOOKMARK_IDLE


@dataclass(slots=True)
class Shown:
    """What a watch has shown ahead of the log: deletes that could not be written yet.

    Attributes:
        cluster: the file that the watch follows.
        keys: whose delete was shown.
    """

    cluster: str
    keys: frozenset[str] = field(default_factory=frozenset)


class Core:
    """One client of the file. Every method blocks and runs on the worker thread.

    Args:
        path: the database, absolute.
        history: revisions kept for watches.
        now: the clock that leases run by, seconds.
        pause: waits so many seconds on the worker thread.
    """

    def __init__(
        self, path: str, history: int, now: Callable[[], float], pause: Callable[[float], None]
    ) -> None:
        self.database = Database(path, pause)
        self.leases = LeaseDesk(self.database, history, now, self.call)
        self._history = history
        self._caller: Caller | None = None
        self.listener: Listener | None = None
        # Leases that have ended and whose keys could not be deleted; replaced, never changed, by the warden.
        self.unwritten: frozenset[str] = frozenset()
        self._deaf = ""

    @property
    def _wake_directory(self) -> Path:
        return wake_directory(self.database.path, self.database.run)

    # -- reading

    def open(self) -> str:
        """Open the file if it is not open, and return its id."""
        self.database.read(lambda _: None)
        return self.database.cluster

    def info(self) -> StoreInfo:
        def job(connection: sqlite3.Connection) -> tuple[records.Meta, int, list[tuple[int, int]]]:
            (keys,) = connection.execute("SELECT count(*) FROM kv").fetchone()
            leases = connection.execute("SELECT number, slot FROM leases").fetchall()
            return records.meta(connection), keys, leases

        (revision, compacted), keys, leases = self.database.read(job)
        details = [
            ("file", str(self.database.path)),
            ("sqlite", sqlite3.sqlite_version),
            ("keys", str(keys)),
            ("leases", str(len(leases))),
        ]
        if self.database.readonly:
            details.append(("readonly", self.database.readonly))
        if self._deaf:
            details.append(("wakeups", f"none, watches look every {BOOKMARK_IDLE:g} s: {self._deaf}"))
        details += self.leases.suspicious(leases)
        return StoreInfo("sqlite", self.database.cluster, revision, compacted, tuple(details))

    def get(self, key: str) -> Entry | None:
        entry = self.database.read(lambda connection: records.get(connection, key))
        if entry is None or (entry.lease is not None and self.leases.is_over(entry.lease)):
            return None
        return entry

    def list(self, prefix: str, limit: int, after: str | None, revision: int | None) -> Page:
        return self.database.read(
            lambda connection: records.page(connection, prefix, limit, after, revision, self.leases.living)
        )

    # -- writing

    def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> tuple[int, bool]:
        """Do a transaction; return the revision and whether `ops` changed anything."""

        def job(connection: sqlite3.Connection) -> tuple[int, bool, bool]:
            writing = records.Writing(connection)
            self.leases.settle(writing, [*(check.key for check in checks), *(op.key for op in ops)])
            writing.check(checks)
            for name in {op.lease for op in ops if isinstance(op, Put) and op.lease is not None}:
                self.leases.require_alive(connection, name)
            before = writing.revision
            revision = writing.apply(ops)
            writing.finish(self._history)
            return revision, revision != before, writing.changed

        revision, did, changed = self.database.write(job)
        if changed:
            self.call(COMMITTED)
        return revision, did

    # -- watching

    def call(self, word: bytes) -> None:
        """Wake whoever listens."""
        if self._caller is None:
            self._caller = Caller(self._wake_directory)
        self._caller.call(word)

    def listen(self) -> None:
        """Open the socket to be woken by, if that can be: otherwise looking now and then must do."""
        self.open()
        if self.listener is None:
            try:
                private_directory(self._wake_directory)
                self.listener = Listener(self._wake_directory)
                self._deaf = ""
            except OSError as error:
                self._deaf = str(error)  # info() says so

    def deafen(self) -> None:
        """Close that socket."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.close()

    def begin(self, from_revision: int) -> Shown:
        """Begin a watch, or raise `RevisionCompactedError`."""

        def job(connection: sqlite3.Connection) -> None:
            now = records.meta(connection)
            records.require(now, from_revision, now.compacted + 1, now.revision + 1)

        self.database.read(job)
        return Shown(self.database.cluster)

    def pull(self, position: int, prefix: str, shown: Shown) -> tuple[Batch, Shown, bool]:
        """Return what a watch shows next, what it has then shown ahead, and whether a lease was met that is new."""
        unwritten = self.unwritten

        def job(connection: sqlite3.Connection) -> tuple[list[Change], int, list[str]]:
            if self.database.cluster != shown.cluster:
                raise StoreCorruptedError(
                    f"the registry file {self.database.path} was replaced: list again and register again"
                )
            changes, revision = records.changes_after(connection, position, prefix)
            ahead = []
            if unwritten and not changes:
                for name in unwritten:
                    ahead += [key for key in records.bound_keys(connection, name) if key.startswith(prefix)]
            return changes, revision, ahead

        changes, revision, ahead = self.database.read(job)
        if not changes and not ahead:
            return Batch((), revision), shown, False
        keys = set(shown.keys)
        fresh = [key for key in ahead if key not in keys]
        told = [change for change in changes if not (change.type == "delete" and change.key in keys)]
        keys.difference_update(change.key for change in changes)
        keys.update(fresh)
        told += [Change("delete", key, revision) for key in fresh]
        met = any(self.leases.is_news(change.lease) for change in told if change.lease is not None)
        return Batch(tuple(told), revision), Shown(shown.cluster, frozenset(keys)), met

    # -- the end

    def close(self) -> Holder | None:
        """Close everything; the holder is returned, for its leases are left to run out."""
        self.database.close()
        self.deafen()
        if self._caller is not None:
            self._caller.close()
            self._caller = None
        return self.leases.close()
