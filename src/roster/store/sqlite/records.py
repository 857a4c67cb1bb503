"""The SQL of the registry file: entries, the log of changes, and its compaction. Leases are judged elsewhere."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from roster.errors import RevisionCompactedError
from roster.store import limits
from roster.store.base import Change, Check, Delete, Entry, Op, Page, Put
from roster.store.watching import BATCH_BYTES, BATCH_CHANGES

# The log keeps at most so many bytes of values, and in any case the newest revisions.
HISTORY_BYTES = 64 * 1024 * 1024
HISTORY_LEAST = 256
# A writer measures the log about once for so many bytes that it writes.
_MEASURE_EVERY = 4 * 1024 * 1024
# At most so many revisions are compacted by one write, so that no write takes long.
_COMPACT_AT_ONCE = 1000
# No key of 512 bytes sorts behind its prefix followed by these.
_LAST = "\U0010ffff" * 128

_GET = """SELECT kv.key, log.value, kv.created, kv.revision, kv.lease
    FROM kv JOIN log ON log.seq = kv.seq WHERE kv.key = ?"""
_LIST = """SELECT kv.key, log.value, kv.created, kv.revision, kv.lease
    FROM kv JOIN log ON log.seq = kv.seq
    WHERE kv.key >= ? AND kv.key <= ? AND kv.key > ? ORDER BY kv.key"""
_LIST_AT = """SELECT key, value, created, revision, lease FROM log AS one
    WHERE key >= ? AND key <= ? AND key > ? AND value IS NOT NULL
    AND revision = (SELECT max(revision) FROM log WHERE key = one.key AND revision <= ?) ORDER BY key"""
_CHANGES = """SELECT revision, key, value, created, lease FROM log INDEXED BY log_revision
    WHERE revision > ? AND +key >= ? AND +key <= ? ORDER BY revision, seq"""


class Meta(NamedTuple):
    """The counters of the file."""

    revision: int
    compacted: int


def meta(connection: sqlite3.Connection) -> Meta:
    """Return the counters as this transaction sees them."""
    return Meta(*connection.execute("SELECT revision, compacted FROM meta").fetchone())


def require(now: Meta, revision: int, lowest: int, highest: int) -> None:
    """Raise `RevisionCompactedError` unless a revision is still, and already, there."""
    if revision < lowest:
        raise RevisionCompactedError(
            f"the changes up to revision {now.compacted} are gone: list again", now.compacted
        )
    if revision > highest:
        raise RevisionCompactedError(
            f"revision {revision} lies in the future of this store (now at {now.revision}): list again",
            now.revision,
        )


def get(connection: sqlite3.Connection, key: str) -> Entry | None:
    """Return one entry."""
    row = connection.execute(_GET, (key,)).fetchone()
    return Entry(*row) if row else None


def page(
    connection: sqlite3.Connection,
    prefix: str,
    limit: int,
    after: str | None,
    revision: int | None,
    living: Callable[[Sequence[Entry]], Sequence[Entry]],
) -> Page:
    """Return a page of a listing.

    Args:
        living: leaves out what is bound to an ended lease; called with entries that were read before.
    """
    now = meta(connection)
    shown = now.revision if revision is None else revision
    bounds: tuple[object, ...] = (prefix, prefix + _LAST, after or "")
    if shown == now.revision:
        cursor = connection.execute(_LIST, bounds)
    else:
        require(now, shown, now.compacted, now.revision)
        cursor = connection.execute(_LIST_AT, (*bounds, shown))
    found: list[Entry] = []
    for some in _chunks(cursor, limit + 1 if limit else 1000):
        found.extend(living(some))
        if limit and len(found) > limit:
            return Page(tuple(found[:limit]), shown, found[limit - 1].key)
    return Page(tuple(found), shown)


def _chunks(cursor: sqlite3.Cursor, size: int) -> Iterator[list[Entry]]:
    while rows := cursor.fetchmany(size):
        yield [Entry(*row) for row in rows]


def changes_after(connection: sqlite3.Connection, position: int, prefix: str) -> tuple[list[Change], int]:
    """Return changes under a prefix, whole revisions only, and up to which revision that is all.

    Raises:
        RevisionCompactedError: `position + 1` is no longer kept, or lies in the future.
    """
    now = meta(connection)
    require(now, position + 1, now.compacted + 1, now.revision + 1)
    changes: list[Change] = []
    if position == now.revision:
        return changes, position
    size = 0
    for revision, key, value, created, lease in connection.execute(
        _CHANGES, (position, prefix, prefix + _LAST)
    ):
        if (len(changes) >= BATCH_CHANGES or size >= BATCH_BYTES) and changes[-1].revision != revision:
            return changes, changes[-1].revision
        if value is None:
            changes.append(Change("delete", key, revision))
        else:
            changes.append(Change("put", key, revision, value, created, lease))
            size += len(value)
    return changes, now.revision


def bound_keys(connection: sqlite3.Connection, lease: str) -> list[str]:
    """Return the keys that are bound to a lease."""
    return [key for (key,) in connection.execute("SELECT key FROM kv WHERE lease = ? ORDER BY key", (lease,))]


class Writing:
    """The changes that one write transaction makes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.revision, self._compacted = meta(connection)
        self._before = self.revision
        self._bytes = 0

    @property
    def changed(self) -> bool:
        """Whether there is a new revision."""
        return self.revision != self._before

    def check(self, checks: Sequence[Check]) -> None:
        """Raise `ConflictError` for the first check that does not hold."""
        for check in checks:
            row = self.connection.execute("SELECT revision FROM kv WHERE key = ?", (check.key,)).fetchone()
            found = row[0] if row else 0
            if found != check.mod_revision:
                raise limits.conflict(check.key, check.mod_revision, found)

    def apply(self, ops: Sequence[Op]) -> int:
        """Do `ops` in one new revision, unless they change nothing; return the revision."""
        new = self.revision + 1
        for op in ops:
            if isinstance(op, Delete):
                if self.connection.execute("DELETE FROM kv WHERE key = ?", (op.key,)).rowcount:
                    self._log(new, op, 0)
                    self.revision = new
            else:
                self._put(new, op)
                self.revision = new
        return self.revision

    def _put(self, revision: int, op: Put) -> None:
        row = self.connection.execute("SELECT created FROM kv WHERE key = ?", (op.key,)).fetchone()
        created = row[0] if row else revision
        seq = self._log(revision, op, created)
        self.connection.execute(
            "REPLACE INTO kv (key, seq, created, revision, lease) VALUES (?, ?, ?, ?, ?)",
            (op.key, seq, created, revision, op.lease),
        )
        self._bytes += len(op.value)

    def _log(self, revision: int, op: Op, created: int) -> int | None:
        value, lease = (op.value, op.lease) if isinstance(op, Put) else (None, None)
        return self.connection.execute(
            "INSERT INTO log (revision, key, value, created, lease) VALUES (?, ?, ?, ?, ?)",
            (revision, op.key, value, created, lease),
        ).lastrowid

    def finish(self, history: int) -> None:
        """Write the counters down, and now and then forget what nobody may ask for any more."""
        if not self.changed:
            return
        kept = self.revision - self._compacted
        upto = self._compacted
        if kept >= history + max(1, min(256, history // 16)):
            upto = self.revision - history
        if kept > HISTORY_LEAST and random.random() * _MEASURE_EVERY < self._bytes:  # noqa: S311 - a sample
            upto = max(upto, self._over_bytes())
        upto = min(upto, self._compacted + _COMPACT_AT_ONCE)
        if upto > self._compacted:
            self._compact(upto)
        self.connection.execute(
            "UPDATE meta SET revision = ?, compacted = ?", (self.revision, self._compacted)
        )

    def _over_bytes(self) -> int:
        """Return the newest revision that does not fit into the bytes that the log may keep."""
        size = 0
        rows = self.connection.execute(
            "SELECT revision, length(value) FROM log INDEXED BY log_revision "
            "WHERE revision > ? ORDER BY revision DESC",
            (self._compacted,),
        )
        for revision, length in rows:
            size += length or 0
            if size > HISTORY_BYTES:
                return min(int(revision), self.revision - HISTORY_LEAST)
        return 0

    def _compact(self, upto: int) -> None:
        # Only a change that is itself old enough makes an older row of its key superfluous, so nothing but
        # the changes since the last compaction is looked at. A delete at the end of that span leaves
        # nothing of its key.
        newest = self.connection.execute(
            "SELECT key, max(revision), value IS NULL FROM log INDEXED BY log_revision "
            "WHERE revision > ? AND revision <= ? GROUP BY key",
            (self._compacted, upto),
        ).fetchall()
        self.connection.executemany(
            "DELETE FROM log WHERE key = ? AND revision < ?",
            [(key, revision + bool(deleted)) for key, revision, deleted in newest],
        )
        self._compacted = upto
