"""Which steps a transaction takes on ZooKeeper, given what the znodes look like now. Pure: no server here.

Each step names the version of the znode that it was planned for, so that the server refuses all of them if somebody wrote
meanwhile, and they are planned anew. A version alone does not tell a znode from its successor of the same name: that begins
at 0 again. So each directory has a counter, a znode called `%births`: whoever makes a znode for a key raises it in the same
transaction, and whoever counts on the version of a key counts on the counter's as well. Those who create and delete keys by
other tools do not raise it: their deleting and recreating a key between our reading and our writing, a few milliseconds, to
the very same version, goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from roster.errors import LeaseLostError, LimitError
from roster.store import limits
from roster.store.base import Check, Op, Put
from roster.store.zookeeper.names import BIRTHS, directory_of, to_data, to_path, under
from roster.store.zookeeper.packets import Create, Remove, Set, Stat, Step, Verify

PERSISTENT = 0
_CONTAINER = -(2**63)
_TTL = 0xFF
_ALL = 2**64 - 1


def owner_of(stat: Stat) -> int:
    """Return the number of the session that a znode is bound to; 0 if it is bound to none.

    Containers and znodes with a TTL have a mark in its place.

    Source: `EphemeralType` in ZooKeeper's server
    """
    kind = (stat.owner & _ALL) >> 56
    return PERSISTENT if stat.owner == _CONTAINER or kind == _TTL else stat.owner


def lease_of(session: int) -> str | None:
    """Return the id of the lease that a session is, as zkCli shows it; None for no session."""
    return f"{session & _ALL:x}" if session else None


def session_of(lease: str) -> int | None:
    """Return the session that a lease's id names; None if it names none."""
    if not 0 < len(lease) <= 16 or lease.startswith("0") or not set(lease) <= set("0123456789abcdef"):
        return None
    number = int(lease, 16)
    return number - 2**64 if number >= 2**63 else number


