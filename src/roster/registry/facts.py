"""What the informer keeps of a passport: its raw bytes, and the few facts that lookups and routing need."""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from types import MappingProxyType
from typing import Any

from roster.errors import DocumentError, Fault
from roster.passport import NodePassport
from roster.registry.keys import NODES, NodeKey, split
from roster.registry.status import MAX_COUNT, STATES
from roster.store.base import Entry

CORDONED = "ai-team.dev/cordoned"

# When so many distinct sets of labels or capabilities have been seen, sharing begins anew: it saves memory,
# nothing depends on it.
_MAX_SHARED = 50_000


class Sharing:
    """Hands out one read-only mapping for equal contents: ten thousand writers have one set of labels."""

    def __init__(self) -> None:
        self._shared: dict[tuple[tuple[str, str | bytes | None], ...], Mapping[str, Any]] = {}
        self._declared: dict[bytes, tuple[Mapping[str, str | None], Mapping[str, bytes]]] = {}

    def declared(self, passport: NodePassport) -> tuple[Mapping[str, str | None], Mapping[str, bytes]]:
        """Return the capabilities of a passport with their versions, and how their contracts are written."""
        mark = passport.capabilities_mark
        found = self._declared.get(mark)
        if found is None:
            declared = passport.capabilities
            found = (
                self.share(tuple((capability.name, capability.version) for capability in declared)),
                self.share(tuple((capability.name, capability.spelling) for capability in declared)),
            )
            if len(self._declared) >= _MAX_SHARED:
                self._declared.clear()
            if mark:
                self._declared[mark] = found
        return found

    def share(self, items: tuple[tuple[str, Any], ...]) -> Mapping[str, Any]:
        """Return the mapping of these pairs, the same object each time."""
        found = self._shared.get(items)
        if found is None:
            if len(self._shared) >= _MAX_SHARED:
                self._shared.clear()
            found = self._shared[items] = MappingProxyType(
                {intern(key): intern(value) if isinstance(value, str) else value for key, value in items}
            )
        return found


class Facts:
    """A stored passport: raw bytes and what was taken from them.

    Attributes:
        identity: namespace and name, from the key.
        uid: `metadata.uid`; empty for a document that no registry of ours wrote (a founding-style one).
        generation: `metadata.generation`.
        labels: shared, read-only.
        capabilities: name -> version (the node's own where the capability names none); shared, read-only.
        type: `spec.type`.
        version: `spec.version`.
        queue: where its commands go.
        capacity: `spec.resources.max_concurrent_tasks`, 1 if unset.
        state: `status.state` as the document says it, `ready` if it says nothing, `unknown` for a word that is
            no state of ours.
        active_tasks: `status.active_tasks`, 0 if unset.
        cordoned: the mark of `Registry.drain`, None without it.
        raw: the document's bytes as stored.
        revision: the store's revision that wrote it.
        lease: the lease it is bound to, or None.
        spellings: capability -> how its contract is written (`Capability.spelling`); shared, read-only.
    """

    __slots__ = (
        "active_tasks",
        "capabilities",
        "capacity",
        "cordoned",
        "generation",
        "identity",
        "labels",
        "lease",
        "queue",
        "raw",
        "revision",
        "spellings",
        "state",
        "type",
        "uid",
        "version",
    )

    def __init__(self, identity: NodeKey, passport: NodePassport, entry: Entry, sharing: Sharing) -> None:
        version = passport.version
        status = passport.get("status") or {}
        self.identity = identity
        self.uid: str = passport.uid or ""
        self.generation: int = passport.generation
        self.labels: Mapping[str, str] = sharing.share(tuple(passport.labels.items()))
        self.capabilities: Mapping[str, str | None]
        self.spellings: Mapping[str, bytes]
        self.capabilities, self.spellings = sharing.declared(passport)
        self.type: str = intern(passport.type)
        self.version: str | None = None if version is None else intern(version)
        self.queue: str = passport.mindbus_queue
        self.capacity: int = passport.max_concurrent_tasks
        self.state: str = intern(passport.state) if passport.state in STATES else "unknown"
        self.active_tasks: int = _count(status.get("active_tasks"), entry.key)
        self.cordoned: str | None = passport.annotations.get(CORDONED)
        self.raw: bytes = entry.value
        self.revision: int = entry.mod_revision
        self.lease: str | None = entry.lease


def _count(value: Any, source: str) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise DocumentError(source, [Fault("status.active_tasks", "expected a whole number from 0")])
    return value


def read_facts(entry: Entry, sharing: Sharing) -> Facts:
    """Check a stored passport and take the facts from it.

    Raises:
        DocumentError: it cannot be read, or it says that it is another node than its key does.
    """
    identity = split(entry.key, NODES)
    if identity is None:
        raise DocumentError(
            entry.key, [Fault("", "the key is not /ai-team/nodes/NAMESPACE/NAME of two DNS-1123 labels")]
        )
    try:
        passport = NodePassport.from_stored(entry.value)
    except DocumentError as error:
        raise DocumentError(entry.key, error.faults) from None
    if (passport.namespace, passport.name) != identity:
        raise DocumentError(
            entry.key,
            [Fault("metadata", f"says that it is {passport.key}, but the key is the identity: {identity}")],
        )
    return Facts(identity, passport, entry, sharing)
