"""What all clients of one `memory://` name share: entries, leases and the log of changes, in plain containers."""

from __future__ import annotations

import threading
import uuid
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from roster.errors import LeaseLostError, RevisionCompactedError
from roster.store import limits
from roster.store.base import Batch, Change, Check, Delete, Entry, Op, Put
from roster.store.watching import BATCH_BYTES, BATCH_CHANGES

# The changes kept for watches hold at most so many bytes of values, whatever their number.
HISTORY_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class LeaseState:
    """A lease as the space has it."""

    ttl: float
    deadline: float
    keys: set[str]


@dataclass(slots=True)
class Record:
    """The changes of one revision, and what stood there before (to show an older revision)."""

    changes: tuple[Change, ...]
    before: tuple[Entry | None, ...]
    size: int


class Wakeable(Protocol):
    """Whoever waits for changes."""

    def wake(self) -> None:
        """Be told that there is something new; from any thread, with the lock held."""
        ...


class Space:
    """What all clients of one name share. Every method is called with `lock` held, and none of them waits."""

    def __init__(self, name: str, history: int) -> None:
        self.name = name
        self.history = history
        self.lock = threading.Lock()
        self.cluster_id = uuid.uuid4().hex
        self.revision = 0
        self.compacted = 0
        self.clients = 0
        self.entries: dict[str, Entry] = {}
        self.keys: list[str] = []  # sorted; code point order is UTF-8 byte order
        self.log: list[Record] = []  # log[i] is revision compacted + 1 + i
        self.log_bytes = 0
        self.leases: dict[str, LeaseState] = {}
        self.leases_made = 0
        self.feeds: set[Wakeable] = set()

    def settle(self, now: float) -> None:
        """End the leases whose time is over; one revision a lease."""
        for lease_id in [i for i, lease in self.leases.items() if lease.deadline <= now]:
            self.end_lease(lease_id)

    def end_lease(self, lease_id: str) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            self.commit([Delete(key) for key in sorted(lease.keys)])

    def earliest(self) -> float:
        """Return the first deadline of a lease that holds keys."""
        return min((lease.deadline for lease in self.leases.values() if lease.keys), default=float("inf"))

    def check(self, checks: Sequence[Check]) -> None:
        for check in checks:
            entry = self.entries.get(check.key)
            found = entry.mod_revision if entry else 0
            if found != check.mod_revision:
                raise limits.conflict(check.key, check.mod_revision, found)

    def commit(self, ops: Sequence[Op]) -> int:
        """Do `ops` in one revision; what changes nothing costs none."""
        ops = [op for op in ops if isinstance(op, Put) or op.key in self.entries]
        for op in ops:
            if isinstance(op, Put) and op.lease is not None and op.lease not in self.leases:
                raise LeaseLostError(f"the lease {op.lease} has ended: grant another and write again")
        if not ops:
            return self.revision
        self.revision += 1
        before = tuple(self.entries.get(op.key) for op in ops)
        changes = tuple(self._apply(op, old) for op, old in zip(ops, before, strict=True))
        size = sum(len(change.value or b"") for change in changes)
        self.log.append(Record(changes, before, size))
        self.log_bytes += size
        self._compact()
        for feed in tuple(self.feeds):
            feed.wake()
        return self.revision

    def _apply(self, op: Op, old: Entry | None) -> Change:
        if old is not None and old.lease is not None and old.lease in self.leases:
            self.leases[old.lease].keys.discard(op.key)
        if isinstance(op, Delete):
            del self.entries[op.key]
            del self.keys[bisect_left(self.keys, op.key)]
            return Change("delete", op.key, self.revision)
        created = old.create_revision if old else self.revision
        if old is None:
            insort(self.keys, op.key)
        self.entries[op.key] = Entry(op.key, op.value, created, self.revision, op.lease)
        if op.lease is not None:
            self.leases[op.lease].keys.add(op.key)
        return Change("put", op.key, self.revision, op.value, created, op.lease)

    def _compact(self) -> None:
        extra = max(0, len(self.log) - self.history)
        if extra < 1 + self.history // 16 and self.log_bytes <= HISTORY_BYTES:
            return  # in strides: to cut the head off a list costs its length
        size = self.log_bytes - sum(record.size for record in self.log[:extra])
        while size > HISTORY_BYTES and extra < len(self.log) - 1:
            size -= self.log[extra].size
            extra += 1
        del self.log[:extra]
        self.log_bytes = size
        self.compacted += extra

    def at(self, revision: int) -> tuple[list[str], dict[str, Entry]]:
        """Return the sorted keys and the entries as they were at `revision`."""
        if revision == self.revision:
            return self.keys, self.entries
        self.require(revision, self.compacted)
        entries = dict(self.entries)
        for record in reversed(self.log[revision - self.compacted :]):
            for change, old in zip(record.changes, record.before, strict=True):
                if old is None:
                    entries.pop(change.key, None)
                else:
                    entries[change.key] = old
        return sorted(entries), entries

    def require(self, revision: int, lowest: int) -> None:
        if revision < lowest:
            raise RevisionCompactedError(
                f"the changes up to revision {self.compacted} are gone: list again", self.compacted
            )
        if revision > self.revision + (lowest > self.compacted):
            raise RevisionCompactedError(
                f"revision {revision} lies in the future of the store (now at {self.revision}): list again",
                self.revision,
            )

    def changes_after(self, position: int, prefix: str) -> Batch:
        self.require(position + 1, self.compacted + 1)
        changes: list[Change] = []
        size = 0
        reached = position
        for record in self.log[position - self.compacted :]:
            reached += 1
            for change in record.changes:
                if change.key.startswith(prefix):
                    changes.append(change)
                    size += len(change.value or b"")
            if len(changes) >= BATCH_CHANGES or size >= BATCH_BYTES:
                break
        return Batch(tuple(changes), reached)