@dataclass(slots=True)
class Seen:
    """The znodes that a transaction touches.

    Attributes:
        znodes: by path, None where there is none.
        births: the counters by directory, None where there is none.
        missing: of directories without a counter: which znodes on the way to them are missing, topmost first.
    """

    znodes: dict[str, Stat | None] = field(default_factory=dict)
    births: dict[str, Stat | None] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def key(self, path: str) -> Stat | None:
        """Return the znode of a key; None if there is none, or a directory only."""
        stat = self.znodes[path]
        return stat if stat is not None and stat.length else None

    def revision(self, path: str) -> int:
        """Return a key's `mod_revision`, 0 if it is absent."""
        stat = self.key(path)
        return stat.mzxid if stat is not None else 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        steps: none if there is nothing to do.
        session: whose session has to do it; None: whosesoever.
    """

    steps: tuple[Step, ...]
    session: int | None


def plan(
    checks: Sequence[Check], ops: Sequence[Op], seen: Seen, bindings: dict[str, int], own: set[int]
) -> Plan:
    """Return how to do `ops` if `checks` hold.

    Args:
        checks: conditions.
        ops: writes.
        seen: the znodes.
        bindings: the sessions that the leases of `ops` are, by id; 0: keys under it are bound to none.
        own: those of them that we can act as.

    Raises:
        ConflictError: a check does not hold.
        LeaseLostError: a put names a lease that is not ours and does not hold the key either.
        LimitError: ZooKeeper cannot do it in one transaction.
    """
    for check in checks:
        found = seen.revision(to_path(check.key))
        if found != check.mod_revision:
            raise limits.conflict(check.key, check.mod_revision, found)
    draft = _Draft(seen, own, [to_path(op.key) for op in ops])
    for op in ops:
        path = to_path(op.key)
        if isinstance(op, Put):
            draft.put(op, path, bindings[op.lease] if op.lease is not None else PERSISTENT)
        else:
            draft.delete(path)
    # What one look saw needs no confirmation where nothing is written.
    if draft.writes or len(checks) > 1:
        for path in [to_path(each.key) for each in (*checks, *ops)]:
            draft.confirm(path)
        return draft.plan()
    return Plan((), None)


class _Draft:
    """The steps of one transaction while they are collected."""

    def __init__(self, seen: Seen, own: set[int], paths: Sequence[str]) -> None:
        self._seen = seen
        self._own = own
        self._paths = paths
        self._confirmed: set[str] = set()
        self._counted: set[str] = set()  # directories in which a key's version is relied on
        self._born: set[str] = set()  # directories in which a key is made
        self._first: list[Step] = []
        self._removes: list[Step] = []
        self._creates: dict[str, Create] = {}
        self._sets: list[Step] = []
        self._session: int | None = None

    @property
    def writes(self) -> bool:
        """Whether anything is written."""
        return bool(self._removes or self._creates or self._sets)

    def put(self, op: Put, path: str, owner: int) -> None:
        """Write a key, bound to a session or to none."""
        stat = self._seen.znodes[path]
        held = stat is not None and owner_of(stat) == owner
        if owner not in self._own and owner != PERSISTENT and not (held and self._seen.key(path)):
            raise LeaseLostError(f"the lease {op.lease} has ended, or is another client's: grant another")
        self._confirmed.add(path)
        if stat is None or not held:
            if stat is not None:
                if stat.children:
                    raise LimitError(
                        f"{op.key!r} has keys below it, or had: ZooKeeper cannot bind it to a lease; choose another key"
                    )
                self._counted.add(directory_of(path))
                self._removes.append(Remove(path, stat.version))
            self._create(path, owner)
            # Never at the version of a directory, 0: see the module on what a version tells.
            self._sets.append(Set(path, to_data(op.value), 0))
        else:
            self._counted.add(directory_of(path))
            self._sets.append(Set(path, to_data(op.value), stat.version))
            if not stat.length:
                self._born.add(directory_of(path))

    def _create(self, path: str, owner: int) -> None:
        if owner != PERSISTENT:
            if self._session not in (None, owner):
                raise LimitError(
                    "ZooKeeper binds the new keys of one transaction to one lease: write one after the other"
                )
            self._session = owner
        self._creates[path] = Create(path, ephemeral=owner != PERSISTENT)
        self._born.add(directory_of(path))

    def delete(self, path: str) -> None:
        """Delete a key; below it nothing changes."""
        stat = self._seen.key(path)
        if stat is None:
            return
        self._confirmed.add(path)
        self._counted.add(directory_of(path))
        if stat.children or any(other.startswith(path + "/") for other in self._paths):
            self._sets.append(Set(path, b"", stat.version))
        else:
            self._removes.append(Remove(path, stat.version))

    def confirm(self, path: str) -> None:
        """Have all fail unless a znode is as it was seen; those that are written are confirmed by that."""
        if path in self._confirmed:
            return
        self._confirmed.add(path)
        stat = self._seen.znodes[path]
        directory = directory_of(path)
        if stat is not None:
            self._counted.add(directory)
            self._first.append(Verify(path, stat.version))
            return
        # What can be made is not there. Where its directory is missing the topmost missing one tells the same.
        absent = next(iter(self._seen.missing.get(directory, ())), path)
        self._first += [Create(absent), Remove(absent, 0)]

    def plan(self) -> Plan:
        """Return the steps in the order in which each is possible."""
        births: list[Step] = []
        for directory in sorted(self._counted | self._born):
            counter = self._seen.births[directory]
            path = under(directory, BIRTHS)
            if counter is None:
                for missing in self._seen.missing[directory]:
                    self._creates.setdefault(missing, Create(missing))
                births.append(Create(path, shared=True))
            elif directory not in self._born:
                births.append(Verify(path, counter.version))
            else:
                births.append(Set(path, b"", counter.version if directory in self._counted else -1))
        creates = sorted(self._creates.values(), key=lambda step: step.path.count("/"))
        return Plan((*self._first, *self._removes, *creates, *births, *self._sets), self._session)
