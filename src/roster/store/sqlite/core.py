"""What the SQLite engine does, one blocking call each: the file, its records and the leases brought together."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roster.errors import LeaseLostError, StoreCorruptedError
from roster.store.base import Batch, Change, Check, Delete, Entry, Op, Page, Put, StoreInfo
from roster.store.sqlite import records
from roster.store.sqlite.boot import boot_id
from roster.store.sqlite.census import Census, lease_name, lease_place
from roster.store.sqlite.database import Database
from roster.store.sqlite.holders import Examiner, Holder, forget, holders, is_dead
from roster.store.sqlite.leasefile import ENDED, LINGERING, SLOT, LeaseFile, Slot, glance, parse
from roster.store.sqlite.wakeups import (
    COMMITTED,
    LEASES,
    Caller,
    Listener,
    count_listeners,
    private_directory,
    wake_directory,
)
from roster.store.watching import BOOKMARK_IDLE

# How old a verdict "its holder lives" may be where many are asked at once; where one is asked, it is tested.
VERDICT_AGE = 1.0
# So many leases are ended by one transaction, so that other writers get their turn.
REAP_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease as it was granted: which, in which file, and until when."""

    cluster: str
    number: int
    slot: int
    ttl: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at all leases found.

    Attributes:
        ended: the leases that have ended and are still in the file, `(number, slot)`.
        earliest: when the next one ends unless it is renewed; infinite if there is none.
        count: how many leases there are.
    """

    ended: tuple[tuple[int, int], ...]
    earliest: float
    count: int


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one round of examining holders.

    Attributes:
        examined: whether this client is the one to do it.
        found: whether a holder is dead.
        candidates: how many watching clients there are to become the one.
    """

    examined: bool
    found: bool
    candidates: int


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
        self.now = now
        self._history = history
        self.database = Database(path, pause)
        self._census = Census(self.database.run, now)
        self._holder: Holder | None = None
        self._caller: Caller | None = None
        self._examiner: Examiner | None = None
        self.listener: Listener | None = None
        # Leases that have ended and whose keys could not be deleted; replaced, never changed, by the warden.
        self.unwritten: frozenset[str] = frozenset()
        self.known: frozenset[int] = frozenset()
        self._marked = False

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
        try:
            private_directory(self._wake_directory)
        except OSError as error:
            details.append(("wakeups", f"none, watches look every {BOOKMARK_IDLE:g} s: {error}"))
        for number, index in leases:
            slot = self.database.leases.read(index) if self.database.leases else None
            excess = self._census.far(slot) if slot and slot.number == number else None
            if slot and excess is not None:
                details.append(
                    (
                        f"lease {lease_name(number, index)}",
                        f"ends {excess:.0f} s later than its TTL of {slot.ttl:g} s allows: the clock of its holder, or of "
                        "this process, is wrong; it is left alone until that time",
                    )
                )
        return StoreInfo("sqlite", self.database.cluster, revision, compacted, tuple(details))

    def get(self, key: str) -> Entry | None:
        entry = self.database.read(lambda connection: records.get(connection, key))
        if entry is None or (entry.lease is not None and self._is_over(entry.lease)):
            return None
        return entry

    def list(self, prefix: str, limit: int, after: str | None, revision: int | None) -> Page:
        return self.database.read(
            lambda connection: records.page(connection, prefix, limit, after, revision, self._living)
        )

    def _living(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        places = {name: lease_place(name) for name in {entry.lease for entry in entries} if name is not None}
        if not places:
            return entries
        leases = self.database.leases
        if leases is None:
            return [entry for entry in entries if entry.lease is None]
        # Read after the entries: a lease granted later than the file was read would look like an ended one.
        raw = leases.read_all() if len(places) > 8 else None
        over = set()
        for name, place in places.items():
            if place is None:
                over.add(name)
                continue
            number, index = place
            slot = parse(raw, index * SLOT) if raw is not None else None
            slot = slot or leases.read(index)
            if self._census.judge(number, slot, max_age=VERDICT_AGE):
                over.add(name)
        return [entry for entry in entries if entry.lease not in over] if over else entries

    def _is_over(self, name: str, max_age: float = 0.0) -> bool:
        place = lease_place(name)
        return place is None or self._census.ended(self.database.leases, *place, max_age=max_age)

    # -- writing

    def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> tuple[int, bool]:
        """Do a transaction; return the revision and whether `ops` changed anything."""

        def job(connection: sqlite3.Connection) -> tuple[int, bool, bool]:
            writing = records.Writing(connection)
            self._settle(writing, [*(check.key for check in checks), *(op.key for op in ops)])
            writing.check(checks)
            for name in {op.lease for op in ops if isinstance(op, Put) and op.lease is not None}:
                self._require_alive(connection, name)
            before = writing.revision
            revision = writing.apply(ops)
            writing.finish(self._history)
            return revision, revision != before, writing.changed

        revision, did, changed = self.database.write(job)
        if changed:
            self.call(COMMITTED)
        return revision, did

    def _settle(self, writing: records.Writing, keys: Iterable[str]) -> None:
        """End the leases, among those that these keys are bound to, whose time is over."""
        for key in keys:
            row = writing.connection.execute("SELECT lease FROM kv WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] is not None and self._is_over(row[0]):
                self._end(writing, row[0])

    def _end(self, writing: records.Writing, name: str) -> None:
        """End a lease for good: the mark in the lease file first, for that can be written to a full disk too."""
        place = lease_place(name)
        if place is not None:
            number, index = place
            leases = self.database.leases
            slot = leases.read(index) if leases else None
            if leases and slot and slot.number == number and not slot.ended:
                leases.end(index, slot)
                self._marked = True
            writing.connection.execute("DELETE FROM leases WHERE number = ?", (number,))
        writing.apply([Delete(key) for key in records.bound_keys(writing.connection, name)])

    def _require_alive(self, connection: sqlite3.Connection, name: str) -> None:
        place = lease_place(name)
        found = (
            place
            and connection.execute("SELECT 1 FROM leases WHERE number = ? AND slot = ?", place).fetchone()
        )
        if not found or self._is_over(name):
            raise LeaseLostError(f"the lease {name!r} has ended: grant another and write again")

    # -- leases

    def grant(self, ttl: float, lingering: bool, sent: float) -> Grant:
        """Make a lease that ends `ttl` seconds after `sent`."""
        self.open()
        try:
            if self._holder is None and not self.database.readonly:
                private_directory(self.database.run)
                self._holder = Holder(self.database.run)
                self._census.own = self._holder.number
            holder = self._holder
        except OSError as error:
            raise self.database.explain_os(error) from error
        taken: list[tuple[LeaseFile, int, int]] = []

        def job(connection: sqlite3.Connection) -> Grant:
            leases = self.database.leases
            if leases is None or holder is None:
                raise self.database.full()
            index = self._free_slot(connection, leases)
            connection.execute("UPDATE meta SET leases = leases + 1")
            (number,) = connection.execute("SELECT leases FROM meta").fetchone()
            taken.append((leases, index, number))
            leases.grant(
                index, Slot(number, holder.number, boot_id(), ttl, lingering, False, sent + ttl, False)
            )
            connection.execute(
                "INSERT INTO leases (number, slot, ttl, lingering, holder) VALUES (?, ?, ?, ?, ?)",
                (number, index, ttl, lingering, holder.number),
            )
            return Grant(self.database.cluster, number, index, ttl, sent + ttl)

        try:
            return self.database.write(job)
        except BaseException:
            if taken:
                leases, index, number = taken[-1]
                leases.release(index, number)
            raise

    def _free_slot(self, connection: sqlite3.Connection, leases: LeaseFile) -> int:
        used = {index for (index,) in connection.execute("SELECT slot FROM leases")}
        raw = leases.read_all()
        for index in range(len(raw) // SLOT):
            if index not in used and self._census.reusable(parse(raw, index * SLOT)):
                return index
        leases.grow()
        return len(raw) // SLOT

    def renew(self, grant: Grant, deadline: float, sent: float) -> float:
        """Keep a lease alive; return its new deadline. Takes no lock, and runs in the worker's urgent lane.

        The clock is read before the write and after it: a process that stood still in between writes a
        deadline to a lease that others have ended, so it takes that back and reports the lease as lost.

        Raises:
            LeaseLostError: it has ended.
        """
        lost = LeaseLostError(f"the lease {lease_name(grant.number, grant.slot)} has ended: grant another")
        try:
            leases = self.database.leases
            if not self.database.still(grant.cluster) or leases is None or not leases.in_place():
                raise lost
            slot = leases.read(grant.slot)
            if slot is None or slot.number != grant.number or slot.ended:
                raise lost
            if self.now() < deadline:
                leases.renew(grant.slot, grant.number, sent + grant.ttl)
                slot = leases.read(grant.slot)
                if self.now() < deadline and slot and slot.number == grant.number and not slot.ended:
                    return sent + grant.ttl
            leases.release(grant.slot, grant.number)
        except OSError as error:
            raise self.database.explain_os(error) from error
        raise lost

    def revoke(self, grant: Grant) -> None:
        """End a lease and delete what is bound to it."""
        if self.database.cluster and self.database.cluster != grant.cluster:
            return  # its file is gone, and it went with it

        def job(connection: sqlite3.Connection) -> bool:
            writing = records.Writing(connection)
            self._end(writing, lease_name(grant.number, grant.slot))
            writing.finish(self._history)
            return writing.changed

        try:
            if self.database.write(job):
                self.call(COMMITTED)
        finally:
            # Even when the delete could not be written: nobody takes the lease for alive from here on.
            leases = self.database.leases
            slot = leases.read(grant.slot) if leases and self.database.cluster == grant.cluster else None
            if leases and slot and slot.number == grant.number:
                leases.release(grant.slot, grant.number)
                self.call(LEASES)

    def scan(self) -> Look:
        """Look at all leases."""
        rows = self.database.read(
            lambda connection: connection.execute("SELECT number, slot, ttl FROM leases").fetchall()
        )
        leases = self.database.leases
        slots = glance(leases.read_all()) if leases else []
        now, boot = self.now(), boot_id()
        ended = []
        earliest = float("inf")
        for number, index, ttl in rows:
            if index < len(slots):
                # Nearly all are alive, so that is what is asked first; two hundred processes ask it all the time.
                held, holder, born, _, flags, _, owner, deadline, marks, _ = slots[index]
                if (
                    held == owner == number
                    and born == boot
                    and deadline > now
                    and not (flags & ENDED or marks)
                    and (flags & LINGERING or not self._census.known_dead(holder))
                ):
                    earliest = min(earliest, deadline)
                    continue
            slot = leases.read(index) if leases else None
            if leases is None or self._census.judge(number, slot, max_age=float("inf"), ttl=ttl):
                ended.append((number, index))
            else:
                earliest = min(earliest, slot.deadline if slot else now + ttl)
        self.known = frozenset(number for number, _, _ in rows)
        return Look(tuple(ended), earliest, len(rows))

    def examine(self, patience: float) -> Round:
        """Test whether holders are dead, some at a time, if this client is the one to do it.

        Args:
            patience: seconds after which a silent examiner is not waited for.
        """
        now = self.now()
        if self._examiner is None and not self.database.readonly:
            try:
                self._examiner = Examiner(self.database.run)
            except OSError:
                pass  # then this client tests by itself
        if self._examiner is not None:
            if not self._examiner.elect(now, patience):
                return Round(False, False, count_listeners(self._wake_directory))
            self._examiner.note(now)
        query = "SELECT DISTINCT holder FROM leases WHERE NOT lingering"
        rows = self.database.read(lambda connection: connection.execute(query).fetchall())
        return Round(True, self._census.refresh(holder for (holder,) in rows), 1)

    def retire(self) -> None:
        """Leave the examination of holders to others: nobody watches here any more."""
        examiner, self._examiner = self._examiner, None
        if examiner is not None:
            examiner.close()

    def reap(self, ended: Sequence[tuple[int, int]]) -> None:
        """Delete what is bound to these leases, one revision a lease, and forget them.

        Each is judged once more under the write lock: of two who reap, one finds the work done.

        Raises:
            StoreUnavailableError: nothing can be written.
        """
        for first in range(0, len(ended), REAP_AT_ONCE):
            some = ended[first : first + REAP_AT_ONCE]

            def job(connection: sqlite3.Connection, some: Sequence[tuple[int, int]] = some) -> bool:
                writing = records.Writing(connection)
                for number, index in some:
                    row = connection.execute("SELECT ttl FROM leases WHERE number = ?", (number,)).fetchone()
                    if row and self._census.ended(self.database.leases, number, index, ttl=row[0]):
                        self._end(writing, lease_name(number, index))
                writing.finish(self._history)
                return writing.changed

            self._marked = False
            try:
                changed = self.database.write(job)
            except BaseException:
                # The marks in the lease file are set: let the others look, once.
                if self._marked:
                    self.call(LEASES)
                raise
            if changed:
                self.call(COMMITTED)
        self._sweep()

    def _sweep(self) -> None:
        """Remove the files of holders that are dead and hold nothing."""
        rows = self.database.read(
            lambda connection: connection.execute("SELECT DISTINCT holder FROM leases").fetchall()
        )
        held = {holder for (holder,) in rows}
        for holder in holders(self.database.run):
            if holder not in held and is_dead(self.database.run, holder):
                forget(self.database.run, holder)

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
            except OSError:
                pass  # said by info()

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
        met = any(self._is_news(change.lease) for change in told if change.lease is not None)
        return Batch(tuple(told), revision), Shown(shown.cluster, frozenset(keys)), met

    def _is_news(self, name: str) -> bool:
        place = lease_place(name)
        return place is not None and place[0] not in self.known

    # -- the end

    def close(self) -> Holder | None:
        """Close everything; the holder is returned, for its leases are left to run out."""
        self.database.close()
        self.retire()
        self.deafen()
        if self._caller is not None:
            self._caller.close()
            self._caller = None
        holder, self._holder = self._holder, None
        return holder
