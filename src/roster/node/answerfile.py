"""The file of the answers that a node keeps: one small SQLite database, bounded in age, number and size.

A rollback journal and not a write-ahead log: reading must work on a full disk, where a log's index cannot be made.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from roster._paths import ensure_private_dir

logger = logging.getLogger("roster.node")

MAX_ANSWERS = 10_000
MAX_BYTES = 64 * 1024 * 1024
_LOCK_SECONDS = 2.0
_PRUNED_AT_ONCE = 64
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer.

    Attributes:
        params: digest of the params of the first use.
        ok: whether it is a result; else it is an error.
        data: the message's data, JSON.
    """

    params: bytes
    ok: bool
    data: bytes


class AnswerFile:
    """The file; without a path it is in memory. Used by one thread at a time.

    Every method may raise `OSError`, `ConfigError` or `sqlite3.Error`.
    """

    def __init__(self, path: Path | None, *, window: float, boot: bytes, now: Callable[[], float]) -> None:
        self._path = path
        self._window = window
        self._boot = boot
        self._now = now
        self._open_: sqlite3.Connection | None = None
        self._opened_as: tuple[int, int] | None = None
        self._count = self._bytes = 0

    def find(self, scope: bytes) -> Kept | None:
        """Return the answer kept for a scope."""
        rows = self._db().execute("SELECT params, ok, data, boot, at FROM answers WHERE scope = ?", (scope,))
        row = rows.fetchone()
        if row is None or (row[3] == self._boot and self._now() - row[4] >= self._window):
            return None
        return Kept(row[0], bool(row[1]), row[2])

    def keep(self, answers: list[tuple[bytes, Kept, float]]) -> None:
        """Write answers, each with the time of its making: all of them, or none."""
        db = self._db()
        db.execute("BEGIN IMMEDIATE")
        try:
            for scope, kept, at in answers:
                self._forget(db, scope)
                db.execute(
                    "INSERT INTO answers (scope, size, boot, at, params, ok, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (scope, len(kept.data), self._boot, at, kept.params, kept.ok, kept.data),
                )
                self._count += 1
                self._bytes += len(kept.data)
            self._prune(db)
            db.execute("COMMIT")
        except BaseException:
            self._undo(db)
            raise

    def forget(self, scope: bytes) -> None:
        """Remove an answer."""
        self._forget(self._db(), scope)

    def close(self) -> None:
        """Close it."""
        if self._open_ is not None:
            self._open_.close()
            self._open_ = None

    def _forget(self, db: sqlite3.Connection, scope: bytes) -> None:
        for (size,) in db.execute("DELETE FROM answers WHERE scope = ? RETURNING size", (scope,)).fetchall():
            self._count -= 1
            self._bytes -= size

    def _prune(self, db: sqlite3.Connection) -> None:
        """Remove what is too old, then the oldest of what is too much."""
        while True:
            rows = db.execute(
                "SELECT id, size, at FROM answers ORDER BY id LIMIT ?", (_PRUNED_AT_ONCE,)
            ).fetchall()
            gone = 0
            for number, size, at in rows:
                full = self._count > MAX_ANSWERS or self._bytes > MAX_BYTES
                if not full and self._now() - at < self._window:
                    break
                db.execute("DELETE FROM answers WHERE id = ?", (number,))
                self._count -= 1
                self._bytes -= size
                gone += 1
            if gone < _PRUNED_AT_ONCE:
                return

    def _undo(self, db: sqlite3.Connection) -> None:
        try:
            db.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # after some failures SQLite has rolled back by itself
        self.close()  # the next use opens it anew, and counts anew

    def _db(self) -> sqlite3.Connection:
        if self._open_ is not None and self._identity() != self._opened_as:
            logger.error(
                "the file of kept answers %s was removed or replaced: what it kept is lost", self._path
            )
            self.close()
        if self._open_ is None:
            self._open_ = self._opened()
            self._opened_as = self._identity()
        return self._open_

    def _identity(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            info = self._path.stat()
        except FileNotFoundError:
            return None
        return info.st_dev, info.st_ino

    def set_aside(self, error: Exception) -> None:
        """Begin anew: this is no database, or a damaged one. What it kept is lost, and that must not go on for ever."""
        self.close()
        if self._path is None:
            return
        damaged = self._path.with_suffix(".damaged")
        self._path.replace(damaged)
        self._path.with_name(self._path.name + "-journal").unlink(missing_ok=True)
        logger.error(
            "the kept answers in %s cannot be read (%s): moved to %s, and begun anew",
            self._path,
            error,
            damaged.name,
        )

    def _opened(self) -> sqlite3.Connection:
        if self._path is not None:
            ensure_private_dir(self._path.parent)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(
            self._path or ":memory:", timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA journal_mode = PERSIST")
            (schema,) = db.execute("PRAGMA user_version").fetchone()
            if schema == 0:
                db.execute("BEGIN IMMEDIATE")
                db.execute(
                    "CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY AUTOINCREMENT, scope BLOB NOT NULL UNIQUE,"
                    " size INTEGER NOT NULL, boot BLOB NOT NULL, at REAL NOT NULL, params BLOB NOT NULL,"
                    " ok INTEGER NOT NULL, data BLOB NOT NULL)"
                )
                db.execute(f"PRAGMA user_version = {_SCHEMA}")
                db.execute("COMMIT")
            elif schema != _SCHEMA:
                raise sqlite3.DatabaseError(f"its schema is {schema}, this program knows {_SCHEMA}")
            self._count, self._bytes = db.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM answers"
            ).fetchone()
            try:
                db.execute(
                    "UPDATE answers SET boot = ?, at = ? WHERE boot != ?",
                    (self._boot, self._now(), self._boot),
                )
            except sqlite3.OperationalError as error:
                # On a full disk. `find` takes what is of another boot as it is.
                logger.warning("the answers kept before this boot cannot be marked as such: %s", error)
        except BaseException:
            db.close()
            raise
        return db
