"""What happened to a node, as watchers and listeners are told it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from roster.registry.record import NodeRecord

EventType = Literal["added", "modified", "ready", "busy", "draining", "unknown", "offline", "removed"]


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """One change of one node. Exactly one event tells of each change.

    Attributes:
        type: `added` a node that was not there (whatever its state: see `record.state`); `removed` it is
            not listed any more (`record` is the last that was known); `ready`, `busy`, `draining`,
            `unknown`, `offline` its state is this one now; `modified` anything else (labels, capabilities,
            load, a new incarnation in the same state).
        namespace: of the node.
        name: of the node.
        record: the node after the change.
        revision: the store's revision that the copy had reached, for people: several nodes may change in one.
    """

    type: EventType
    namespace: str
    name: str
    record: NodeRecord
    revision: int

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return self.record.key
