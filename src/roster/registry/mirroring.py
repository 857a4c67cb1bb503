"""What one registry should hold as the copy of another: the rules of a migration. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from roster.errors import DocumentError
from roster.registry.facts import Sharing, read_facts
from roster.registry.keys import NODES, STATUS, node_key, split, status_key
from roster.registry.status import MAX_STATUS_BYTES, NodeStatus
from roster.registry.stored import load_object
from roster.store.base import Change, Check, Delete, Entry

Bond = Literal["none", "long", "live"]
"""Which lease a copy is bound to: none, the long one of passports, or the short one that the mirror keeps alive."""

Verdict = Literal["same", "copy", "remove", "theirs", "nothing"]


@dataclass(slots=True)
class Unit:
    """What one side has of a node, or of a key that is no node's: what is decided about at once.

    Attributes:
        document: the passport, or whatever stands under the other key.
        status: the node's status; None where there is none, and for other keys.
    """

    document: Entry | None = None
    status: Entry | None = None


def unit_of(key: str) -> str:
    """Return the name of the unit that a key belongs to: `namespace/name` of a node, else the key itself."""
    identity = split(key, NODES) or split(key, STATUS)
    return key if identity is None else str(identity)


def keys_of(unit: str) -> tuple[str, str | None]:
    """Return the keys of a unit's document and status; other keys have no status."""
    if unit.startswith("/"):
        return unit, None
    namespace, _, name = unit.partition("/")
    return node_key(namespace, name), status_key(namespace, name)


class Image:
    """One side as it was last seen."""

    def __init__(self) -> None:
        self._units: dict[str, Unit] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def get(self, unit: str) -> Unit:
        """Return what is there of a unit."""
        return self._units.get(unit) or Unit()

    def put(self, entry: Entry) -> str:
        """Take an entry in; return its unit."""
        unit = unit_of(entry.key)
        found = self._units.setdefault(unit, Unit())
        if entry.key == keys_of(unit)[0]:
            found.document = entry
        else:
            found.status = entry
        return unit

    def drop(self, key: str) -> str:
        """Forget a key; return its unit."""
        unit = unit_of(key)
        found = self._units.get(unit)
        if found is not None:
            if key == keys_of(unit)[0]:
                found.document = None
            else:
                found.status = None
            if found == Unit():
                del self._units[unit]
        return unit

    def apply(self, changes: Iterable[Change]) -> set[str]:
        """Take the changes of a watch in; return the units that they concern.

        A watch may tell late of what has been written or read here since: what is older than that is passed over.
        """
        return {
            self.drop(change.key) if change.value is None else self.put(entry_of(change))
            for change in changes
            if change.revision >= self._revision_of(change.key)
        }

    def replace(self, entries: Iterable[Entry], revision: int) -> set[str]:
        """Take a whole listing in, as of `revision`; return the units that differ from what was here before."""
        before, self._units = self._units, {}
        for entry in entries:
            self.put(entry)
        for seen in before.values():
            for entry in filter(None, (seen.document, seen.status)):
                if entry.mod_revision > revision:
                    self.put(entry)
        return {
            unit for unit in before.keys() | self._units.keys() if before.get(unit) != self._units.get(unit)
        }

    def _revision_of(self, key: str) -> int:
        found = self.get(unit_of(key))
        entry = found.document if found.document is not None and found.document.key == key else found.status
        return 0 if entry is None or entry.key != key else entry.mod_revision


def entry_of(change: Change) -> Entry:
    """Return the entry that a `put` made."""
    return Entry(change.key, change.value or b"", change.create_revision, change.revision, change.lease)


