"""What happened to a node, as watchers and listeners are told it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from roster.passport import NodePassport
from roster.registry.facts import Facts
from roster.registry.record import NodeRecord

EventType = Literal["added", "modified", "ready", "busy", "draining", "unknown", "offline", "removed"]

_STATE_EVENTS: Mapping[str, EventType] = {
    "ready": "ready",
    "busy": "busy",
    "draining": "draining",
    "unknown": "unknown",
    "offline": "offline",
}


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


def kind_of_change(old: NodeRecord | None, new: NodeRecord) -> EventType | None:
    """Return what tells of the change from one record of a node to the next; None if there is nothing to tell."""
    if old is None:
        return "added"
    if old.state != new.state:
        return _STATE_EVENTS.get(new.state, "modified")
    before, after = old._facts, new._facts
    if old._status_raw != new._status_raw and old.status != new.status:
        return "modified"
    if before is after:
        return None
    if (before.uid, before.generation, before.cordoned) != (after.uid, after.generation, after.cordoned):
        return "modified"
    if after.uid:
        return None  # its `status` section was refreshed; the content has the same generation
    return "modified" if _content(before) != _content(after) else None


def _content(facts: Facts) -> dict[str, object]:
    content = NodePassport.from_stored(facts.raw).to_dict()
    content["status"] = facts.active_tasks
    return content
