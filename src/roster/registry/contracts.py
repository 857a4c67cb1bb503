"""Who declares one version of one capability differently from others: worked out where the copy is, when somebody asks.

Taking a node in costs a count for each of its capabilities; nothing is compared before somebody asks, and what was
found is kept until one of those who offer that version changes what it offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from roster.errors import DocumentError
from roster.registry.record import MISMATCH, NodeRecord
from roster.registry.status import Condition

_NAMED = 3  # other nodes that a message names for each digest
_MAX_CAPABILITIES = 8  # that one message speaks of
_SHORT = 12


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One version of a capability that is declared in more than one way.

    Attributes:
        capability: its name.
        version: its version; None where neither capability nor node has one.
        contracts: the nodes (`namespace/name`, in order) under each digest of input and output schema.
    """

    capability: str
    version: str | None
    contracts: Mapping[str, tuple[str, ...]]

    @property
    def title(self) -> str:
        """Capability and version, for people."""
        return f"{self.capability} {self.version or '(no version)'}"

    def said(self) -> str:
        """Return who declares it how, as one clause."""
        return "; ".join(f"{short(digest)} on {_few(keys)}" for digest, keys in self.contracts.items())

    def seen_from(self, key: str) -> str:
        """Return how the others differ from one of the nodes, as one clause."""
        own = next((digest for digest, keys in self.contracts.items() if key in keys), "")
        others = "; ".join(
            f"{short(digest)} on {_few(keys)}" for digest, keys in self.contracts.items() if digest != own
        )
        return f"{self.title} has the contract {short(own)} here, but {others}"


def short(digest: str) -> str:
    """Return so much of a digest as people compare."""
    return digest.removeprefix("sha256:")[:_SHORT]


def _few(keys: tuple[str, ...]) -> str:
    shown = ", ".join(keys[:_NAMED])
    return shown if len(keys) <= _NAMED else f"{shown} and {len(keys) - _NAMED} more"


class _Version:
    """Those who offer one version of one capability: how many declare it in each spelling, and what that comes to."""

    __slots__ = ("found", "known", "spellings")

    def __init__(self) -> None:
        self.spellings: dict[bytes, int] = {}
        self.known = False
        self.found: Mismatch | None = None

    def count(self, spelling: bytes, by: int) -> bool:
        """Count one in or out; return whether nobody is left."""
        left = self.spellings.get(spelling, 0) + by
        if left > 0:
            self.spellings[spelling] = left
        else:
            self.spellings.pop(spelling, None)
        self.known = False
        return not self.spellings


class Contracts:
    """The contracts of all nodes that are not offline.

    Args:
        members: returns the records that offer a capability.
    """

    def __init__(self, members: Callable[[str], Iterable[NodeRecord]]) -> None:
        self._members = members
        self._versions: dict[str, dict[str | None, _Version]] = {}

    def replace(self, old: NodeRecord | None, new: NodeRecord | None) -> None:
        """Take in that a node's record has changed."""
        was = old if old is not None and old.state != "offline" else None
        now = new if new is not None and new.state != "offline" else None
        if was is not None:
            if now is not None and was.spellings is now.spellings and was.capabilities is now.capabilities:
                return  # its load has changed, most likely
            self._count(was, -1)
        if now is not None:
            self._count(now, +1)

    def _count(self, record: NodeRecord, by: int) -> None:
        spellings = record.spellings
        for name, version in record.capabilities.items():
            versions = self._versions.get(name)
            if versions is None:
                versions = self._versions[name] = {}
            found = versions.get(version)
            if found is None:
                found = versions[version] = _Version()
            if found.count(spellings[name], by):
                del versions[version]
                if not versions:
                    del self._versions[name]

    def mismatch(self, capability: str, version: str | None) -> Mismatch | None:
        """Return how a version of a capability is declared, if that is in more than one way."""
        found = self._versions.get(capability, {}).get(version)
        if found is None or len(found.spellings) < 2:
            return None
        if not found.known:
            found.found = self._compare(capability, version)
            found.known = True
        return found.found

    def mismatches(self) -> Iterator[Mismatch]:
        """Return all of them, by capability and version."""
        for name in sorted(self._versions):
            for version in sorted(self._versions[name], key=lambda one: one or ""):
                found = self.mismatch(name, version)
                if found is not None:
                    yield found

    def conditions(self, record: NodeRecord) -> tuple[Condition, ...]:
        """Return the condition that a node's contracts earn it: one, or none."""
        said = []
        for name, version in record.capabilities.items():
            found = self.mismatch(name, version)
            if found is not None:
                said.append(found.seen_from(record.key))
        if not said:
            return ()
        more = f"; and {len(said) - _MAX_CAPABILITIES} more" if len(said) > _MAX_CAPABILITIES else ""
        text = "; ".join(said[:_MAX_CAPABILITIES]) + more
        return (Condition(MISMATCH, "True", "SchemasDiffer", text),)

    def _compare(self, capability: str, version: str | None) -> Mismatch | None:
        digests: dict[bytes, str] = {}
        keys: dict[str, list[str]] = {}
        for record in self._members(capability):
            if record.state == "offline" or record.capabilities.get(capability) != version:
                continue
            spelling = record.spellings[capability]
            digest = digests.get(spelling)
            if digest is None:
                digest = digests[spelling] = contract_digest(record, capability)
            keys.setdefault(digest, []).append(record.key)
        if len(keys) < 2:
            return None  # they spell the same contract differently: the shorthand and the JSON Schema, say
        return Mismatch(capability, version, {digest: tuple(sorted(keys[digest])) for digest in sorted(keys)})


def contract_digest(record: NodeRecord, capability: str) -> str:
    """Return the digest of what a capability takes and gives; `unreadable` if its schemas cannot be read."""
    declared = record.passport.capability(capability)
    try:
        return declared.digest if declared is not None else "unreadable"
    except DocumentError:
        return "unreadable"
