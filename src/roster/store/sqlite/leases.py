"""Leases over the registry file: who may have one, who has lost it, and what is deleted for it. Everything blocks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from roster.errors import LeaseLostError
from roster.store.base import Delete, Entry
from roster.store.sqlite import records
from roster.store.sqlite.boot import boot_id
from roster.store.sqlite.census import Census, lease_name, lease_place
from roster.store.sqlite.database import Database
from roster.store.sqlite.holders import Examiner, Holder, forget, holders, is_dead
from roster.store.sqlite.leasefile import ENDED, LINGERING, SLOT, LeaseFile, Slot, glance, parse
from roster.store.sqlite.wakeups import COMMITTED, LEASES, count_listeners, private_directory, wake_directory

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


class LeaseDesk:
    """One client's dealings with leases. Every method blocks and runs on the worker thread.

    Args:
        database: the open file.
        history: revisions kept for watches.
        now: the clock that leases run by, seconds.
        call: wakes whoever listens.

    Attributes:
        known: the leases that the last look has met.
    """

    def __init__(
        self, database: Database, history: int, now: Callable[[], float], call: Callable[[bytes], None]
    ) -> None:
        self.now = now
        self.database = database
        self.known: frozenset[int] = frozenset()
        self._history = history
        self._call = call
        self._census = Census(database.run, now)
        self._holder: Holder | None = None
        self._examiner: Examiner | None = None
        self._marked = False

    # -- judging

    def living(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Leave out what is bound to an ended lease."""
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

    def is_over(self, name: str, max_age: float = 0.0) -> bool:
        """Return whether a lease has ended; its holder is tested if the last test is older than `max_age` seconds."""
        place = lease_place(name)
        return place is None or self._census.ended(self.database.leases, *place, max_age=max_age)

    def suspicious(self, leases: Iterable[tuple[int, int]]) -> list[tuple[str, str]]:
        """Return, for people, the leases whose deadline no honest clock can have set."""
        found = []
        for number, index in leases:
            slot = self.database.leases.read(index) if self.database.leases else None
            excess = self._census.far(slot) if slot and slot.number == number else None
            if slot and excess is not None:
                text = (
                    f"ends {excess:.0f} s later than its TTL of {slot.ttl:g} s allows: the clock of its holder, or of "
                    "this process, is wrong; it is left alone until that time"
                )
                found.append((f"lease {lease_name(number, index)}", text))
        return found

    def is_news(self, name: str) -> bool:
        """Return whether the last look has not met this lease."""
        place = lease_place(name)
        return place is not None and place[0] not in self.known

    # -- inside write transactions

    def settle(self, writing: records.Writing, keys: Iterable[str]) -> None:
        """End the leases, among those that these keys are bound to, whose time is over."""
        for key in keys:
            row = writing.connection.execute("SELECT lease FROM kv WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] is not None and self.is_over(row[0]):
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

    def require_alive(self, connection: sqlite3.Connection, name: str) -> None:
        """Raise `LeaseLostError` unless something may be put under this lease."""
        place = lease_place(name)
        found = (
            place
            and connection.execute("SELECT 1 FROM leases WHERE number = ? AND slot = ?", place).fetchone()
        )
        if not found or self.is_over(name):
            raise LeaseLostError(f"the lease {name!r} has ended: grant another and write again")

    # -- leases

    def grant(self, ttl: float, lingering: bool, sent: float) -> Grant:
        """Make a lease that ends `ttl` seconds after `sent`."""
        self.database.read(lambda _: None)  # open it
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
                self._call(COMMITTED)
        finally:
            # Even when the delete could not be written: nobody takes the lease for alive from here on.
            leases = self.database.leases
            slot = leases.read(grant.slot) if leases and self.database.cluster == grant.cluster else None
            if leases and slot and slot.number == grant.number:
                leases.release(grant.slot, grant.number)
                self._call(LEASES)

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
                return Round(
                    False, False, count_listeners(wake_directory(self.database.path, self.database.run))
                )
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
                    self._call(LEASES)
                raise
            if changed:
                self._call(COMMITTED)
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

    def close(self) -> Holder | None:
        """Let go of everything but the proof of life, which is returned: leases are left to run out."""
        self.retire()
        holder, self._holder = self._holder, None
        return holder