@dataclass(frozen=True, slots=True)
class Write:
    """One key to be written to the target."""

    key: str
    value: bytes
    bond: Bond


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about one unit.

    Attributes:
        verdict: `same`: nothing, the target has it; `copy`, `remove`: what `steps` say; `theirs`: nothing, it belongs to
            somebody in the target; `nothing`: the source has none.
        steps: all of them in one transaction, or none.
        checks: on condition that the target is as it was seen.
        fault: why the registry cannot use the document that is copied, empty if it can.
    """

    verdict: Verdict
    steps: tuple[Write | Delete, ...] = ()
    checks: tuple[Check, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """How the target is looked at.

    Attributes:
        name: what the source is called in mirrored statuses.
        live: mirror statuses too.
        leases: the mirror's own, None while it has none of that kind.
        adopt: bind to the mirror's leases what another run has bound to its own.
        ours: the target's document was written by this run.
        gone: the bytes that the source's document had before it vanished during this run.
        theirs: somebody in the target has taken the unit over.
    """

    name: str
    live: bool
    leases: Mapping[Bond, str | None]
    adopt: bool = False
    ours: bool = False
    gone: bytes | None = None
    theirs: bool = False


def decide(unit: str, source: Unit, target: Unit, view: View) -> Plan:
    """Compare both sides of one unit.

    Whoever is registered in the target keeps what is theirs: a status there that this mirror's source did not put holds the
    name, and so does a founding-style document with a lease that is not the mirror's.
    """
    bond, fault = _bond(source.document, live=view.live)
    if view.theirs or _held(source, target, view):
        return Plan("nothing" if source.document is None and view.gone is None else "theirs")
    steps: list[Write | Delete] = []
    document_key, key = keys_of(unit)
    if source.document is not None:
        if not _same(source.document.value, bond, target.document, view):
            steps.append(Write(document_key, source.document.value, bond))
    elif target.document is not None and (view.ours or target.document.value == view.gone):
        steps.append(Delete(document_key))
    if view.live and key is not None:
        status = mirrored(source.status, view.name) if source.document is not None else None
        if status is None:
            steps += [Delete(key)] if target.status is not None else []
        elif not _same(status, "live", target.status, view):
            steps.append(Write(key, status, "live"))
    if not steps:
        return Plan("nothing" if source.document is None else "same", fault=fault)
    checks = [Check(document_key, _revision(target.document))]
    if key is not None:
        checks.append(Check(key, _revision(target.status)))
    copies = any(isinstance(step, Write) for step in steps)
    return Plan("copy" if copies else "remove", tuple(steps), tuple(checks), fault)


def uid_of(entry: Entry | None) -> str:
    """Return the incarnation that a document belongs to; empty if none, or if it cannot be read."""
    if entry is None:
        return ""
    try:
        return read_facts(entry, Sharing()).uid
    except DocumentError:
        return ""


def mirrored(status: Entry | None, name: str) -> bytes | None:
    """Return a status as it is mirrored; None where there is none to mirror.

    One that is a mirror's already is not mirrored on: two mirrors in a ring would keep a dead node alive for ever.
    """
    if status is None:
        return None
    try:
        if NodeStatus.decode(status.value, status.key).mirrored_from:
            return None
        data = load_object(status.value, status.key, MAX_STATUS_BYTES)
    except DocumentError:
        return None
    made = json.dumps({**data, "mirrored_from": name}, ensure_ascii=False, separators=(",", ":")).encode()
    return made if len(made) <= MAX_STATUS_BYTES else None


def mirrored_from(status: Entry | None) -> str:
    """Return whose mirror wrote a status, empty if none did."""
    if status is None:
        return ""
    try:
        return NodeStatus.decode(status.value, status.key).mirrored_from
    except DocumentError:
        return ""


def _held(source: Unit, target: Unit, view: View) -> bool:
    """Return whether somebody else lives in the target under this name."""
    if target.status is not None:
        return mirrored_from(target.status) != view.name
    document = target.document
    if document is None or document.lease is None or view.ours or document.lease in view.leases.values():
        return False
    if source.document is not None and document.value == source.document.value:
        return False  # an earlier run's copy
    identity = split(document.key, NODES)
    return identity is not None and not uid_of(document)


def _bond(document: Entry | None, *, live: bool) -> tuple[Bond, str]:
    """Return which lease the copy of a document gets, and why the registry cannot use it."""
    if document is None:
        return "none", ""
    leased: Bond = "none" if document.lease is None else "long"
    if not document.key.startswith(NODES):
        return leased, ""
    try:
        facts = read_facts(document, Sharing())
    except DocumentError as error:
        return leased, "; ".join(fault.message for fault in error.faults)
    if facts.uid:
        return "long", ""
    # A founding-style node lives while its key has a lease: under a long one it would outlive its agent by an hour.
    return ("live" if live and leased == "long" else "none"), ""


def _same(value: bytes, bond: Bond, target: Entry | None, view: View) -> bool:
    if target is None or target.value != value:
        return False
    return bond == "none" or not view.adopt or target.lease == view.leases[bond]


def _revision(entry: Entry | None) -> int:
    return 0 if entry is None else entry.mod_revision
